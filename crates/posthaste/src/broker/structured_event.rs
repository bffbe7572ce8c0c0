//! CloudEvents in structured mode: attributes and data in one JSON object, whatever the transport's own headers say.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use crate::identity::Given;
use crate::message::Message;
use crate::read_time::read_time;

const MEDIA_TYPE: &str = "application/cloudevents+json";

/// Puts the attributes of the event in the body of `message` in their places, and its data in the body's. Returns what it is
/// known by; `None`, and nothing has changed, where the body is no such event.
pub(super) fn unwrap(message: &mut Message) -> Option<Given> {
    let media_type = message.content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(MEDIA_TYPE) {
        return None;
    }
    let mut event: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&message.body).ok()?;
    let mut attribute = |name: &str| text(event.remove(name)?.get());
    attribute("specversion").filter(|version| version.starts_with("1."))?;
    let given = attribute("id").map_or(Given::Nothing, |id| Given::event(&id));
    let source = attribute("source").unwrap_or_default();
    let event_type = attribute("type").unwrap_or_default();
    let content_type = attribute("datacontenttype").unwrap_or_else(|| "application/json".to_owned());
    let made = attribute("time").and_then(time);
    let expires_at = attribute("expirytime").and_then(time);
    let subject = attribute("subject");
    let key = attribute("partitionkey");
    let correlation_id = attribute("correlationid");
    let causation_id = attribute("causationid");
    let traceparent = attribute("traceparent");
    let encoded = attribute("data_base64");
    let body = match event.remove("data") {
        Some(data) => data_bytes(data.get(), &content_type),
        None => STANDARD.decode(encoded?).ok()?,
    };
    let others = event
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), text(value.get())?)));
    message.headers.extend(others);
    message.source = source;
    message.event_type = event_type;
    message.content_type = content_type;
    message.time = made.unwrap_or(message.time);
    message.expires_at = expires_at.or(message.expires_at);
    message.subject = subject.or(message.subject.take());
    // A transport's own key decided where it lies.
    message.key = message.key.take().or(key);
    message.correlation_id = correlation_id.or(message.correlation_id.take());
    message.causation_id = causation_id.or(message.causation_id.take());
    message.traceparent = traceparent.or(message.traceparent.take());
    message.body = body;
    Some(given)
}

/// The value of an attribute; numbers and truth values as they are written.
fn text(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        _ if json == "null" => None,
        _ => Some(json.to_owned()),
    }
}

/// Data of another type than JSON is a string with it.
fn data_bytes(json: &str, content_type: &str) -> Vec<u8> {
    let is_json = content_type.contains("json");
    let inside = if is_json {
        None
    } else {
        serde_json::from_str::<String>(json).ok()
    };
    inside.unwrap_or_else(|| json.to_owned()).into_bytes()
}

fn time(text: String) -> Option<DateTime<Utc>> {
    read_time(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    fn message(content_type: &str, body: &str) -> Message {
        let id = MessageId(uuid::Uuid::nil());
        let mut message = crate::envelope::decode(id, "q".into(), None, None, None, body.as_bytes().to_vec());
        message.content_type = content_type.to_owned();
        message
    }

    #[test]
    fn attributes_and_data_find_their_places() {
        let body = r#"{"specversion":"1.0","id":"1","source":"/a","type":"sale","time":"2026-11-21T12:00:00+02:00",
            "subject":"s","partitionkey":"k","number":7,"none":null,"data":{"n":1.10,"big":123456789012345678901}}"#;
        let mut message = message("application/cloudevents+json; charset=UTF-8", body);
        assert_eq!(unwrap(&mut message), Some(Given::Event("1".to_owned())));
        assert_eq!(message.body, br#"{"n":1.10,"big":123456789012345678901}"#);
        assert_eq!((message.source.as_str(), message.event_type.as_str()), ("/a", "sale"));
        assert_eq!(message.content_type, "application/json");
        assert_eq!(message.time.to_rfc3339(), "2026-11-21T10:00:00+00:00");
        assert_eq!(
            (message.subject.as_deref(), message.key.as_deref()),
            (Some("s"), Some("k"))
        );
        assert_eq!(message.headers.get("number").map(String::as_str), Some("7"));
        assert_eq!(message.headers.len(), 1);
    }

    #[test]
    fn data_may_be_bytes_or_a_text() {
        for (data, expected) in [
            (r#""data_base64":"eyJuIjoxfQ==""#, &b"{\"n\":1}"[..]),
            (r#""datacontenttype":"text/plain","data":"n\n""#, b"n\n"),
        ] {
            let mut message = message(MEDIA_TYPE, &format!(r#"{{"specversion":"1.0","id":"1",{data}}}"#));
            assert!(unwrap(&mut message).is_some());
            assert_eq!(message.body, expected);
        }
    }

    #[test]
    fn what_is_no_such_event_stays_as_it_is() {
        for (content_type, body) in [
            ("application/json", r#"{"specversion":"1.0","id":"1","data":1}"#),
            (MEDIA_TYPE, r#"{"id":"1","data":1}"#),
            (MEDIA_TYPE, r#"{"specversion":"1.0","id":"1"}"#),
            (MEDIA_TYPE, "no JSON"),
            (MEDIA_TYPE, "[]"),
        ] {
            let mut given = message(content_type, body);
            let before = given.clone();
            assert_eq!(unwrap(&mut given), None, "{body}");
            assert_eq!(given, before);
        }
    }
}
