//! A message's attributes as AMQP properties and headers, in CloudEvents binary mode; and what a foreign producer
//! gave, as far as it can be understood. Nothing a producer writes there can lose the message.

use chrono::{DateTime, SecondsFormat, Utc};
use lapin::BasicProperties;
use lapin::message::Delivery as Arrived;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::broker::structured_event;
use crate::identity::Given;
use crate::message::{Message, MessageId, now};
use crate::read_time::read_time;

const PERSISTENT: u8 = 2;
const PREFIX: &str = "cloudEvents_";
/// What the specification allows beside it.
const OTHER_PREFIX: &str = "cloudEvents:";
const JSON: &str = "application/json";
const TRACE: &str = "traceparent";
/// What RabbitMQ has done with the message before.
const DEATHS: &str = "x-death";

/// The properties of `message`, or why RabbitMQ cannot carry it; `limit` in bytes.
pub(super) fn encode(message: &Message, limit: usize) -> Result<BasicProperties, String> {
    let mut headers = Headers {
        table: FieldTable::default(),
        size: 512,
    };
    let id = message.id.to_string();
    let time = message.time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let expires = message
        .expires_at
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true));
    headers.attribute("specversion", Some("1.0"))?;
    headers.attribute("id", Some(&id))?;
    headers.attribute("source", Some(&message.source))?;
    headers.attribute("type", Some(&message.event_type))?;
    headers.attribute("time", Some(&time))?;
    headers.attribute("subject", message.subject.as_deref())?;
    headers.attribute("datacontenttype", Some(&message.content_type))?;
    headers.attribute("correlationid", message.correlation_id.as_deref())?;
    headers.attribute("causationid", message.causation_id.as_deref())?;
    headers.attribute("partitionkey", message.key.as_deref())?;
    headers.attribute("traceparent", message.traceparent.as_deref())?;
    headers.attribute("expirytime", expires.as_deref())?;
    if let Some(trace) = &message.traceparent {
        // Under this name other clients' instrumentation looks for it.
        headers.insert(TRACE, trace)?;
    }
    for (name, value) in &message.headers {
        if name == TRACE {
            continue;
        }
        if name == DEATHS {
            // RabbitMQ writes into that one, and it is a table there.
            headers.insert("posthaste-x-death", value)?;
            continue;
        }
        if matches!(name.as_str(), "CC" | "BCC") {
            return Err(format!("RabbitMQ takes a header {name} for further queues"));
        }
        headers.insert(name, value)?;
    }
    if headers.size > limit {
        return Err(format!("its headers take more than {limit} bytes"));
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.into())
        .with_headers(headers.table);
    if let Ok(seconds) = u64::try_from(message.time.timestamp()) {
        properties = properties.with_timestamp(seconds);
    }
    // What is too long for a property is in the headers all the same.
    if let Ok(kind) = ShortString::try_new(message.event_type.as_str()) {
        properties = properties.with_type(kind);
    }
    if let Ok(content_type) = ShortString::try_new(message.content_type.as_str()) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(Ok(id)) = message.correlation_id.as_deref().map(ShortString::try_new) {
        properties = properties.with_correlation_id(id);
    }
    Ok(properties)
}

struct Headers {
    table: FieldTable,
    size: usize,
}

impl Headers {
    fn attribute(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        match value {
            Some(value) if !value.is_empty() => self.insert(&format!("{PREFIX}{name}"), value),
            _ => Ok(()),
        }
    }

    fn insert(&mut self, name: &str, value: &str) -> Result<(), String> {
        let short =
            ShortString::try_new(name).map_err(|error| format!("a header has no name AMQP can carry: {error}"))?;
        // A length before each and the value's type between.
        self.size = self.size.saturating_add(name.len() + value.len() + 6);
        self.table.insert(short, AMQPValue::LongString(LongString::from(value)));
        Ok(())
    }
}

