//! Times of other producers: any zone and the common ways to write ISO 8601 in, UTC that every database stores out.

use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, Timelike, Utc};

const NANOS: u32 = 1_000_000_000;

/// Reads an ISO 8601 time of any zone; without a zone it counts as UTC, which is what Python's
/// `datetime.utcnow().isoformat()` writes. Seconds may be missing, as in Java's `OffsetDateTime`, a zone be written `+0200` or
/// `+02`. A leap second is the second after it. `None` for what is no time, or one that some database does not store.
pub fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // Java's ZonedDateTime has the name of the zone behind its offset.
    let text = text.split_once('[').map_or(text, |(time, _zone)| time);
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return storable(time.to_utc());
    }
    let plain = plain(text)?;
    let zoned = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"].into_iter();
    let mut zoned = zoned.filter_map(|format| DateTime::parse_from_str(&plain, format).ok());
    if let Some(time) = zoned.next() {
        return storable(time.to_utc());
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"].into_iter();
    let mut local = local.filter_map(|format| NaiveDateTime::parse_from_str(&plain, format).ok());
    storable(local.next()?.and_utc())
}

/// `text` with `T` before the hours, `.` before a fraction, and its zone, if any, directly behind the time.
fn plain(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let time = time
        .strip_suffix("UTC")
        .map_or(time.to_owned(), |time| time.to_owned() + "Z");
    Some(format!("{date}T{}", time.replace(' ', "").replace(',', ".")))
}

/// `time` as all databases store it: in microseconds, of a year of four digits, without a leap second.
pub(crate) fn storable(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let nanos = time.nanosecond();
    let time = DateTime::from_timestamp(time.timestamp() + i64::from(nanos / NANOS), nanos % NANOS)?;
    (1..=9999).contains(&time.year()).then(|| time.trunc_subsecs(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        read_time(text).map(|time| time.to_rfc3339())
    }

    #[test]
    fn every_zone_becomes_utc() {
        for text in [
            "2026-11-21T10:30:00.123456789Z",
            "2026-11-21T12:30:00.123456+02:00",
            "2026-11-21T12:30:00.123456+0200",
            "2026-11-21T12:30:00.123456+02",
            "2026-11-21T11:30:00.123456+01:00[Europe/Paris]",
            "2026-11-21 05:00:00.123456-05:30",
            "2026-11-21 05:00:00.123456 -0530",
            "2026-11-21 10:30:00.123456 UTC",
            "2026-11-21T10:30:00.123456",
            "2026-11-21T10:30:00,123456",
            "2026-11-21 10:30:00.123456",
        ] {
            let read = read(text);
            assert_eq!(read.as_deref(), Some("2026-11-21T10:30:00.123456+00:00"), "{text}");
        }
    }

    #[test]
    fn seconds_may_be_missing() {
        for text in [
            "2026-11-21T18:00Z",
            "2026-11-21T20:00+02:00",
            "2026-11-21T18:00",
            "2026-11-21T18:00Z[UTC]",
        ] {
            assert_eq!(read(text).as_deref(), Some("2026-11-21T18:00:00+00:00"), "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_the_next_one() {
        for text in [
            "2016-12-31T23:59:60Z",
            "2017-01-01T01:59:60+02:00",
            "2016-12-31T23:59:60",
        ] {
            assert_eq!(read(text).as_deref(), Some("2017-01-01T00:00:00+00:00"), "{text}");
        }
        assert_eq!(
            read("1969-12-31T23:59:59.5Z").as_deref(),
            Some("1969-12-31T23:59:59.500+00:00")
        );
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-21",
            "9999-12-31T23:59:59-12:00",
            "9999-12-31T23:59:60Z",
            "+12026-01-01T00:00:00Z",
            "2026-11-2\u{e9}T00:00:00Z",
        ] {
            assert_eq!(read_time(text), None, "{text}");
        }
    }
}
