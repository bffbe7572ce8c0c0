//! One pass over a JSON text that refuses what decoders silently accept: a key twice, control characters,
//! deep nesting, anything but an object.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::validate::{FieldError, has_control_character};

/// Objects and arrays inside each other, the outermost counted.
const DEPTH: usize = 64;

/// Keys that are compared one by one before a hash set is cheaper.
const FEW: usize = 16;

/// Why a text is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not JSON, or goes on after its end; what is known of it, behind "The body ".
    Malformed(String),
    /// It is JSON with something in it that is not accepted.
    Invalid(FieldError),
}

/// Checks `text` as a whole; what passes has one object in it.
pub(super) fn check(text: &[u8]) -> Result<(), Refused> {
    let found = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = Check {
        depth: 0,
        found: &found,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    match (read, found.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(Found { mut path, kind, msg })) => {
            path.reverse();
            Err(Refused::Invalid(FieldError::new(path.concat(), kind, msg)))
        }
        (Err(error), None) => Err(Refused::Malformed(malformed(text, &error))),
    }
}

/// Where `text` ends to be JSON, and the slip that is behind it mostly.
fn malformed(text: &[u8], error: &serde_json::Error) -> String {
    if text.trim_ascii().is_empty() {
        return "is empty; send a JSON object".to_owned();
    }
    if let Err(error) = std::str::from_utf8(text) {
        return format!("is not valid JSON: its byte {} is not UTF-8", error.valid_up_to() + 1);
    }
    if error.is_eof() {
        return "is not valid JSON: it ends too early".to_owned();
    }
    let (line, column) = (error.line(), error.column());
    let lines = text.split(|byte| *byte == b'\n');
    let row = lines.clone().nth(line.saturating_sub(1)).unwrap_or_default();
    let hint = match row.get(column.saturating_sub(1)) {
        Some(b'\'') => " (names and texts stand in double quotes)",
        Some(b'}' | b']') => " (there is a comma or a colon too many before it, or something is missing)",
        _ => "",
    };
    format!("is not valid JSON at line {line}, column {column}{hint}")
}

/// What was found, and the way to it from the inside out.
struct Found {
    path: Vec<String>,
    kind: &'static str,
    msg: &'static str,
}

#[derive(Clone, Copy)]
struct Check<'f> {
    depth: usize,
    found: &'f RefCell<Option<Found>>,
}

