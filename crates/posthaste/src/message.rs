//! A message: a plain JSON body and its CloudEvents 1.0 attributes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::contract::Event;
use crate::correlation;
use crate::read_time::storable;
use crate::telemetry;

/// Identity of a message; duplicates are recognised by (subscription, message id).
///
/// Ids that posthaste makes are UUIDv7. What other producers give maps to a UUIDv5 (`identity.rs` has the table), so
/// that their own ids, however long, still recognise duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub Uuid);

/// Longer keys are kept as their hash: equal ones stay equal, which is all that order asks for.
pub(crate) const KEY_BYTES: usize = 512;

const FOREIGN: Uuid = Uuid::from_u128(0x6f0f_9d4e_3c56_4a1b_9d0e_70a5_7e6a_57e1);

/// Apart from [`FOREIGN`]: a body that is no JSON may read like another producer's id.
const BODY: Uuid = Uuid::from_u128(0x9a41_0c5f_7d2e_4b86_8f13_2c60_d1be_9047);

impl MessageId {
    /// A fresh UUIDv7.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id for what a foreign producer calls `id`: parsed if it is a UUID, else a UUIDv5 of it.
    pub fn from_foreign(id: &str) -> Self {
        match Uuid::from_str(id.trim()) {
            Ok(uuid) => Self(uuid),
            Err(_not_a_uuid) => Self(Uuid::new_v5(&FOREIGN, id.as_bytes())),
        }
    }

    /// The id of a message that came without any: a UUIDv5 of its bytes.
    pub fn of_body(body: &[u8]) -> Self {
        Self(Uuid::new_v5(&BODY, body))
    }

    /// The id of the `n`th message that `subscription` publishes while it handles this one.
    ///
    /// The same on every redelivery. It keeps this id's leading 48 bits (the time of a UUIDv7), so
    /// that inserts stay local in an index.
    pub fn derive(self, subscription: &str, n: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update(n.to_be_bytes());
        hash.update(subscription.as_bytes());
        let digest = hash.finalize();
        let mut bytes = [0u8; 16];
        bytes[..6].copy_from_slice(&self.0.as_bytes()[..6]);
        bytes[6..].copy_from_slice(&digest[..10]);
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The current time in the precision that every store keeps: microseconds.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// The header of a message that left its outbox much later than it was made: when it left.
pub(crate) const LEFT_OUTBOX: &str = "posthaste-left-outbox";

/// A message on its way: body, CloudEvents attributes, further headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// CloudEvents `id`.
    pub id: MessageId,
    /// CloudEvents `source`: the service that made it.
    pub source: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// The queue or topic it is published to.
    pub topic: String,
    /// `partitionkey`: messages of one key keep their order.
    pub key: Option<String>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// CloudEvents `time`: when it was made.
    pub time: DateTime<Utc>,
    /// `datacontenttype`.
    pub content_type: String,
    /// `correlationid`: the same through a whole chain of requests and messages.
    pub correlation_id: Option<String>,
    /// `causationid`: the message whose handling published this one.
    pub causation_id: Option<String>,
    /// W3C trace context of the publisher.
    pub traceparent: Option<String>,
    /// `expirytime`: handled no more from then on; it goes to the dead letters instead.
    pub expires_at: Option<DateTime<Utc>>,
    /// Order per key is kept on the way; see [`Event::ORDERED`].
    pub ordered: bool,
    /// Headers beside the CloudEvents attributes.
    pub headers: BTreeMap<String, String>,
    /// The body as it is on the wire.
    pub body: Vec<u8>,
}

impl Message {
    /// The message for `event`: fresh id, the event's topic, type, key and headers, the correlation
    /// id and trace of the running task.
    ///
    /// # Errors
    /// When `event` cannot be written as JSON.
    pub fn of<E: Event>(event: &E) -> Result<Self, serde_json::Error> {
        let mut headers = BTreeMap::new();
        event.headers(&mut headers);
        let key = event.key();
        let subject = E::AGGREGATE.zip(key.as_ref()).map(|(kind, id)| format!("{kind}/{id}"));
        Ok(Self {
            id: MessageId::new(),
            source: String::new(),
            event_type: E::TYPE.to_owned(),
            topic: E::TOPIC.to_owned(),
            key,
            subject,
            time: now(),
            content_type: "application/json".to_owned(),
            correlation_id: correlation::current(),
            causation_id: None,
            traceparent: telemetry::current_traceparent(),
            expires_at: None,
            ordered: E::ORDERED,
            headers,
            body: serde_json::to_vec(event)?,
        })
    }

    /// What decides the partition: the key, or the id where there is none (no order asked for).
    pub fn partition(&self, partitions: u16) -> u16 {
        let hash = match &self.key {
            Some(key) => fnv1a(key.as_bytes()),
            None => fnv1a(self.id.0.as_bytes()),
        };
        // The remainder is smaller than a u16.
        (hash % u64::from(partitions)) as u16
    }

    /// The parts of a subject `TYPE/ID` (see [`Event::AGGREGATE`]), where they fit their columns.
    pub(crate) fn aggregate(&self) -> Option<(&str, &str)> {
        let parts = self.subject.as_deref()?.split_once('/')?;
        let fits = |text: &str| text.chars().count() <= 255 && !text.contains('\0');
        (fits(parts.0) && fits(parts.1)).then_some(parts)
    }

