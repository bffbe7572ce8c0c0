//! Where a page of a list ended, as the text `cursor` that clients hand back unread.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The sort key of a page's last row: lists go by time and, where times are equal, by id. Unlike an
/// offset it stays right while rows are added in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysetCursor<I = Uuid> {
    /// The row's time, to the microsecond.
    pub time: DateTime<Utc>,
    /// The row's id.
    pub id: I,
}

/// An id that a cursor can carry.
pub trait CursorId: Sized {
    /// The id in hexadecimal digits.
    fn hex(&self) -> String;

    /// The id in such digits, if there is one.
    fn of_hex(digits: &str) -> Option<Self>;
}

impl CursorId for Uuid {
    fn hex(&self) -> String {
        self.simple().to_string()
    }

    fn of_hex(digits: &str) -> Option<Self> {
        (digits.len() == 32).then(|| Self::from_str(digits).ok())?
    }
}

impl CursorId for String {
    fn hex(&self) -> String {
        self.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn of_hex(digits: &str) -> Option<Self> {
        let pairs = digits.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let bytes = bytes
            .collect::<Option<Vec<u8>>>()
            .filter(|_| digits.len().is_multiple_of(2))?;
        Self::from_utf8(bytes).ok()
    }
}

/// The text is no cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor that this service gave out")]
pub struct NoCursor;

impl<I: CursorId> KeysetCursor<I> {
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

impl<I: CursorId> std::fmt::Display for KeysetCursor<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{}", self.time.timestamp_micros(), self.id.hex())
    }
}

impl<I: CursorId> FromStr for KeysetCursor<I> {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        // The sign that from_str_radix would take is no hexadecimal digit.
        if text.len() < 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NoCursor);
        }
        let (micros, id) = text.split_at(16);
        let micros = u64::from_str_radix(micros, 16)
            .map_err(|_malformed| NoCursor)?
            .cast_signed();
        let time = DateTime::from_timestamp_micros(micros).ok_or(NoCursor)?;
        let id = I::of_hex(id).ok_or(NoCursor)?;
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
            let cursor = KeysetCursor {
                time,
                id: "órder 1".to_owned(),
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
        for id in ["f", "ff", "c3"] {
            let text = format!("{:016x}{id}", 0);
            assert_eq!(text.parse::<KeysetCursor<String>>(), Err(NoCursor), "{text}");
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
