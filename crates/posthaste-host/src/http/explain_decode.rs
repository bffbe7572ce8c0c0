//! Decoding into a type, and saying in our own words which field does not fit.

use serde::de::{DeserializeOwned, Deserializer};
use serde_path_to_error::{Path, Segment};

use super::validate::FieldError;

/// What serde expected, and our words for it.
const EXPECTED: [(&str, &str); 12] = [
    ("a string", "must be a string"),
    ("a borrowed string", "must be a string"),
    ("a boolean", "must be true or false"),
    ("a sequence", "must be an array"),
    ("a map", "must be an object"),
    ("struct ", "must be an object"),
    ("f32", "must be a number"),
    ("f64", "must be a number"),
    ("i", "must be an integer"),
    ("u", "must be an integer"),
    ("a formatted UUID", "must be a UUID"),
    ("a UUID string", "must be a UUID"),
];

/// Decodes JSON. The path to a field is only tracked when decoding failed: a second pass over a bad request
/// costs less than bookkeeping in every good one.
pub(super) fn decode_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, FieldError> {
    serde_json::from_slice(text).or_else(|_untracked| decode(&mut serde_json::Deserializer::from_slice(text)))
}

/// Decodes anything; the error names the field.
pub(super) fn decode<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(from).map_err(|error| explain(error.path(), &error.inner().to_string()))
}

fn explain(path: &Path, text: &str) -> FieldError {
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => {}
        }
    }
    // serde's errors keep nothing but their text; these beginnings are fixed by its documentation of `de::Error`.
    if let Some(field) = quoted(text, "missing field `") {
        pointer.push('/');
        pointer.push_str(field);
        return FieldError::new(pointer, "missing", "is required");
    }
    if quoted(text, "unknown field `").is_some() {
        return FieldError::new(pointer, "unknown_field", "is not known here");
    }
    if quoted(text, "unknown variant `").is_some() {
        return FieldError::new(pointer, "enum", "is not one of the accepted values");
    }
    if text.starts_with("invalid type: ") {
        let expected = text.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
        let words = EXPECTED
            .iter()
            .find(|(theirs, _)| expected.starts_with(theirs))
            .map(|(_, ours)| *ours);
        return FieldError::new(pointer, "type", words.unwrap_or("has the wrong type"));
    }
    if text.starts_with("UUID parsing failed") {
        return FieldError::new(pointer, "uuid", "must be a UUID");
    }
    FieldError::new(pointer, "value", "is not valid")
}

fn quoted<'t>(text: &'t str, beginning: &str) -> Option<&'t str> {
    text.strip_prefix(beginning)?.split('`').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use uuid::Uuid;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only decoding is looked at")]
    struct Body {
        name: String,
        id: Option<Uuid>,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only decoding is looked at")]
    struct Inner {
        count: u8,
        on: bool,
    }

    #[test]
    fn names_the_field_in_our_words() {
        let cases = [
            ("{}", "/name", "missing", "is required"),
            (r#"{"name":7}"#, "/name", "type", "must be a string"),
            (r#"{"name":null}"#, "/name", "type", "must be a string"),
            (r#"{"name":"a","id":"x"}"#, "/id", "uuid", "must be a UUID"),
            (r#"{"name":"a","id":5}"#, "/id", "type", "must be a UUID"),
            (r#"{"name":"a","inner":{}}"#, "/inner", "type", "must be an array"),
            (
                r#"{"name":"a","inner":[{"count":1,"on":true},{"count":"1","on":true}]}"#,
                "/inner/1/count",
                "type",
                "must be an integer",
            ),
            (
                r#"{"name":"a","inner":[{"count":1.5,"on":true}]}"#,
                "/inner/0/count",
                "type",
                "must be an integer",
            ),
            (
                r#"{"name":"a","inner":[{"count":300,"on":true}]}"#,
                "/inner/0/count",
                "value",
                "is not valid",
            ),
            (
                r#"{"name":"a","inner":[{"count":3}]}"#,
                "/inner/0/on",
                "missing",
                "is required",
            ),
            (r#"{"name":"a","inner":[7]}"#, "/inner/0", "type", "must be an object"),
        ];
        for (text, pointer, kind, msg) in cases {
            let error = decode_json::<Body>(text.as_bytes()).unwrap_err();
            assert_eq!(error, FieldError::new(pointer, kind, msg), "{text}");
        }
    }
}
