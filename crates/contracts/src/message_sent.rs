use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use posthaste::message::MessageId;
use posthaste::{Event, correlation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::details::Details;
use crate::object::object_only;
use crate::text::{check_line, check_text};
use crate::time::any_zone;

/// A message was sent: the envelope that other producers on the topic use too.
///
/// What they leave out has a default; members beyond these are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct MessageSent {
    /// Identity of the event; ours is the message id. Other producers' need not be UUIDs.
    pub event_id: String,
    /// Always [`MessageSent::TYPE`].
    pub event_type: String,
    /// Ours is `1.0`; any `1.x` is understood.
    #[serde(default = "version")]
    pub event_version: String,
    /// When it happened.
    #[serde(deserialize_with = "any_zone")]
    pub occurred_at: DateTime<Utc>,
    /// The same through a whole chain of requests and messages.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// The message whose handling caused this one.
    #[serde(default)]
    pub causation_id: Option<String>,
    /// Who published it.
    #[serde(default)]
    pub source_service: String,
    /// What was sent.
    pub payload: SentMessage,
    /// `application/json`.
    #[serde(default = "json")]
    pub content_type: String,
    /// `1.0`.
    #[serde(default = "version")]
    pub schema_version: String,
}

object_only!(MessageSent);

/// The message inside [`MessageSent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SentMessage {
    /// Identity of the message, whatever event brings it.
    pub message_id: Uuid,
    /// Its text.
    pub content: String,
    /// Who sent it; messages of one sender keep their order.
    pub sender: String,
    /// When it was sent.
    #[serde(deserialize_with = "any_zone")]
    pub timestamp: DateTime<Utc>,
    /// Details, an object or `null`.
    #[serde(default)]
    pub metadata: Option<Details>,
}

object_only!(SentMessage);

fn version() -> String {
    "1.0".to_owned()
}

fn json() -> String {
    "application/json".to_owned()
}

impl MessageSent {
    /// Most characters of a sender that the table holds; the HTTP route allows fewer.
    pub const SENDER_CHARACTERS: usize = 255;
    /// Most characters of the content of other producers; the HTTP route allows fewer.
    pub const CONTENT_CHARACTERS: usize = 65_536;

    /// The event that `message` was sent by `source_service`. `id` becomes its event id and should
    /// be the message's own. Other consumers take only a UUID as `correlation_id`: another one is left out of the
    /// envelope and travels in the header.
    pub fn new(id: MessageId, message: SentMessage, correlation_id: Option<String>, source_service: &str) -> Self {
        let correlation_id = correlation_id.filter(|id| Uuid::parse_str(id).is_ok());
        Self {
            event_id: id.to_string(),
            event_type: Self::TYPE.to_owned(),
            event_version: version(),
            occurred_at: message.timestamp,
            correlation_id,
            causation_id: None,
            source_service: source_service.to_owned(),
            payload: message,
            content_type: json(),
            schema_version: version(),
        }
    }

    /// Its JSON with times that have no zone, which are UTC: what consumers take whose columns have none.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn without_zones(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        for (pointer, time) in [
            ("/occurred_at", self.occurred_at),
            ("/payload/timestamp", self.payload.timestamp),
        ] {
            if let Some(member) = value.pointer_mut(pointer) {
                *member = time.naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string().into();
            }
        }
        serde_json::to_vec(&value)
    }
}

impl Event for MessageSent {
    const TYPE: &'static str = "MessageSentIntegrationEvent";
    const TOPIC: &'static str = "integration-events.message_sent";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.payload.sender.clone())
    }

    fn dedup_key(&self) -> Option<String> {
        Some(self.event_id.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.event_type != Self::TYPE {
            return Err(format!("event_type must be {}", Self::TYPE));
        }
        if !self.event_version.starts_with("1.") {
            return Err("event_version must be 1.x".to_owned());
        }
        check_line(&self.event_id, 255).map_err(|rule| rule.of("event_id"))?;
        check_line(&self.payload.sender, Self::SENDER_CHARACTERS).map_err(|rule| rule.of("payload.sender"))?;
        check_text(&self.payload.content, Self::CONTENT_CHARACTERS).map_err(|rule| rule.of("payload.content"))?;
        match self.payload.metadata.as_ref().map(Details::check) {
            Some(Err(rule)) => Err(rule.of("payload.metadata")),
            _ => Ok(()),
        }
    }

    fn headers(&self, headers: &mut BTreeMap<String, String>) {
        let mut put = |name: &str, value: &str| headers.insert(name.to_owned(), value.to_owned());
        put("event_type", &self.event_type);
        put("event_id", &self.event_id);
        put("event_version", &self.event_version);
        put("source_service", &self.source_service);
        if let Some(id) = correlation::current().or_else(|| self.correlation_id.clone()) {
            put("correlation_id", &id);
        }
    }
}

