//! What a person at a terminal sees of a message: everything but its secrets.

use serde_json::Value;

use crate::redact::{HIDDEN, Treatment, treatment};

/// Hides the members of `body` whose names tell that they are secrets, at any depth.
pub(super) fn hide_secrets(body: &mut Value) {
    match body {
        Value::Object(members) => {
            for (name, value) in members {
                match treatment(name) {
                    Treatment::Hide if !value.is_null() => *value = HIDDEN.into(),
                    Treatment::Hide | Treatment::MaskEmail | Treatment::Show => hide_secrets(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::hide_secrets;

    #[test]
    fn a_body_keeps_everything_but_its_secrets() {
        let mut body = serde_json::json!({"a": [{"password_hash": "x", "n": 1}], "email": "a@b.c", "token": null});
        hide_secrets(&mut body);
        let expected = serde_json::json!({"a": [{"password_hash": "***", "n": 1}], "email": "a@b.c", "token": null});
        assert_eq!(body, expected);
    }
}
