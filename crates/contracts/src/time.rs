//! Times of other producers: any zone in, UTC out.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};

/// Reads a time as [`posthaste::read_time()`] does.
pub(crate) fn any_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    posthaste::read_time(&text).ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is no ISO 8601 time")))
}
