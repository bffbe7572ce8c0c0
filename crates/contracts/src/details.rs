use std::borrow::Cow;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::text::{BrokenRule, check_json};

/// A JSON object of a producer's own: its text without blanks between its parts, so that its numbers keep every digit.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Details(Box<RawValue>);

impl Details {
    /// Its JSON text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The rule of all JSON that is stored: no key or text in it, however deep, holds a control character but tab and line ends.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self) -> Result<(), BrokenRule> {
        match serde_json::from_str::<Map<String, Value>>(self.text()) {
            Ok(object) => check_json(&object),
            Err(_) => Err(BrokenRule::new("must be an object of values that JSON readers take")),
        }
    }
}

impl PartialEq for Details {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Err(D::Error::invalid_type(Unexpected::Other("another value"), &"a map"));
        }
        match compact(raw.get()) {
            Cow::Borrowed(_) => Ok(Self(raw)),
            Cow::Owned(text) => RawValue::from_string(text).map(Self).map_err(D::Error::custom),
        }
    }
}

impl TryFrom<&Map<String, Value>> for Details {
    type Error = serde_json::Error;

    fn try_from(object: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(object).map(Self)
    }
}

/// JSON without blanks and line ends between its parts.
fn compact(json: &str) -> Cow<'_, str> {
    let (mut inside, mut escaped) = (false, false);
    let mut between = |c: char| {
        let blank = !inside && c.is_ascii_whitespace();
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        blank
    };
    match json.char_indices().find(|(_, c)| between(*c)) {
        None => Cow::Borrowed(json),
        Some((at, _)) => {
            let (before, rest) = json.split_at(at);
            Cow::Owned(
                before
                    .chars()
                    .chain(rest.chars().skip(1).filter(|c| !between(*c)))
                    .collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<String> {
        let details: Details = serde_json::from_str(json).ok()?;
        Some(details.text().to_owned())
    }

    #[test]
    fn numbers_keep_every_digit_and_texts_every_blank() {
        for json in [
            "{}",
            r#"{"z":123456789012345678901234567890,"a":0.12345678901234567890123}"#,
            r#"{"a":[18446744073709551616,1.10,-0.0,1E5],"b":{"c":" x \" y \\"}}"#,
        ] {
            assert_eq!(read(json).as_deref(), Some(json));
        }
        let loose = " {\n \"a b\" : [ 1 ,\t\" \\\" \\\\\" , 1.10 ] }\r\n";
        assert_eq!(read(loose).as_deref(), Some("{\"a b\":[1,\" \\\" \\\\\",1.10]}"));
        for other in ["[]", "1", "\"{}\"", "null", "{"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn what_no_database_takes_breaks_a_rule() {
        let check = |json: &str| serde_json::from_str::<Details>(json).map(|details| details.check().is_ok());
        assert!(check(r#"{"a":["x"]}"#).is_ok_and(|good| good));
        for bad in [r#"{"a":{"b":"\u0000"}}"#, r#"{"\u0000":1}"#, r#"{"a":1e999}"#] {
            assert!(check(bad).is_ok_and(|good| !good), "{bad}");
        }
    }
}
