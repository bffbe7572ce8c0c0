//! A message as a record: CloudEvents attributes as headers in Kafka's binary mode, further headers beside them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};

use crate::broker::structured_event;
use crate::identity::Given;
use crate::message::{KEY_BYTES as MAX_KEY, Message, MessageId, now};
use crate::read_time::read_time;

const CONTENT_TYPE: &str = "content-type";
const TRACE: &str = "traceparent";

/// The header, of a message and never on the wire, with a record's key in hexadecimal digits where the message's key is not
/// the same bytes.
const KEY_BYTES: &str = "posthaste-key-bytes";

/// The key of the record of `message`: a copy of a record has the key that it came with.
pub(super) fn key_of(message: &Message) -> Option<Cow<'_, [u8]>> {
    let came = message.headers.get(KEY_BYTES).and_then(|digits| from_hex(digits));
    came.map(Cow::Owned)
        .or_else(|| message.key.as_deref().map(|key| Cow::Borrowed(key.as_bytes())))
}

/// A record's key as a text. Keys that differ stay different, and `headers` keep what is no text or may not fit a column.
fn key_text(key: &[u8], headers: &mut BTreeMap<String, String>) -> String {
    let text = std::str::from_utf8(key);
    if !text.is_ok_and(|text| text.len() <= MAX_KEY && !text.contains('\0')) {
        headers.insert(KEY_BYTES.to_owned(), hex(key));
    }
    text.map_or_else(|_no_text| format!("hex:{}", hex(key)), str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs
        .map(|pair| if pair.len() == 2 { byte(pair) } else { None })
        .collect()
}

/// The headers of `message`.
pub(super) fn headers_of(message: &Message) -> OwnedHeaders {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let id = message.id.to_string();
    let made = time(message.time);
    let expires = message.expires_at.map(time);
    let attributes = [
        ("ce_specversion", Some("1.0")),
        ("ce_id", Some(id.as_str())),
        ("ce_source", Some(message.source.as_str())),
        ("ce_type", Some(message.event_type.as_str())),
        ("ce_time", Some(made.as_str())),
        ("ce_subject", message.subject.as_deref()),
        ("ce_partitionkey", message.key.as_deref()),
        ("ce_correlationid", message.correlation_id.as_deref()),
        ("ce_causationid", message.causation_id.as_deref()),
        ("ce_traceparent", message.traceparent.as_deref()),
        // Under this name other clients' instrumentation looks for it.
        (TRACE, message.traceparent.as_deref()),
        ("ce_expirytime", expires.as_deref()),
        (CONTENT_TYPE, Some(message.content_type.as_str())),
    ];
    let mut headers = OwnedHeaders::new_with_capacity(attributes.len() + message.headers.len());
    for (key, value) in attributes {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
    }
    for (key, value) in &message.headers {
        // A name with a NUL cannot be written; one of the attributes' would be read as one.
        if !key.contains('\0') && !is_attribute(key) && key != KEY_BYTES {
            headers = headers.insert(Header {
                key,
                value: Some(value.as_str()),
            });
        }
    }
    headers
}

fn is_attribute(name: &str) -> bool {
    name.starts_with("ce_") || name == CONTENT_TYPE || name == TRACE
}

/// The message in a record, and what it is known by: its producer's id, or its place. Whatever the bytes are, this
/// answers: the body decides what becomes of them.
pub(super) fn message_of(record: &BorrowedMessage<'_>, topic: &str) -> (Message, Given) {
    // rdkafka panics at a header whose name is not UTF-8.
    let read = AssertUnwindSafe(|| record.headers().map(texts).unwrap_or_default());
    let headers = catch_unwind(read).unwrap_or_default();
    let millis = record.timestamp().to_millis();
    let written = millis.and_then(DateTime::from_timestamp_millis);
    let mut headers = headers;
    headers.remove(KEY_BYTES);
    let key = record.key().map(|key| key_text(key, &mut headers));
    let (mut message, given) = decode(
        headers,
        topic,
        key,
        written,
        // No value is no body: a tombstone is nobody's contract.
        record.payload().unwrap_or_default().to_vec(),
    );
    let place = || Given::Place {
        partition: record.partition(),
        offset: record.offset(),
    };
    let given = structured_event::unwrap(&mut message)
        .unwrap_or(Given::Nothing)
        .or_else(|| given);
    (message, given.or_else(place))
}

fn texts(headers: &impl Headers) -> BTreeMap<String, String> {
    let all = (0..headers.count()).filter_map(|n| headers.try_get(n));
    let texts = all.filter_map(|header| {
        let value = std::str::from_utf8(header.value?).ok()?;
        Some((header.key.to_owned(), value.to_owned()))
    });
    texts.collect()
}

fn decode(
    mut headers: BTreeMap<String, String>,
    topic: &str,
    key: Option<String>,
    written: Option<DateTime<Utc>>,
    body: Vec<u8>,
) -> (Message, Given) {
    let time = |text: String| read_time(&text);
    let mut attribute = |name: &str| headers.remove(&format!("ce_{name}"));
    let id = attribute("id");
    let source = attribute("source");
    let event_type = attribute("type");
    let subject = attribute("subject");
    let partition_key = attribute("partitionkey");
    let made = attribute("time").and_then(time);
    let expires_at = attribute("expirytime").and_then(time);
    let correlation_id = attribute("correlationid");
    let causation_id = attribute("causationid");
    let traceparent = attribute("traceparent");
    drop(attribute("specversion"));
    let content_type = headers.remove(CONTENT_TYPE);
    let traceparent = traceparent.or(headers.remove(TRACE));
    // Other producers say the same without the prefix, and the handler may want to see it there.
    let plain = |name: &str| headers.get(name).cloned();
    let of_attribute = id.map_or(Given::Nothing, |id| Given::event(&id));
    let given = of_attribute.or_else(|| plain("event_id").map_or(Given::Nothing, |id| Given::id(&id)));
    let message = Message {
        id: MessageId(uuid::Uuid::nil()),
        source: source.or_else(|| plain("source_service")).unwrap_or_default(),
        event_type: event_type.or_else(|| plain("event_type")).unwrap_or_default(),
        topic: topic.to_owned(),
        key: key.or(partition_key),
        subject,
        time: made.or(written).unwrap_or_else(now),
        content_type: content_type.unwrap_or_else(|| "application/json".to_owned()),
        correlation_id: correlation_id.or_else(|| plain("correlation_id")),
        causation_id,
        traceparent,
        expires_at,
        ordered: false,
        headers,
        body,
    };
    (message, given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let mut message = crate::envelope::decode(
            MessageId::new(),
            "t".to_owned(),
            Some("made".to_owned()),
            Some("k".to_owned()),
            None,
            b"{}".to_vec(),
        );
        message.source = "s".to_owned();
        message.subject = Some("about".to_owned());
        message.correlation_id = Some("c".to_owned());
        message.causation_id = Some("cause".to_owned());
        message.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        message.expires_at = Some(now());
        message.headers.insert("mine".to_owned(), "y".to_owned());
        message
    }

    #[test]
    fn every_attribute_comes_back() {
        let sent = message();
        let headers = texts(&headers_of(&sent));
        let (mut back, given) = decode(headers, "t", sent.key.clone(), None, sent.body.clone());
        assert_eq!(given, Given::Unique(sent.id.0));
        back.id = sent.id;
        assert_eq!(back, sent);
    }

    #[test]
    fn a_key_that_is_no_short_text_comes_back_byte_for_byte() {
        let long = "k".repeat(MAX_KEY + 1);
        for key in [
            &b"\x00\x00\x00\x00\x07\xff\xfe"[..],
            b"a\0b",
            long.as_bytes(),
            b"plain",
            b"",
        ] {
            let mut message = message();
            message.key = Some(key_text(key, &mut message.headers));
            message.fit_columns();
            assert_eq!(key_of(&message).as_deref(), Some(key));
            assert!(!texts(&headers_of(&message)).contains_key(KEY_BYTES));
        }
        let mut none = BTreeMap::new();
        assert_ne!(key_text(b"\xff\xfe", &mut none), key_text(b"\xfe\xff", &mut none));
    }

    #[test]
    fn headers_that_would_be_attributes_are_left_out() {
        let mut sent = message();
        sent.headers.insert("ce_id".to_owned(), "other".to_owned());
        sent.headers.insert("a\0b".to_owned(), "x".to_owned());
        let headers = texts(&headers_of(&sent));
        assert_eq!(headers["ce_id"], sent.id.to_string());
        assert_eq!(headers["mine"], "y");
        assert!(!headers.keys().any(|name| name.starts_with('a')));
    }

    #[test]
    fn foreign_headers_serve_where_ours_are_missing() {
        let headers = [
            ("event_id", "evt-1"),
            ("event_type", "Sent"),
            ("correlation_id", "c"),
            ("source_service", "elsewhere"),
            ("ce_time", "soon"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let written = DateTime::from_timestamp_millis(4_102_444_800_000);
        let (message, given) = decode(headers.into(), "t", None, written, Vec::new());
        assert_eq!(given, Given::Id("evt-1".to_owned()));
        assert_eq!(message.event_type, "Sent");
        assert_eq!(message.source, "elsewhere");
        assert_eq!(Some(message.time), written);
        assert_eq!(decode(BTreeMap::new(), "t", None, None, Vec::new()).1, Given::Nothing);
    }
}
