//! What a person at a terminal sees of a message: everything but its secrets.

use serde_json::Value;

use crate::redact::{HIDDEN, Treatment, text, treatment};

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

/// A message's body as a value. One that has no members to go by is cut like a line of a log.
pub(super) fn body_without_secrets(body: &[u8]) -> Value {
    match serde_json::from_slice(body) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            hide_secrets(&mut value);
            value
        }
        Ok(Value::String(string)) => Value::from(text(&string)),
        Ok(value) => value,
        Err(_not_json) => Value::from(text(&String::from_utf8_lossy(body))),
    }
}

#[cfg(test)]
mod tests {
    use super::{body_without_secrets, hide_secrets};

    #[test]
    fn a_body_that_is_no_json_keeps_its_secrets_too() {
        for (body, shown) in [
            ("user=ann&password=hunter2&n=1", "user=ann&password=***&n=1"),
            (r#"{"token": "hunter2", "n": "#, r#"{"token": "***", "n": "#),
            (r#""password=hunter2""#, "password=***"),
            ("plain words", "plain words"),
        ] {
            assert_eq!(body_without_secrets(body.as_bytes()), shown);
        }
        assert_eq!(body_without_secrets(b"17"), 17);
    }

    #[test]
    fn a_body_keeps_everything_but_its_secrets() {
        let mut body = serde_json::json!({"a": [{"password_hash": "x", "n": 1}], "email": "a@b.c", "token": null});
        hide_secrets(&mut body);
        let expected = serde_json::json!({"a": [{"password_hash": "***", "n": 1}], "email": "a@b.c", "token": null});
        assert_eq!(body, expected);
    }
}
