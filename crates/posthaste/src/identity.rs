//! What a message is recognised by. The inbox knows a message by (subscription, identity); the first row of this table
//! that applies decides what the identity is.
//!
//! | what the message has | [`Rule`] | identity |
//! |---|---|---|
//! | CloudEvents `source` and `id` | `source_and_id` | the id if it is a UUID (all of posthaste's own), which is unique by itself; else a hash of both |
//! | a key of the contract in its body ([`crate::Event::dedup_key`]) | `contract_key` | the key: a UUID as it is, another one hashed |
//! | an id alone: AMQP `message_id`, Kafka header `event_id`, the column `message_id` of a row written by hand, a CloudEvents `id` without its source | `id_and_bytes` | hash of the id and the body |
//! | a place in a log: a Kafka record without any of these | `place_and_bytes` | hash of topic, partition, offset and body |
//! | nothing | `bytes` | hash of the body |
//!
//! An id alone proves nothing: counters start again, and many clients leave it at one value. Equal bodies without any id
//! count as one message on transports without places; the first such case of a subscription is logged.
//!
//! The same identity with other bytes is not taken for a repeat in silence (see [`Verdict`]): it is counted, logged once
//! per producer, and what becomes of it depends on the first one.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::message::{Message, MessageId};
use crate::telemetry::metric;

const EVENT: Uuid = Uuid::from_u128(0x3c1e_8a7d_52f4_4f0b_a6d9_0e47_b1c8_6f23);
const ID: Uuid = Uuid::from_u128(0xd7b0_64f2_1a9c_4e35_8b70_5fc3_92ae_0d14);
const PLACE: Uuid = Uuid::from_u128(0x51e9_c3a8_7f06_4dd1_93b4_e82a_6c0f_75d8);
const REPLACED: Uuid = Uuid::from_u128(0x0a6f_d25b_e814_4c97_bd3e_47f1_9c60_a2e5);
const ROW: Uuid = Uuid::from_u128(0xe42d_905c_38b7_41fa_8e16_c7a0_5db3_f96b);

/// What came with a message to tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// A CloudEvents `id` that is a UUID; it counts where the message has a source.
    Unique(Uuid),
    /// Another CloudEvents `id`; it counts together with the source.
    Event(String),
    /// An id outside of the CloudEvents attributes.
    Id(String),
    /// A place in a log that no other record has.
    Place {
        partition: i32,
        offset: i64,
    },
    Nothing,
}

impl Given {
    /// From a CloudEvents `id`. An empty one and the nil UUID are ids that were left unset.
    pub fn event(id: &str) -> Self {
        match Uuid::from_str(id.trim()) {
            Ok(id) if id.is_nil() => Self::Nothing,
            Ok(id) => Self::Unique(id),
            Err(_) if id.is_empty() => Self::Nothing,
            Err(_other_text) => Self::Event(id.to_owned()),
        }
    }

    /// From an id outside of the CloudEvents attributes.
    pub fn id(id: &str) -> Self {
        match Uuid::from_str(id.trim()) {
            Ok(id) if id.is_nil() => Self::Nothing,
            Err(_) if id.is_empty() => Self::Nothing,
            Ok(_) | Err(_) => Self::Id(id.to_owned()),
        }
    }

    /// This, or `other` where this says nothing.
    pub fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Nothing => other(),
            given => given,
        }
    }

    /// What a transport may tell deliveries in hand by: cheap, and not the identity.
    pub fn hint(&self) -> Option<MessageId> {
        match self {
            Self::Unique(id) => Some(MessageId(*id)),
            Self::Event(id) | Self::Id(id) => Some(MessageId::from_foreign(id)),
            Self::Place { .. } | Self::Nothing => None,
        }
    }
}

/// Which row of the table made the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    SourceAndId,
    ContractKey,
    IdAndBytes,
    PlaceAndBytes,
    Bytes,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceAndId => "source_and_id",
            Self::ContractKey => "contract_key",
            Self::IdAndBytes => "id_and_bytes",
            Self::PlaceAndBytes => "place_and_bytes",
            Self::Bytes => "bytes",
        }
    }
}

