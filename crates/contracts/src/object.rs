//! Structs that only a JSON object decodes into. Derived code also takes an array whose items come
//! in the order of the fields, which no contract means.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A type with derived code for objects and arrays, of which only the first is wanted.
pub(crate) trait FromObject<'de>: Sized {
    fn from_object<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error>;
}

struct ObjectOf<T>(PhantomData<T>);

impl<'de, T: FromObject<'de>> Visitor<'de> for ObjectOf<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_object(MapAccessDeserializer::new(map))
    }
}

pub(crate) fn decode<'de, D: Deserializer<'de>, T: FromObject<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectOf(PhantomData))
}

/// A member that has to be there although it may be `null` (an `Option` alone may be left out).
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// `Serialize` and `Deserialize` of a struct that derives both with `#[serde(remote = "Self")]`.
macro_rules! object_only {
    ($type:ident) => {
        impl<'de> crate::object::FromObject<'de> for $type {
            fn from_object<D: serde::Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
                $type::deserialize(object)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::object::decode(deserializer)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                // The derived inherent function, not this one.
                $type::serialize(self, serializer)
            }
        }
    };
}

pub(crate) use object_only;