/// The message that arrived for `topic`, and what its producer gave it to be known by.
pub(super) fn decode(arrived: Arrived, topic: &str, ordered: bool) -> (Message, Given) {
    let properties = &arrived.properties;
    let mut message = Message {
        id: MessageId(uuid::Uuid::nil()),
        source: String::new(),
        event_type: own(properties.kind()).unwrap_or_default(),
        topic: topic.to_owned(),
        key: None,
        subject: None,
        time: properties.timestamp().and_then(in_seconds).unwrap_or_else(now),
        content_type: own(properties.content_type()).unwrap_or_else(|| JSON.to_owned()),
        correlation_id: own(properties.correlation_id()),
        causation_id: None,
        traceparent: None,
        expires_at: None,
        ordered,
        headers: std::collections::BTreeMap::new(),
        body: Vec::new(),
    };
    let mut given = Given::Nothing;
    let mut trace = None;
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    for (name, value) in headers.into_iter().flatten() {
        let name = name.as_str();
        let attribute = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(OTHER_PREFIX));
        let nested = || {
            attribute
                .is_none()
                .then(|| json(value))
                .flatten()
                .map(|json| json.to_string())
        };
        let Some(text) = text(value).or_else(nested) else {
            continue;
        };
        match attribute {
            Some("specversion") => {}
            Some("id") => given = given.or_else(|| Given::event(&text)),
            Some("source") => message.source = text,
            Some("type") => message.event_type = text,
            Some("time") => message.time = time(value, &text).unwrap_or(message.time),
            Some("subject") => message.subject = Some(text),
            Some("datacontenttype") => message.content_type = text,
            Some("correlationid") => message.correlation_id = Some(text),
            Some("causationid") => message.causation_id = Some(text),
            Some("partitionkey") => message.key = Some(text),
            Some("traceparent") => message.traceparent = Some(text),
            Some("expirytime") => message.expires_at = time(value, &text),
            None if name == TRACE => trace = Some(text),
            Some(_) | None => {
                message.headers.insert(name.to_owned(), text);
            }
        }
    }
    message.traceparent = message.traceparent.or(trace);
    given = given.or_else(|| of_property(properties));
    message.body = arrived.data;
    let given = structured_event::unwrap(&mut message)
        .unwrap_or(Given::Nothing)
        .or_else(|| given);
    (message, given)
}

/// What its reader may tell the delivery by while it is in hand.
pub(super) fn hint(arrived: &Arrived) -> Option<MessageId> {
    let properties = &arrived.properties;
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    let of_header = |prefix: &str| {
        let id = headers.and_then(|headers| text(headers.get(format!("{prefix}id").as_str())?));
        id.map_or(Given::Nothing, |id| Given::event(&id))
    };
    let given = of_header(PREFIX).or_else(|| of_header(OTHER_PREFIX));
    given.or_else(|| of_property(properties)).hint()
}

fn of_property(properties: &BasicProperties) -> Given {
    let id = properties.message_id().as_ref();
    id.map_or(Given::Nothing, |id| Given::id(id.as_str()))
}

fn own(value: &Option<ShortString>) -> Option<String> {
    let text = value.as_ref()?.as_str();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What a header's value is as text; tables, lists and bytes have none.
fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.to_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => return None,
    })
}

/// A list or table as JSON, without what has no form there.
fn json(value: &AMQPValue) -> Option<serde_json::Value> {
    match value {
        AMQPValue::FieldArray(list) => Some(list.as_slice().iter().filter_map(json).collect()),
        AMQPValue::FieldTable(table) => {
            let members = table.inner().iter();
            Some(
                members
                    .filter_map(|(name, value)| Some((name.to_string(), json(value)?)))
                    .collect(),
            )
        }
        AMQPValue::Boolean(value) => Some((*value).into()),
        AMQPValue::LongLongInt(value) => Some((*value).into()),
        AMQPValue::LongInt(value) => Some((*value).into()),
        AMQPValue::Timestamp(seconds) => Some((*seconds).into()),
        other => text(other).map(Into::into),
    }
}

fn time(value: &AMQPValue, text: &str) -> Option<DateTime<Utc>> {
    match value {
        AMQPValue::Timestamp(seconds) => in_seconds(*seconds),
        _ => read_time(text),
    }
}

fn in_seconds(seconds: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
}