    /// Makes attributes of a foreign producer fit the columns they are kept in, because a row that the
    /// database refuses would come again for ever. The body is never touched.
    pub(crate) fn fit_columns(&mut self) {
        let fits = |text: &str, most: usize| text.chars().count() <= most && !text.contains('\0');
        // Some databases end at the year 9999; who writes milliseconds where seconds are meant goes far beyond.
        self.time = storable(self.time).unwrap_or_else(now);
        self.expires_at = self.expires_at.and_then(storable);
        if !fits(&self.event_type, 255) {
            self.event_type = self.event_type.chars().filter(|c| *c != '\0').take(255).collect();
        }
        if let Some(id) = self.correlation_id.take_if(|id| !correlation::acceptable(id)) {
            self.headers.insert("foreign-correlation-id".to_owned(), id);
        }
        if let Some(key) = self.key.as_mut().filter(|key| key.contains('\0')) {
            *key = key.replace('\0', "\u{fffd}");
        }
        // An index entry has room for a third of a page.
        if let Some(key) = self.key.as_mut().filter(|key| key.len() > KEY_BYTES) {
            *key = Sha256::digest(key.as_bytes())
                .iter()
                .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"));
        }
    }

    /// How long its attributes and headers are in all.
    pub(crate) fn envelope_bytes(&self) -> usize {
        let attributes = [
            &self.key,
            &self.subject,
            &self.correlation_id,
            &self.causation_id,
            &self.traceparent,
        ];
        let texts = attributes
            .into_iter()
            .flatten()
            .chain([&self.source, &self.event_type, &self.content_type]);
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        texts.map(String::len).sum::<usize>() + headers.sum::<usize>()
    }

    /// Its id, topic and bytes alone.
    pub(crate) fn bare(&self) -> Self {
        Self {
            id: self.id,
            topic: self.topic.clone(),
            time: now(),
            content_type: "application/json".to_owned(),
            body: self.body.clone(),
            source: String::new(),
            event_type: String::new(),
            key: None,
            subject: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            expires_at: None,
            ordered: false,
            headers: BTreeMap::new(),
        }
    }

    /// When it was last sent as far as is known: when it was made, or when it left the outbox where that was much later.
    pub(crate) fn sent_at(&self) -> DateTime<Utc> {
        let left = self.headers.get(LEFT_OUTBOX);
        let left = left.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        left.map_or(self.time, |left| left.to_utc().max(self.time))
    }

    /// All but its body.
    pub(crate) fn without_body(&self) -> Self {
        let mut message = self.bare();
        message.body = Vec::new();
        Self {
            source: self.source.clone(),
            event_type: self.event_type.clone(),
            key: self.key.clone(),
            subject: self.subject.clone(),
            time: self.time,
            content_type: self.content_type.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            traceparent: self.traceparent.clone(),
            ordered: self.ordered,
            headers: self.headers.clone(),
            ..message
        }
    }

    /// Whether `expires_at` has passed at `now`.
    pub fn expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// FNV-1a: stable between versions and machines, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The low bits of FNV are weak and only they reach a remainder of 16.
    hash ^= hash >> 32;
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_distinct_and_version_7() {
        let id = MessageId::new();
        assert_eq!(id.derive("s", 0), id.derive("s", 0));
        assert_ne!(id.derive("s", 0), id.derive("s", 1));
        assert_ne!(id.derive("s", 0), id.derive("t", 0));
        assert_eq!(id.derive("s", 0).0.get_version_num(), 7);
    }

    #[test]
    fn foreign_ids_of_any_length_map_to_one_id_each() {
        let uuid = Uuid::now_v7();
        assert_eq!(MessageId::from_foreign(&uuid.to_string()).0, uuid);
        let long = "x".repeat(10_000);
        assert_eq!(MessageId::from_foreign(&long), MessageId::from_foreign(&long));
        assert_ne!(MessageId::from_foreign(&long), MessageId::from_foreign("x"));
    }

    #[test]
    fn foreign_attributes_fit_their_columns() {
        let mut message = crate::envelope::decode(MessageId::new(), "q".into(), None, None, None, b"{}".to_vec());
        message.event_type = "x\0".repeat(300);
        message.correlation_id = Some("a b\0".repeat(100));
        message.key = Some("k\0".to_owned());
        message.time = DateTime::from_timestamp(1_795_000_000_000, 0).expect("a time");
        message.expires_at = Some(message.time);
        message.fit_columns();
        assert!(message.time <= now());
        assert_eq!(message.expires_at, None);
        assert_eq!(message.event_type, "x".repeat(255));
        assert_eq!(message.correlation_id, None);
        assert_eq!(message.key.as_deref(), Some("k\u{fffd}"));
        message.key = Some("k".repeat(3_000));
        message.fit_columns();
        assert_eq!(message.key.as_deref().map(str::len), Some(71));
    }

    #[test]
    fn keys_spread_over_partitions() {
        let mut seen = [0u32; 16];
        for n in 0..1600 {
            let hash = fnv1a(format!("customer-{n}").as_bytes());
            seen[(hash % 16) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (50..200).contains(&n)), "{seen:?}");
    }
}
