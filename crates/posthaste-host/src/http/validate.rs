//! Rules of a request beyond its types.

use std::borrow::Cow;

use uuid::Uuid;

/// One thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer to the field (`/payload/email`), the parameter's name behind a slash for a query or path.
    pub pointer: Cow<'static, str>,
    /// What is expected, for a person.
    pub msg: Cow<'static, str>,
    /// The same for a machine: `missing`, `type`, `too_long`, …
    pub kind: &'static str,
}

/// A longer pointer has names in it that the client made up; they are not sent back in full.
const POINTER_BYTES: usize = 200;

impl FieldError {
    /// The field at `pointer`, which is cut where it is long, breaks the rule `kind`; `msg` says what is expected.
    pub fn new(pointer: impl Into<Cow<'static, str>>, kind: &'static str, msg: impl Into<Cow<'static, str>>) -> Self {
        let mut pointer = pointer.into();
        if pointer.len() > POINTER_BYTES {
            let cut = pointer.floor_char_boundary(POINTER_BYTES);
            pointer = format!("{}\u{2026}", &pointer[..cut]).into();
        }
        Self {
            pointer,
            msg: msg.into(),
            kind,
        }
    }
}

/// What a decoded request is checked for before the handler sees it.
pub trait Validate {
    /// Adds what is wrong to `errors`; nothing by default.
    fn validate(&self, errors: &mut Vec<FieldError>) {
        let _: &Vec<FieldError> = errors;
    }
}

impl Validate for () {}
impl Validate for Uuid {}
impl Validate for String {}
impl Validate for i64 {}
impl Validate for u64 {}
impl<A, B> Validate for (A, B) {}
impl Validate for serde_json::Value {}

/// Whether `text` has a character no request may carry: controls (U+0000 among them, which PostgreSQL cannot
/// store) except tab and line ends.
pub(super) fn has_control_character(text: &str) -> bool {
    // Bytes first: nearly every text has neither an ASCII control nor the lead byte of U+0080..U+00BF.
    text.bytes().any(|b| b < 0x20 || b == 0x7f || b == 0xc2)
        && text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_seen_and_text_is_not_taken_for_them() {
        for bad in ["\0", "a\u{1}", "\u{7f}", "\u{85}", "\u{1b}[31m"] {
            assert!(has_control_character(bad), "{bad:?}");
        }
        for good in ["", "tab\tline\r\n", "é £ © \u{a0}", "汉字"] {
            assert!(!has_control_character(good), "{good:?}");
        }
    }
}
