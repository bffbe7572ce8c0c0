//! Apache Kafka: a topic per queue, the message's key as the record's key, one consumer group per service.
//!
//! Order per key is the order in a partition, so it holds as long as the number of partitions of a
//! topic stays as it is.
//!
//! All members of a group have to assign partitions in one way, here `cooperative-sticky`; what cannot be read although the
//! cluster answers is an error of the receiver (`receive.rs`). A record without any id is known by its place.

mod create_topics;
mod join_group;
mod parse_url;
mod poll_topic;
mod publish;
mod receive;
mod track_offsets;
mod translate_headers;
mod watch_connection;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::Producer as _;

use super::BrokerError;
use crate::handle::Subscription;
use crate::status::ReadingStatus;
use create_topics::Topics;
use parse_url::Address;
use publish::Producer;
pub(crate) use receive::KafkaReceiver;
use watch_connection::{Connection, failed};

/// A Kafka cluster. Cheap to clone; connects when it is first used, and again by itself.
#[derive(Clone)]
pub struct KafkaBroker(Arc<Inner>);

struct Inner {
    address: Address,
    connection: Arc<Connection>,
    topics: Topics,
    creating: tokio::sync::Mutex<()>,
    /// Made on first use, and anew after it failed for good.
    producer: Mutex<Option<Arc<Producer>>>,
}

impl KafkaBroker {
    pub(super) fn open(url: &str) -> Result<Self, BrokerError> {
        Ok(Self(Arc::new(Inner {
            address: parse_url::parse(url)?,
            connection: Arc::default(),
            topics: Topics::default(),
            creating: tokio::sync::Mutex::default(),
            producer: Mutex::default(),
        })))
    }

    pub(super) async fn ping(&self, limit: Duration) -> Result<(), BrokerError> {
        let producer = self.producer()?;
        // All topics of the cluster only as long as none is known.
        let topic = self.0.topics.any();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().client().fetch_metadata(topic.as_deref(), limit);
            metadata.map(drop)
        });
        match asked.await {
            Ok(Ok(())) => {
                self.0.connection.answers();
                Ok(())
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(panicked) => Err(failed(panicked)),
        }
    }

    pub(super) fn receiver(&self, subscription: &Subscription, scope: &str, reading: &ReadingStatus) -> KafkaReceiver {
        // The scope is "<service>/worker".
        let service = scope.split('/').next().unwrap_or(scope);
        let group = subscription.group.as_deref().unwrap_or(service);
        KafkaReceiver::start(self, &subscription.queue, group, subscription.batch, reading)
    }

    /// What every client of the cluster is configured with.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.0.address.servers)
            .set("client.id", "posthaste")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            // A broker closes idle connections; that is no failure.
            .set("log.connection.close", "false");
        config
    }

    fn producer(&self) -> Result<Arc<Producer>, BrokerError> {
        let mut slot = self.0.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = slot.as_ref() {
            return Ok(producer.clone());
        }
        let producer = Arc::new(Producer::new(self)?);
        *slot = Some(producer.clone());
        Ok(producer)
    }

    /// The next one to ask gets a fresh producer; what `producer` still holds is not sent.
    fn discard(&self, producer: &Arc<Producer>) {
        let mut slot = self.0.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, producer)) {
            *slot = None;
        }
        drop(slot);
        let producer = producer.clone();
        // It waits for librdkafka's threads, which no task may.
        std::thread::spawn(move || producer.purge());
    }
}
