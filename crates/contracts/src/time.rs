//! Times of other producers: any zone in, UTC out.

use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, Utc};
use serde::{Deserialize, Deserializer};

/// Reads an ISO 8601 time of any zone. Without a zone it counts as UTC: that is what Python's
/// `datetime.utcnow().isoformat()` writes.
pub(crate) fn any_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is no ISO 8601 time")))
}

fn parse(text: &str) -> Option<DateTime<Utc>> {
    let time = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.to_utc(),
        Err(_no_zone) => naive(text)?.and_utc(),
    };
    // Databases keep microseconds; texts of other years do not sort by time.
    (1..=9999).contains(&time.year()).then(|| time.trunc_subsecs(6))
}

fn naive(text: &str) -> Option<NaiveDateTime> {
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_becomes_utc() {
        for text in [
            "2026-11-21T10:30:00.123456789Z",
            "2026-11-21T12:30:00.123456+02:00",
            "2026-11-21 05:00:00.123456-05:30",
            "2026-11-21T10:30:00.123456",
            "2026-11-21 10:30:00.123456",
        ] {
            let time = parse(text).map(|time| time.to_rfc3339());
            assert_eq!(time.as_deref(), Some("2026-11-21T10:30:00.123456+00:00"), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-21",
            "9999-12-31T23:59:59-12:00",
            "+12026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