#[cfg(test)]
mod tests {
    use lapin::message::Delivery as Arrived;
    use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable};
    use lapin::{BasicProperties, types::ShortString};

    use super::{decode, encode};
    use crate::identity::Given;
    use crate::message::{Message, MessageId};

    fn arrived(properties: BasicProperties, data: Vec<u8>) -> Arrived {
        let mut arrived = Arrived::mock(1, "".into(), "q".into(), false, data);
        arrived.properties = properties;
        arrived
    }

    fn message() -> Message {
        crate::envelope::decode(MessageId::new(), "q".into(), None, None, None, b"{}".to_vec())
    }

    #[test]
    fn attributes_come_back_and_long_ones_stay_headers() {
        let mut sent = message();
        sent.event_type = "t".repeat(1000);
        sent.key = Some("ключ".to_owned());
        sent.subject = Some("s".repeat(300));
        sent.expires_at = Some(crate::message::now());
        sent.headers.insert("x-one".to_owned(), "ü".to_owned());
        let properties = encode(&sent, 100_000).unwrap();
        let (mut back, given) = decode(arrived(properties, sent.body.clone()), "q", false);
        assert_eq!(given, Given::Unique(sent.id.0));
        back.id = sent.id;
        assert_eq!(back, sent);
    }

    #[test]
    fn a_plain_traceparent_is_read_and_sent() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(trace.into()));
        let (message, _) = decode(
            arrived(BasicProperties::default().with_headers(headers), vec![]),
            "q",
            false,
        );
        assert_eq!(message.traceparent.as_deref(), Some(trace));
        let sent = encode(&message, 100_000).unwrap();
        let headers = sent.headers().as_ref().unwrap().inner();
        for name in ["traceparent", "cloudEvents_traceparent"] {
            assert_eq!(headers.get(name), Some(&AMQPValue::LongString(trace.into())), "{name}");
        }
    }

    #[test]
    fn what_rabbitmq_did_before_is_kept_as_json() {
        let mut death = FieldTable::default();
        death.insert("queue".into(), AMQPValue::LongString("orders".into()));
        death.insert("count".into(), AMQPValue::LongLongInt(3));
        let mut deaths = FieldArray::default();
        deaths.push(AMQPValue::FieldTable(death));
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        let (message, _) = decode(
            arrived(BasicProperties::default().with_headers(headers), vec![]),
            "q",
            false,
        );
        assert_eq!(message.headers["x-death"], r#"[{"count":3,"queue":"orders"}]"#);
        let sent = encode(&message, 100_000).unwrap();
        let headers = sent.headers().as_ref().unwrap().inner();
        assert!(headers.contains_key("posthaste-x-death") && !headers.contains_key("x-death"));
    }

    #[test]
    fn what_amqp_cannot_carry_is_said() {
        let mut message = message();
        message.headers.insert("n".repeat(256), "v".to_owned());
        assert!(encode(&message, 100_000).unwrap_err().contains("header"));
        message.headers.clear();
        message.headers.insert("n".to_owned(), "v".repeat(100_000));
        assert!(encode(&message, 100_000).unwrap_err().contains("100000 bytes"));
        for (name, carried) in [("CC", false), ("BCC", false), ("cc", true)] {
            message.headers.clear();
            message.headers.insert(name.to_owned(), "elsewhere".to_owned());
            assert_eq!(encode(&message, 100_000).is_ok(), carried, "{name}");
        }
    }

    #[test]
    fn a_body_alone_is_a_message_without_id() {
        let (message, given) = decode(arrived(BasicProperties::default(), b"{}".to_vec()), "q", false);
        assert_eq!(given, Given::Nothing);
        assert_eq!(
            (message.content_type.as_str(), message.body.as_slice()),
            (super::JSON, &b"{}"[..])
        );
    }

    #[test]
    fn foreign_headers_of_any_type_are_taken_or_left() {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("cloudEvents_id", AMQPValue::LongLongInt(7)),
            ("cloudEvents_time", AMQPValue::Boolean(true)),
            ("cloudEvents_source", AMQPValue::FieldTable(FieldTable::default())),
            ("cloudEvents:subject", AMQPValue::LongString("s".into())),
            ("cloudEvents_expirytime", AMQPValue::Double(1.5)),
            (
                "cloudEvents_partitionkey",
                AMQPValue::ByteArray(ByteArray::from(vec![0xff, 0])),
            ),
            ("cloudEvents_type", AMQPValue::LongString(vec![0xff_u8, 0xfe].into())),
            ("x-death", AMQPValue::FieldArray(FieldArray::default())),
            ("x-count", AMQPValue::ShortInt(-3)),
        ] {
            headers.insert(ShortString::try_new(name).unwrap(), value);
        }
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_timestamp(u64::MAX);
        let (message, given) = decode(arrived(properties, vec![0xff]), "q", false);
        assert_eq!(given, Given::Event("7".to_owned()));
        assert_eq!(message.subject.as_deref(), Some("s"));
        assert_eq!(
            (message.source.as_str(), message.key, message.expires_at),
            ("", None, None)
        );
        assert_eq!(message.headers.get("x-count").map(String::as_str), Some("-3"));
        assert_eq!(message.headers.get("x-death").map(String::as_str), Some("[]"));
        assert_eq!(message.headers.len(), 2);
    }

    #[test]
    fn an_empty_id_is_none() {
        let mut headers = FieldTable::default();
        headers.insert("cloudEvents_id".into(), AMQPValue::LongString("".into()));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("".into());
        let arrived = arrived(properties, vec![]);
        assert_eq!(super::hint(&arrived), None);
        assert_eq!(decode(arrived, "q", false).1, Given::Nothing);
    }

    #[test]
    fn the_attribute_goes_before_the_property() {
        let mut headers = FieldTable::default();
        headers.insert("cloudEvents_id".into(), AMQPValue::LongString("event".into()));
        let property = BasicProperties::default().with_message_id("mine".into());
        let both = arrived(property.clone().with_headers(headers), vec![]);
        assert_eq!(super::hint(&both), Some(MessageId::from_foreign("event")));
        assert_eq!(decode(both, "q", false).1, Given::Event("event".to_owned()));
        let alone = arrived(property, vec![]);
        assert_eq!(decode(alone, "q", false).1, Given::Id("mine".to_owned()));
    }
}
