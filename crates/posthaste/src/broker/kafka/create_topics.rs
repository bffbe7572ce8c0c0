//! Topics exist before they are used: a cluster need not create them by itself, and if it does it may
//! give them one partition.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use tokio::runtime::Handle;

use super::KafkaBroker;
use super::watch_connection::{Context, failed};
use crate::broker::BrokerError;

/// Topics that are known to exist.
#[derive(Default)]
pub(super) struct Topics(Mutex<BTreeSet<String>>);

impl Topics {
    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them.
    pub fn any(&self) -> Option<String> {
        self.known().first().cloned()
    }

    pub fn contains(&self, topic: &str) -> bool {
        self.known().contains(topic)
    }

    /// Somebody may have deleted them.
    pub fn forget(&self) {
        self.known().clear();
    }
}

impl KafkaBroker {
    /// Makes sure that `topics` exist, which others read.
    pub(in crate::broker) async fn declare(&self, topics: &[String]) -> Result<(), BrokerError> {
        const LIMIT: Duration = Duration::from_secs(10);
        let (broker, topics, runtime) = (self.clone(), topics.to_vec(), Handle::current());
        let created = tokio::task::spawn_blocking(move || broker.create_topics(&topics, LIMIT, &runtime));
        let refused = created.await.map_err(failed)??;
        refused.into_values().next().map_or(Ok(()), Err)
    }

    /// Creates those of `topics` that do not exist, within `limit`; returns those that cannot be created. Blocks.
    pub(super) fn create_topics(
        &self,
        topics: &[String],
        limit: Duration,
        runtime: &Handle,
    ) -> Result<HashMap<String, BrokerError>, BrokerError> {
        let context = Context(self.0.connection.clone());
        let admin = AdminClient::from_config_and_context(&self.client(), context).map_err(failed)?;
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            // -1: as many replicas as the cluster gives.
            .map(|topic| NewTopic::new(topic, self.0.address.partitions, TopicReplication::Fixed(-1)))
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(limit))
            .operation_timeout(Some(limit));
        let created = runtime.block_on(async {
            tokio::time::timeout(limit + Duration::from_secs(1), admin.create_topics(&new, &options)).await
        });
        let results = created
            .map_err(|_elapsed| BrokerError::Deadline(limit))?
            .map_err(failed)?;
        self.0.connection.answers();
        let mut refused = HashMap::new();
        for result in results {
            match result {
                Ok(topic) => {
                    tracing::info!(topic, partitions = self.0.address.partitions, "the topic was created");
                    self.0.topics.known().insert(topic);
                }
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => {
                    self.0.topics.known().insert(topic);
                }
                Err((
                    topic,
                    code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::PolicyViolation),
                )) => {
                    tracing::info!(topic, %code, "topics may not be created from here; it is taken to exist");
                    self.0.topics.known().insert(topic);
                }
                Err((topic, code)) => {
                    let why = format!("the topic {topic} cannot be created: {code}");
                    let error = match code {
                        RDKafkaErrorCode::InvalidTopic => BrokerError::Invalid(why),
                        _ => BrokerError::Refused(why),
                    };
                    refused.insert(topic, error);
                }
            }
        }
        Ok(refused)
    }
}