/// The identity of `message`, to which its transport gave `given`; `key` finds the contract's own key in its body.
pub(crate) fn identify(given: &Given, message: &Message, key: impl FnOnce() -> Option<String>) -> (MessageId, Rule) {
    match given {
        Given::Unique(id) if !message.source.is_empty() => return (MessageId(*id), Rule::SourceAndId),
        Given::Event(id) if !message.source.is_empty() => {
            let id = hashed(EVENT, &[message.source.as_bytes(), id.as_bytes()]);
            return (id, Rule::SourceAndId);
        }
        Given::Unique(_) | Given::Event(_) | Given::Id(_) | Given::Place { .. } | Given::Nothing => {}
    }
    if let Some(key) = key() {
        return (MessageId::from_foreign(&key), Rule::ContractKey);
    }
    match given {
        // Without its source a CloudEvents id is an id like any other.
        Given::Unique(id) => (
            hashed(ID, &[id.to_string().as_bytes(), &message.body]),
            Rule::IdAndBytes,
        ),
        Given::Event(id) | Given::Id(id) => (hashed(ID, &[id.as_bytes(), &message.body]), Rule::IdAndBytes),
        Given::Place { partition, offset } => {
            let place = [
                message.topic.as_bytes(),
                &partition.to_be_bytes(),
                &offset.to_be_bytes(),
                &message.body,
            ];
            (hashed(PLACE, &place), Rule::PlaceAndBytes)
        }
        Given::Nothing => (MessageId::of_body(&message.body), Rule::Bytes),
    }
}

