//! A message for tests that look at its way and not at what it says.

use std::collections::BTreeMap;

use posthaste::{Message, MessageId};

/// A message of no typed event to `topic`, without an envelope, its body `{}`.
pub fn bare_message(topic: &str, key: Option<&str>) -> Message {
    Message {
        id: MessageId::new(),
        source: String::new(),
        event_type: topic.to_owned(),
        topic: topic.to_owned(),
        key: key.map(str::to_owned),
        subject: None,
        time: posthaste::message::now(),
        content_type: "application/json".to_owned(),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        expires_at: None,
        ordered: false,
        headers: BTreeMap::new(),
        body: b"{}".to_vec(),
    }
}
