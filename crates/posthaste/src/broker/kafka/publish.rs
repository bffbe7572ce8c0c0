//! Publishing: all records of a call are on their way before the first confirm is awaited.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _, PurgeConfig};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::KafkaBroker;
use super::translate_headers::{headers_of, key_of};
use super::watch_connection::{Context, failed};
use crate::broker::BrokerError;
use crate::message::Message;

/// How long the cluster may take to confirm what one call publishes.
const CONFIRM: Duration = Duration::from_secs(10);
/// The same while no broker answers: who has an outbox to fall back on waits no longer.
const CONFIRM_WHILE_AWAY: Duration = Duration::from_secs(2);
/// A pause until librdkafka's queue has room again.
const FULL: Duration = Duration::from_millis(5);

/// An idempotent producer: within a partition the records are written in the order they were given.
pub(super) struct Producer(Option<FutureProducer<Context>>);

impl Producer {
    pub fn new(broker: &KafkaBroker) -> Result<Self, BrokerError> {
        let mut config = broker.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            // The partition that other clients choose for the same key by default.
            .set("partitioner", "murmur2_random")
            // Longer than a call waits: a call gives up all of its records at once, where librdkafka
            // would give up the first and still send a later one of the same key.
            .set("message.timeout.ms", "30000");
        let context = Context(broker.0.connection.clone());
        let producer = FutureProducer::from_config_and_context(&config, context);
        Ok(Self(Some(producer.map_err(failed)?)))
    }

    pub fn client(&self) -> &FutureProducer<Context> {
        // Taken only when dropped.
        self.0
            .as_ref()
            .unwrap_or_else(|| unreachable!("a producer in use is there"))
    }

    /// Sends nothing more; what waits for a confirm gets an error.
    pub fn purge(&self) {
        self.client().purge(PurgeConfig::default().queue().inflight());
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let producer = self.0.take();
        // It waits for librdkafka's threads, which no task may.
        std::thread::spawn(move || drop(producer));
    }
}

impl KafkaBroker {
    /// As [`crate::Broker::publish`] says. The order of one key can be lost in one case: a broker alone
    /// refuses a record (larger than the topic's own `max.message.bytes`, or without a key where the
    /// topic is compacted) while later ones of its key are already on their way. A record that never
    /// can be written then has not held them back. What is confirmed too late counts as not confirmed,
    /// and is written once more under the same id.
    pub(in crate::broker) async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), BrokerError>> {
        let limit = if self.0.connection.is_away() {
            CONFIRM_WHILE_AWAY
        } else {
            CONFIRM
        };
        let end = Instant::now() + limit;
        let refused = match self.ensure_topics(&messages, limit).await {
            Ok(refused) => refused,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut held_back: HashSet<(&str, &str)> = HashSet::new();
        let mut sent = Vec::with_capacity(messages.len());
        for message in &messages {
            if let Some(error) = refused.get(&message.topic) {
                sent.push(Err(error.clone()));
                continue;
            }
            let lane = message.key.as_deref().map(|key| (message.topic.as_str(), key));
            if lane.is_some_and(|lane| held_back.contains(&lane)) {
                let reason = "an earlier message of its key was not taken";
                sent.push(Err(BrokerError::Refused(reason.to_owned())));
                continue;
            }
            let given = give(&producer, message, end).await;
            if given.is_err() {
                held_back.extend(lane);
            }
            sent.push(given);
        }
        let mut results = Vec::with_capacity(sent.len());
        let mut late = false;
        for given in sent {
            let result = match given {
                Err(error) => Err(error),
                Ok(delivery) if late => settled(delivery, Instant::now()).await,
                Ok(delivery) => settled(delivery, end).await,
            };
            if matches!(result, Err(BrokerError::Deadline(_))) && !late {
                late = true;
                self.discard(&producer);
            }
            results.push(result.map_err(|error| match error {
                BrokerError::Deadline(_) => BrokerError::Deadline(limit),
                other => other,
            }));
        }
        self.learn(&producer, &results, limit);
        results
    }

    /// Returns the topics that cannot be had.
    async fn ensure_topics(
        &self,
        messages: &[Message],
        limit: Duration,
    ) -> Result<HashMap<String, BrokerError>, BrokerError> {
        let topics: HashSet<&str> = messages.iter().map(|message| message.topic.as_str()).collect();
        let missing = topics.into_iter().filter(|topic| !self.0.topics.contains(topic));
        let missing: Vec<String> = missing.map(str::to_owned).collect();
        if missing.is_empty() {
            return Ok(HashMap::new());
        }
        // Many that publish to a new topic at a time create it once.
        let turn = tokio::time::timeout(limit, self.0.creating.lock()).await;
        let _turn = turn.map_err(|_elapsed| BrokerError::Deadline(limit))?;
        if missing.iter().all(|topic| self.0.topics.contains(topic)) {
            return Ok(HashMap::new());
        }
        let broker = self.clone();
        let runtime = Handle::current();
        let created = tokio::task::spawn_blocking(move || broker.create_topics(&missing, limit, &runtime));
        created.await.map_err(failed)?
    }

    fn learn(&self, producer: &Arc<Producer>, results: &[Result<(), BrokerError>], limit: Duration) {
        if results.iter().any(Result::is_ok) {
            self.0.connection.answers();
        } else if results
            .iter()
            .any(|result| matches!(result, Err(BrokerError::Deadline(_))))
        {
            self.0
                .connection
                .lost(&format!("nothing was confirmed within {limit:?}"));
        }
        let of_topics = |result: &Result<(), BrokerError>| {
            matches!(result, Err(BrokerError::Unavailable(_) | BrokerError::Deadline(_)))
        };
        if results.iter().any(of_topics) {
            // One of them may have been deleted; to ask costs one round trip.
            self.0.topics.forget();
        }
        if producer.client().client().fatal_error().is_some() {
            self.discard(producer);
        }
    }
}

/// Hands `message` to librdkafka, waiting for room in its queue.
async fn give(producer: &Producer, message: &Message, end: Instant) -> Result<DeliveryFuture, BrokerError> {
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&message.topic).headers(headers_of(message));
    record.payload = Some(&message.body);
    let key = key_of(message);
    record.key = key.as_deref();
    loop {
        match producer.client().send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                if Instant::now() >= end {
                    return Err(failed(error));
                }
                record = back;
                tokio::time::sleep(FULL).await;
            }
            Err((error, _record)) => return Err(refused(error)),
        }
    }
}

async fn settled(delivery: DeliveryFuture, end: Instant) -> Result<(), BrokerError> {
    match tokio::time::timeout_at(end, delivery).await {
        Ok(Ok(Ok(_written))) => Ok(()),
        Ok(Ok(Err((error, _message)))) => Err(refused(error)),
        Ok(Err(_canceled)) => Err(failed(KafkaError::Canceled)),
        Err(_elapsed) => Err(BrokerError::Deadline(Duration::ZERO)),
    }
}

fn refused(error: KafkaError) -> BrokerError {
    match error.rdkafka_error_code() {
        Some(code @ (RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)) => {
            BrokerError::TooLarge(code.to_string())
        }
        Some(code @ (RDKafkaErrorCode::InvalidTopic | RDKafkaErrorCode::InvalidRecord)) => {
            BrokerError::Invalid(code.to_string())
        }
        Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => BrokerError::Refused(code.to_string()),
        _ => failed(error),
    }
}