/// A UUIDv5 of `parts`, each with its length, so that no two lists read alike.
fn hashed(namespace: Uuid, parts: &[&[u8]]) -> MessageId {
    let mut name = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        name.extend((part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    MessageId(Uuid::new_v5(&namespace, &name))
}

/// Half of a SHA-256: enough to tell a repeat from another body.
pub(crate) type BodyHash = [u8; 16];

/// The hash of `body` that the inbox keeps beside the identity.
pub(crate) fn body_hash(body: &[u8]) -> BodyHash {
    let digest = Sha256::digest(body);
    std::array::from_fn(|n| digest[n])
}

/// The inbox id of the message with this identity and body once another one has taken the identity over, or while it
/// may not have it.
pub(crate) fn set_aside(id: MessageId, hash: &BodyHash) -> MessageId {
    hashed(REPLACED, &[id.0.as_bytes(), hash])
}

impl MessageId {
    /// The id of the row that a service stores of the message, where the table holds what came from several
    /// `destination`s or producers: the identity alone is that of one destination.
    #[must_use]
    pub fn in_table(self, destination: &str) -> Uuid {
        hashed(ROW, &[destination.as_bytes(), self.0.as_bytes()]).0
    }
}

/// What the inbox says of a message whose identity it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same bytes: a repeat.
    Repeat,
    /// Other bytes, and the first one is handled: this one is not.
    Handled,
    /// Other bytes, and the first one is retried: this one waits among the dead letters.
    Retried,
    /// Other bytes, and the first one is dead: this one is the correction, and handled.
    Dead,
}

/// Counts `message`, which differs from the first one of its identity, and logs it once per producer.
pub(crate) fn report(subscription: &str, message: &Message, rule: Option<Rule>, verdict: Verdict) {
    let outcome = match verdict {
        Verdict::Repeat => return,
        Verdict::Handled => "left out: the first one was handled",
        Verdict::Retried => "kept as a dead letter: the first one is being retried",
        Verdict::Dead => "handled: the first one is a dead letter",
    };
    metrics::counter!(metric::INBOX_RECEIVED, "posthaste_verdict" => "conflict").increment(1);
    let producer = format!("{subscription}\n{}\n{}", message.topic, message.source);
    if first(&CONFLICTS, producer) {
        tracing::warn!(
            subscription,
            topic = message.topic,
            source = message.source,
            message_id = %message.id,
            rule = rule.map(Rule::name),
            outcome,
            "two messages with one identity and different bodies; more of this producer are only counted"
        );
    }
}

/// Notes a repeat. One that is known by its bytes alone may be a second message that means the same: the first such case
/// of a subscription is logged.
pub(crate) fn report_repeat(subscription: &str, message: &Message, rule: Rule) {
    tracing::debug!(subscription, message_id = %message.id, rule = rule.name(), "duplicate");
    if rule == Rule::Bytes && first(&EQUAL, format!("{subscription}\n{}", message.topic)) {
        tracing::warn!(
            subscription,
            topic = message.topic,
            message_id = %message.id,
            rule = rule.name(),
            "a message without id or key of its own equals an earlier one and counts as the same; more are only counted"
        );
    }
}

static CONFLICTS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
static EQUAL: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Producers choose their source: a name that is never the same must not use up the memory.
const NAMES: usize = 1000;

fn first(seen: &Mutex<HashSet<String>>, name: String) -> bool {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.len() < NAMES && seen.insert(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: &str, body: &str) -> Message {
        let id = MessageId(Uuid::nil());
        let mut message = crate::envelope::decode(id, "q".into(), None, None, None, body.as_bytes().to_vec());
        message.source = source.to_owned();
        message
    }

    fn of(given: &Given, source: &str, key: Option<&str>, body: &str) -> (MessageId, Rule) {
        identify(given, &message(source, body), || key.map(str::to_owned))
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let unique = Uuid::now_v7();
        let event = Given::event("1");
        let bare = Given::id("1");
        let place = Given::Place {
            partition: 0,
            offset: 7,
        };
        for (given, source, key, rule) in [
            (Given::event(&unique.to_string()), "/a", Some("k"), Rule::SourceAndId),
            (Given::event(&unique.to_string()), "", Some("k"), Rule::ContractKey),
            (Given::event(&unique.to_string()), "", None, Rule::IdAndBytes),
            (event.clone(), "/a", Some("k"), Rule::SourceAndId),
            (event.clone(), "", Some("k"), Rule::ContractKey),
            (bare.clone(), "/a", Some("k"), Rule::ContractKey),
            (place.clone(), "", Some("k"), Rule::ContractKey),
            (Given::Nothing, "", Some("k"), Rule::ContractKey),
            (event, "", None, Rule::IdAndBytes),
            (bare, "/a", None, Rule::IdAndBytes),
            (place, "", None, Rule::PlaceAndBytes),
            (Given::Nothing, "", None, Rule::Bytes),
        ] {
            assert_eq!(of(&given, source, key, "b").1, rule, "{given:?} {source} {key:?}");
        }
        assert_eq!(of(&Given::Unique(unique), "/a", None, "b").0, MessageId(unique));
    }

    #[test]
    fn identities_differ_where_their_parts_do() {
        let id = |given: &Given, source: &str, key: Option<&str>, body: &str| of(given, source, key, body).0;
        let event = |id: &str| Given::event(id);
        assert_eq!(id(&event("1"), "/a", None, "x"), id(&event("1"), "/a", Some("k"), "y"));
        assert_ne!(id(&event("1"), "/a", None, "x"), id(&event("1"), "/b", None, "x"));
        // The border between the parts counts.
        assert_ne!(id(&event("bc"), "a", None, "x"), id(&event("c"), "ab", None, "x"));
        let bare = Given::id("1");
        assert_eq!(id(&bare, "", None, "x"), id(&bare, "", None, "x"));
        assert_ne!(id(&bare, "", None, "x"), id(&bare, "", None, "y"));
        assert_eq!(id(&bare, "", Some("k"), "x"), id(&Given::id("2"), "", Some("k"), "y"));
        let at = |partition, offset| id(&Given::Place { partition, offset }, "", None, "x");
        assert_eq!(at(0, 1), at(0, 1));
        assert_ne!(at(0, 1), at(1, 1));
        assert_ne!(at(0, 1), at(0, 2));
        assert_eq!(id(&Given::Nothing, "", None, "x"), MessageId::of_body(b"x"));
    }

    #[test]
    fn an_id_that_was_left_unset_is_none() {
        let nil = Uuid::nil().to_string();
        assert_eq!(Given::event(""), Given::Nothing);
        assert_eq!(Given::event(&nil), Given::Nothing);
        assert_eq!(Given::id(""), Given::Nothing);
        assert_eq!(Given::id(&nil), Given::Nothing);
    }

    #[test]
    fn a_row_is_told_apart_by_its_destination() {
        let id = MessageId::new();
        assert_eq!(id.in_table("a"), id.in_table("a"));
        assert_ne!(id.in_table("a"), id.in_table("b"));
    }

    #[test]
    fn each_producer_is_named_once_and_not_without_end() {
        let seen = Mutex::default();
        assert!(first(&seen, "a".to_owned()));
        assert!(!first(&seen, "a".to_owned()));
        for n in 0..NAMES {
            first(&seen, n.to_string());
        }
        assert!(!first(&seen, "one more".to_owned()));
    }
}
