//! How a message's attributes lie in a row: what queries filter by has a column, the rest is one
//! JSON text, `headers`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::message::{Message, MessageId};
use crate::store::{Row, StoreError};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Envelope {
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    time: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expirytime: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ordered: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

/// The attributes of `message` that have no column.
pub(crate) fn encode(message: &Message) -> String {
    let envelope = Envelope {
        source: message.source.clone(),
        time: Some(message.time),
        subject: message.subject.clone(),
        datacontenttype: (message.content_type != JSON).then(|| message.content_type.clone()),
        correlationid: message.correlation_id.clone(),
        causationid: message.causation_id.clone(),
        traceparent: message.traceparent.clone(),
        expirytime: message.expires_at,
        ordered: message.ordered,
        headers: message.headers.clone(),
    };
    // Strings, times and a map of strings always have a JSON form.
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// `headers` as [`encode`] wrote them, without the time after which nobody wants the message.
pub(crate) fn without_expiry(headers: &str) -> String {
    let Ok(mut envelope) = serde_json::from_str::<Envelope>(headers) else {
        return headers.to_owned();
    };
    envelope.expirytime = None;
    serde_json::to_string(&envelope).unwrap_or_default()
}

const JSON: &str = "application/json";

/// The columns and `headers` of a row as a message. Headers that cannot be read, for example in a row
/// written by hand, leave an envelope without attributes: the body decides what becomes of it.
pub(crate) fn decode(
    id: MessageId,
    topic: String,
    event_type: Option<String>,
    key: Option<String>,
    headers: Option<&str>,
    body: Vec<u8>,
) -> Message {
    let envelope: Envelope = headers
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    Message {
        id,
        source: envelope.source,
        event_type: event_type.unwrap_or_default(),
        topic,
        key,
        subject: envelope.subject,
        time: envelope.time.unwrap_or_else(crate::message::now),
        content_type: envelope.datacontenttype.unwrap_or_else(|| JSON.to_owned()),
        correlation_id: envelope.correlationid,
        causation_id: envelope.causationid,
        traceparent: envelope.traceparent,
        expires_at: envelope.expirytime,
        ordered: envelope.ordered,
        headers: envelope.headers,
        body,
    }
}

/// The message in a row of `outbox_messages` or `inbox_messages`, its id in the column `id`.
pub(crate) fn read(row: &Row, id: &str) -> Result<Message, StoreError> {
    read_with(row, id, row)
}

/// The same where the body is in another row.
pub(crate) fn read_with(row: &Row, id: &str, with_body: &Row) -> Result<Message, StoreError> {
    Ok(decode(
        MessageId(row.uuid(id)?),
        row.get("topic")?,
        row.get("event_type")?,
        row.get("message_key")?,
        row.get::<Option<String>>("headers")?.as_deref(),
        with_body.get("body")?,
    ))
}
