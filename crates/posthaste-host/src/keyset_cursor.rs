//! Where a page of a list ended, as the text `cursor` that clients hand back unread.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The sort key of a page's last row: lists go by time and, where times are equal, by id. Unlike an
/// offset it stays right while rows are added in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysetCursor {
    /// The row's time, to the microsecond.
    pub time: DateTime<Utc>,
    /// The row's id.
    pub id: Uuid,
}

/// The text is no cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor that this service gave out")]
pub struct NoCursor;

impl KeysetCursor {
    /// Cuts `rows`, read with a limit of one more than `limit`, to `limit`. The answer is the cursor of
    /// the next page if there is one; `key` is a row's sort key.
    pub fn cut<R>(rows: &mut Vec<R>, limit: usize, key: impl Fn(&R) -> Self) -> Option<String> {
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        rows.last().map(|row| key(row).to_string())
    }
}

impl std::fmt::Display for KeysetCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{}", self.time.timestamp_micros(), self.id.simple())
    }
}

impl FromStr for KeysetCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        // The sign that from_str_radix would take is no hexadecimal digit.
        if text.len() != 48 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NoCursor);
        }
        let (micros, id) = text.split_at(16);
        let micros = u64::from_str_radix(micros, 16)
            .map_err(|_malformed| NoCursor)?
            .cast_signed();
        let time = DateTime::from_timestamp_micros(micros).ok_or(NoCursor)?;
        let id = Uuid::from_str(id).map_err(|_malformed| NoCursor)?;
        Ok(Self { time, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went_also_from_before_1970() {
        for micros in [0, 1_795_257_000_123_456, -1, -62_135_596_800_000_000] {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            let cursor = KeysetCursor {
                time,
                id: Uuid::now_v7(),
            };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn refuses_other_texts() {
        let long = "7".repeat(48);
        for text in [
            "",
            "x",
            "+123456789012345",
            &"g".repeat(48),
            &"é".repeat(24),
            &long[1..],
            &"7fffffffffffffff".repeat(3),
        ] {
            assert_eq!(text.parse::<KeysetCursor>(), Err(NoCursor), "{text}");
        }
    }

    #[test]
    fn a_page_that_is_not_full_has_no_next_one() {
        let key = |id: &u128| KeysetCursor {
            time: DateTime::UNIX_EPOCH,
            id: Uuid::from_u128(*id),
        };
        let mut rows = vec![3, 2, 1];
        let next = KeysetCursor::cut(&mut rows, 2, key);
        assert_eq!(rows, [3, 2]);
        assert_eq!(next, Some(key(&2).to_string()));
        assert_eq!(KeysetCursor::cut(&mut rows, 2, key), None);
    }
}