impl Check<'_> {
    fn refuse<E: Error>(self, kind: &'static str, msg: &'static str) -> E {
        self.found.replace(Some(Found {
            path: Vec::new(),
            kind,
            msg,
        }));
        E::custom(msg)
    }

    /// Notes that what was found lies below `step`; an error of the parser itself has no place.
    fn below(self, step: impl FnOnce() -> String) {
        if let Some(found) = self.found.borrow_mut().as_mut() {
            found.path.push(step());
        }
    }

    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.depth == 0 {
            Err(self.not_an_object())
        } else {
            Ok(())
        }
    }

    fn not_an_object<E: Error>(self) -> E {
        self.refuse("type", "must be a JSON object")
    }

    fn inside<E: Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH {
            return Err(self.refuse("too_deep", "is nested too deeply"));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }

    fn text<E: Error>(self, text: &str) -> Result<(), E> {
        if has_control_character(text) {
            return Err(self.refuse("control_character", "must not contain control characters"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar()?;
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.depth == 0 {
            return Err(self.not_an_object());
        }
        let inside = self.inside()?;
        let mut index = 0_usize;
        loop {
            match list.next_element_seed(inside) {
                Ok(Some(())) => index += 1,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.below(|| format!("/{index}"));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key(self))? {
            let step = |key: &str| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            if keys.has(&key) {
                let error = self.refuse("duplicate_key", "is given twice");
                self.below(|| step(&key));
                return Err(error);
            }
            if let Err(error) = map.next_value_seed(inside) {
                self.below(|| step(&key));
                return Err(error);
            }
            keys.add(key);
        }
        Ok(())
    }
}

/// A key; borrowed where it has no escapes.
struct Key<'f>(Check<'f>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Self::Value, E> {
        self.0.text(key)?;
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        self.0.text(key)?;
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    fn has(&self, key: &str) -> bool {
        self.few.iter().any(|known| known == key) || self.many.contains(key)
    }

    fn add(&mut self, key: Cow<'de, str>) {
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_and_pointer(text: &str) -> (&'static str, String) {
        match check(text.as_bytes()) {
            Ok(()) => ("ok", String::new()),
            Err(Refused::Malformed(_)) => ("malformed", String::new()),
            Err(Refused::Invalid(field)) => (field.kind, field.pointer.into_owned()),
        }
    }

    #[test]
    fn accepts_objects() {
        for good in [
            r"{}",
            r#" {"a":[1,-2.5e3,true,null,"\u00e9\n\t"],"b":{"a":1}} "#,
            r#"{"a":{"x":1},"b":{"x":1}}"#,
        ] {
            assert_eq!(kind_and_pointer(good).0, "ok", "{good}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        let bad = [
            "",
            " ",
            "{",
            r#"{"a":1,}"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{"a":1}"#,
            "{a:1}",
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
        ];
        for text in bad {
            assert_eq!(kind_and_pointer(text).0, "malformed", "{text}");
        }
        assert!(matches!(check(b"{\"a\":\"\xff\"}"), Err(Refused::Malformed(_))));
        // A raw control character is not JSON at all.
        assert_eq!(kind_and_pointer("{\"a\":\"\u{1}\"}").0, "malformed");
    }

    #[test]
    fn says_where_it_is_not_json() {
        for (text, told) in [
            (&b" \n"[..], "is empty"),
            (b"{\"a\":\"\xff\"}", "its byte 7 is not UTF-8"),
            (b"{\"a\":1", "it ends too early"),
            (b"{'a':1}", "line 1, column 2 (names and texts stand in double quotes)"),
            (
                b"{\n \"a\":1,\n}",
                "line 3, column 1 (there is a comma or a colon too many",
            ),
            (b"{\"a\":1}x", "line 1, column 8"),
            (b"{\"a\":secret}", "line 1, column 6"),
        ] {
            let Err(Refused::Malformed(said)) = check(text) else {
                panic!("{text:?} was accepted");
            };
            assert!(said.contains(told) && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn names_the_place_of_what_it_refuses() {
        let cases = [
            (r"[]", "type", ""),
            (r#""text""#, "type", ""),
            ("7", "type", ""),
            ("null", "type", ""),
            (r#"{"a":1,"a":2}"#, "duplicate_key", "/a"),
            (r#"{"a":1,"\u0061":2}"#, "duplicate_key", "/a"),
            (r#"{"x":[{},{"b":1,"b":1}]}"#, "duplicate_key", "/x/1/b"),
            (r#"{"a":"\u0000"}"#, "control_character", "/a"),
            (r#"{"a/b":{"m~n":["","\u001b"]}}"#, "control_character", "/a~1b/m~0n/1"),
            (r#"{"ok":{"\u0000":1}}"#, "control_character", "/ok"),
            (r#"{"a":"\u0085"}"#, "control_character", "/a"),
        ];
        for (text, kind, pointer) in cases {
            assert_eq!(kind_and_pointer(text), (kind, pointer.to_owned()), "{text}");
        }
    }

    #[test]
    fn finds_a_duplicate_among_many_keys() {
        let mut text: Vec<String> = (0..3_000).map(|n| format!("\"k{n}\":0")).collect();
        text.push("\"k2999\":0".to_owned());
        assert_eq!(
            kind_and_pointer(&format!("{{{}}}", text.join(","))),
            ("duplicate_key", "/k2999".to_owned())
        );
    }

    #[test]
    fn counts_depth() {
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(kind_and_pointer(&nested(DEPTH)).0, "ok");
        assert_eq!(kind_and_pointer(&nested(DEPTH + 1)).0, "too_deep");
        assert_eq!(
            kind_and_pointer(&format!("{{\"a\":{}", "[".repeat(60_000))).0,
            "too_deep"
        );
    }
}
