//! Which text is accepted, by the HTTP routes and from the queues alike.

use std::fmt;

use serde_json::{Map, Value};

/// A rule that a value broke: a sentence without its subject, for example "must not be empty".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenRule(String);

impl fmt::Display for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl BrokenRule {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The rule with the name of what broke it.
    pub(crate) fn of(self, name: &str) -> String {
        format!("{name} {self}")
    }
}

/// One line: 1 to `longest` characters, none of them a control character.
///
/// # Errors
/// The broken rule.
pub fn check_line(text: &str, longest: usize) -> Result<(), BrokenRule> {
    length(text, longest)?;
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(control(c)),
        None => Ok(()),
    }
}

/// Text: 1 to `longest` characters; of the control characters only tab and line ends.
///
/// # Errors
/// The broken rule.
pub fn check_text(text: &str, longest: usize) -> Result<(), BrokenRule> {
    length(text, longest)?;
    plain(text)
}

/// An object whose keys and texts, however deep, hold no control character but tab and line ends: a
/// database's JSON column refuses U+0000, and the row would never be written.
///
/// # Errors
/// The broken rule.
pub(crate) fn check_json(object: &Map<String, Value>) -> Result<(), BrokenRule> {
    // The decoder has bounded the depth.
    object.iter().try_for_each(|(key, value)| {
        plain(key)?;
        check_value(value)
    })
}

/// As [`check_json`] for an array.
pub(crate) fn check_items(items: &[Value]) -> Result<(), BrokenRule> {
    items.iter().try_for_each(check_value)
}

fn check_value(value: &Value) -> Result<(), BrokenRule> {
    match value {
        Value::String(text) => plain(text),
        Value::Array(items) => items.iter().try_for_each(check_value),
        Value::Object(object) => check_json(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn length(text: &str, longest: usize) -> Result<(), BrokenRule> {
    if text.is_empty() {
        return Err(BrokenRule("must not be empty".to_owned()));
    }
    // A character has at least one byte: most texts need no count.
    if text.len() > longest && text.chars().count() > longest {
        return Err(BrokenRule(format!("must have at most {longest} characters")));
    }
    Ok(())
}

fn plain(text: &str) -> Result<(), BrokenRule> {
    match text
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        Some(c) => Err(control(c)),
        None => Ok(()),
    }
}

fn control(c: char) -> BrokenRule {
    BrokenRule(format!("must not contain the control character U+{:04X}", u32::from(c)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_characters_not_bytes() {
        assert_eq!(check_line(&"é".repeat(100), 100), Ok(()));
        assert!(check_line(&"é".repeat(101), 100).is_err());
        assert!(check_line("", 100).is_err());
    }

    #[test]
    fn a_line_has_no_control_characters_and_a_text_only_tab_and_line_ends() {
        for c in ['\0', '\x1b', '\x7f', '\u{85}'] {
            let text = format!("a{c}");
            assert!(check_line(&text, 9).is_err() && check_text(&text, 9).is_err(), "{c:?}");
        }
        assert!(check_line("a\tb", 9).is_err() && check_line("a\nb", 9).is_err());
        assert_eq!(check_text("a\tb\r\nc", 9), Ok(()));
    }

    #[test]
    fn looks_into_keys_and_nested_texts() {
        let bad = [json!({"a\0": 1}), json!({"a": "\0"}), json!({"a": [{"b": ["x\0"]}]})];
        for value in bad {
            let object = value.as_object().cloned().unwrap_or_default();
            assert!(check_json(&object).is_err(), "{value}");
        }
        let good = json!({"a": [1, null, {"b": "x\ny"}]});
        assert_eq!(check_json(good.as_object().unwrap_or(&Map::new())), Ok(()));
    }
}