#[cfg(test)]
mod tests {
    use posthaste::message::Message;
    use serde_json::{Value, json};

    use super::*;

    fn ours() -> MessageSent {
        let id = MessageId::new();
        let message = SentMessage {
            message_id: id.0,
            content: "Hello".to_owned(),
            sender: "ann".to_owned(),
            timestamp: posthaste::message::now(),
            metadata: None,
        };
        let correlation = Some("0d9a1b7c-0000-4000-8000-000000000001".to_owned());
        MessageSent::new(id, message, correlation, "messages")
    }

    #[test]
    fn only_a_uuid_correlates_in_the_envelope() {
        let event = ours();
        assert!(event.correlation_id.is_some());
        let other = MessageSent::new(
            MessageId::new(),
            event.payload,
            Some("request-1".to_owned()),
            "messages",
        );
        assert_eq!(other.correlation_id, None);
    }

    #[test]
    fn times_without_zones_are_read_as_the_same_times() {
        let event = ours();
        let body = event.without_zones().expect("JSON");
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        for pointer in ["/occurred_at", "/payload/timestamp"] {
            let text = value.pointer(pointer).and_then(Value::as_str).expect("a time");
            assert!(text.len() == 26 && !text.ends_with('Z'), "{text}");
        }
        assert_eq!(serde_json::from_slice::<MessageSent>(&body).expect("reads back"), event);
    }

    #[test]
    fn the_value_has_the_members_of_the_envelope() {
        let body = serde_json::to_value(ours()).expect("JSON");
        let mut members: Vec<&str> = body
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        members.sort_unstable();
        assert_eq!(
            members,
            [
                "causation_id",
                "content_type",
                "correlation_id",
                "event_id",
                "event_type",
                "event_version",
                "occurred_at",
                "payload",
                "schema_version",
                "source_service"
            ]
        );
        assert_eq!(body["event_type"], "MessageSentIntegrationEvent");
        assert_eq!(body["event_version"], "1.0");
        assert_eq!(body["payload"]["metadata"], Value::Null);
    }

    #[test]
    fn the_headers_repeat_the_envelope_and_the_key_is_the_sender() {
        let event = ours();
        let message = Message::of(&event).expect("JSON");
        assert_eq!(message.key.as_deref(), Some("ann"));
        let names: Vec<&str> = message.headers.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "correlation_id",
                "event_id",
                "event_type",
                "event_version",
                "source_service"
            ]
        );
        assert_eq!(message.headers["event_id"], event.event_id);
    }

    fn foreign() -> Value {
        json!({"event_id": "evt-17", "event_type": "MessageSentIntegrationEvent", "occurred_at": "2026-11-21T12:00:00+02:00",
            "payload": {"message_id": "01939a3e-7c4b-7b5e-9d6f-2f1f1e5a0c11", "content": "Hi", "sender": "bob",
                "timestamp": "2026-11-21T12:00:00+02:00"}})
    }

    #[test]
    fn another_producers_envelope_is_accepted_and_its_time_becomes_utc() {
        let event: MessageSent = serde_json::from_value(foreign()).expect("decodes");
        assert_eq!(event.validate(), Ok(()));
        assert_eq!(event.dedup_key().as_deref(), Some("evt-17"));
        assert_eq!(event.payload.timestamp.to_rfc3339(), "2026-11-21T10:00:00+00:00");
        assert_eq!(event.event_version, "1.0");
    }

    #[test]
    fn refuses_what_is_another_event_or_breaks_a_rule() {
        for (pointer, value) in [
            ("/event_type", json!("OrderProcessed")),
            ("/event_id", json!("")),
            ("/occurred_at", json!("now")),
            (
                "/payload",
                json!([
                    "01939a3e-7c4b-7b5e-9d6f-2f1f1e5a0c11",
                    "Hi",
                    "bob",
                    "2026-11-21T12:00:00Z",
                    null
                ]),
            ),
            ("/payload/message_id", json!("17")),
            ("/payload/content", json!("")),
            ("/payload/content", json!("a\0")),
            ("/payload/sender", json!("a\nb")),
            ("/payload/sender", json!("x".repeat(256))),
            ("/payload/timestamp", json!(1_700_000_000)),
        ] {
            let mut body = foreign();
            *body.pointer_mut(pointer).expect("a member") = value.clone();
            let refused = match serde_json::from_value::<MessageSent>(body) {
                Ok(event) => event.validate().is_err(),
                Err(_) => true,
            };
            assert!(refused, "{pointer} {value}");
        }
        let mut versioned = foreign();
        versioned["event_version"] = json!("2.0");
        let event: MessageSent = serde_json::from_value(versioned).expect("decodes");
        assert!(event.validate().is_err());
    }
}
