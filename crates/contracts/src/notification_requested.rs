use posthaste::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::details::Details;
use crate::object::object_only;
use crate::text::{check_line, check_text};

/// Somebody wants an event about a user recorded. The message id is the event's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct NotificationRequested {
    /// Whom it is about.
    pub user_id: Uuid,
    /// The producer's name for what happened, 1–100 characters.
    pub event_type: String,
    /// What to tell, 1–32 768 bytes.
    pub message: String,
    /// Details, an object or `null`.
    #[serde(default)]
    pub payload: Option<Details>,
}

object_only!(NotificationRequested);

impl NotificationRequested {
    /// Most characters of `event_type`.
    pub const EVENT_TYPE_CHARACTERS: usize = 100;
    /// Most bytes of `message` in UTF-8.
    pub const MESSAGE_BYTES: usize = 32_768;

    /// The broken rules, each with the member that broke it. Both doors, HTTP and queue, ask here.
    pub fn broken_rules(event_type: &str, message: &str, payload: Option<&Details>) -> Vec<(&'static str, String)> {
        let mut broken = Vec::new();
        if let Err(rule) = check_line(event_type, Self::EVENT_TYPE_CHARACTERS) {
            broken.push(("event_type", rule.to_string()));
        }
        if message.len() > Self::MESSAGE_BYTES {
            broken.push(("message", format!("must have at most {} bytes", Self::MESSAGE_BYTES)));
        } else if let Err(rule) = check_text(message, Self::MESSAGE_BYTES) {
            broken.push(("message", rule.to_string()));
        }
        if let Some(Err(rule)) = payload.map(Details::check) {
            broken.push(("payload", rule.to_string()));
        }
        broken
    }
}

impl Event for NotificationRequested {
    const TYPE: &'static str = "NotificationRequested";
    const TOPIC: &'static str = "notification_events";

    fn validate(&self) -> Result<(), String> {
        let broken = Self::broken_rules(&self.event_type, &self.message, self.payload.as_ref());
        match broken.into_iter().next() {
            Some((member, rule)) => Err(format!("{member} {rule}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sample() -> Value {
        json!({"user_id": "550e8400-e29b-41d4-a716-446655440000", "event_type": "user_registered",
            "message": "Welcome!", "payload": {"email": "test@example.com"}})
    }

    fn with(member: &str, value: Value) -> Result<NotificationRequested, String> {
        let mut body = sample();
        body[member] = value;
        let event: NotificationRequested = serde_json::from_value(body).map_err(|error| error.to_string())?;
        event.validate().map(|()| event)
    }

    #[test]
    fn the_body_has_exactly_the_four_members() {
        let event = with("payload", Value::Null).expect("valid");
        let body = serde_json::to_value(&event).expect("JSON");
        let members: Vec<&String> = body.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["event_type", "message", "payload", "user_id"]);
        assert_eq!(body["payload"], Value::Null);
    }

    #[test]
    fn absent_payload_is_null() {
        let mut body = sample();
        body.as_object_mut().expect("an object").remove("payload");
        let event: NotificationRequested = serde_json::from_value(body).expect("decodes");
        assert_eq!(event.payload, None);
    }

    #[test]
    fn keeps_the_bounds() {
        assert!(with("event_type", json!("é".repeat(100))).is_ok());
        assert!(with("message", json!("x".repeat(32_768))).is_ok());
        assert!(with("message", json!("a\tb\nc")).is_ok());
        for (member, value) in [
            ("user_id", json!("nobody")),
            ("user_id", json!(7)),
            ("event_type", json!("")),
            ("event_type", json!("x".repeat(101))),
            ("event_type", json!("a\nb")),
            ("message", json!("")),
            ("message", json!("é".repeat(16_385))),
            ("message", json!("a\0b")),
            ("payload", json!([1])),
            ("payload", json!("text")),
            ("payload", json!({"a": {"b": "\0"}})),
        ] {
            assert!(with(member, value.clone()).is_err(), "{member} {value}");
        }
    }

    #[test]
    fn an_array_is_no_body() {
        let array = r#"["550e8400-e29b-41d4-a716-446655440000", "t", "m", null]"#;
        assert!(serde_json::from_str::<NotificationRequested>(array).is_err());
    }

    #[test]
    fn a_member_that_occurs_twice_is_refused() {
        let twice =
            r#"{"user_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"a","event_type":"b","message":"m"}"#;
        assert!(serde_json::from_str::<NotificationRequested>(twice).is_err());
    }
}
