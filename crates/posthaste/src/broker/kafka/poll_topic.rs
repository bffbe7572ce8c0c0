//! The thread that polls librdkafka for one receiver: it fetches, commits, and takes part in
//! rebalances, also while the consumer is busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::KafkaBroker;
use super::join_group::{Member, hold};
use super::receive::{Shared, Unreadable};
use super::track_offsets::Record;
use super::translate_headers::message_of;
use super::watch_connection::is_unreadable;
use crate::status::ReadingStatus;

/// How long a poll waits while nothing is to be done, and while records are in hand.
const IDLE: Duration = Duration::from_millis(100);
const BUSY: Duration = Duration::from_millis(5);
/// Offsets are committed this often, or sooner where the window needs it.
const COMMIT: Duration = Duration::from_millis(200);
/// Pause between two attempts to create the topic or the client.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the creation of the topic may take.
const CREATE: Duration = Duration::from_secs(5);
/// A partition with so much waiting is paused, and resumed when so little is left.
const PAUSE_RECORDS: usize = 4000;
const PAUSE_BYTES: usize = 8 * 1024 * 1024;
const RESUME_RECORDS: usize = 1000;
const RESUME_BYTES: usize = 2 * 1024 * 1024;

/// What a polling thread needs.
#[derive(Clone)]
pub(super) struct Poller {
    pub broker: KafkaBroker,
    pub shared: Arc<Shared>,
    pub topic: String,
    pub group: String,
    pub window: i64,
    pub runtime: Handle,
    pub reading: ReadingStatus,
}

/// Why polling a consumer ended.
enum Ended {
    Stopping,
    /// The client failed for good, or its topic is gone.
    Anew,
}

impl Poller {
    /// Starts a thread; what is returned is closed when it has ended.
    pub fn spawn(&self) -> watch::Receiver<()> {
        let (ended, seen) = watch::channel(());
        let poller = self.clone();
        std::thread::spawn(move || {
            poller.run();
            drop(ended);
        });
        seen
    }

    fn is_stopping(&self) -> bool {
        self.shared.state().stopping
    }

    fn run(&self) {
        while !self.is_stopping() {
            let created = self
                .broker
                .create_topics(std::slice::from_ref(&self.topic), CREATE, &self.runtime);
            match self.connect() {
                Ok(consumer) => {
                    // Without a controller nothing is created, and what is there is served all the same.
                    let created = created.and_then(|mut refused| refused.remove(&self.topic).map_or(Ok(()), Err));
                    if let Err(error) = created.or_else(|error| self.exists(&consumer).then_some(()).ok_or(error)) {
                        tracing::debug!(topic = self.topic, %error, "the topic is not there yet");
                        self.reading.cannot_receive(format!("the topic is not there: {error}"));
                        self.shared.pause(AGAIN);
                        continue;
                    }
                    let ended = self.poll(&consumer);
                    // Leaves the group: partitions are revoked and what is done is committed.
                    drop(consumer);
                    self.shared.state().partitions.clear();
                    if matches!(ended, Ended::Anew) {
                        self.shared.pause(AGAIN);
                    }
                }
                Err(error) => {
                    tracing::error!(topic = self.topic, %error, "no Kafka consumer can be made");
                    self.reading.cannot_receive(error.to_string());
                    self.shared.pause(AGAIN);
                }
            }
        }
    }

    fn exists(&self, consumer: &BaseConsumer<Member>) -> bool {
        let metadata = consumer.client().fetch_metadata(Some(&self.topic), CREATE);
        metadata.is_ok_and(|found| found.topics().iter().any(|topic| topic.error().is_none()))
    }

    fn connect(&self) -> KafkaResult<BaseConsumer<Member>> {
        let mut config = self.broker.client();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "500")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "60000")
            // Fetched ahead; what is paused is fetched again.
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("statistics.interval.ms", "5000");
        let consumer = BaseConsumer::from_config_and_context(&config, Member(self.clone()))?;
        consumer.subscribe(&[&self.topic])?;
        Ok(consumer)
    }

    fn poll(&self, consumer: &BaseConsumer<Member>) -> Ended {
        let mut looked = Instant::now();
        let mut commits = Commits {
            last: Instant::now(),
            failed: false,
        };
        let mut wait = IDLE;
        loop {
            match consumer.poll(wait) {
                None => {}
                Some(Ok(record)) => {
                    self.reading.receives();
                    let (message, given) = message_of(&record, &self.topic);
                    let offset = record.offset();
                    let record_of = Record { offset, message, given };
                    if self.shared.state().arrived(record.partition(), record_of) {
                        tracing::error!(
                            topic = self.topic,
                            partition = record.partition(),
                            offset,
                            "the cluster lost the end of the log: it goes on below what was committed, and is read from there"
                        );
                    }
                    self.shared.arrived.notify_one();
                }
                Some(Err(error)) => {
                    self.reading.cannot_receive(error.to_string());
                    if let Some(ended) = self.judge(&error) {
                        return ended;
                    }
                }
            }
            if looked.elapsed() < BUSY && wait == BUSY {
                continue;
            }
            looked = Instant::now();
            if let Some((code, reason)) = consumer.client().fatal_error() {
                tracing::error!(topic = self.topic, %code, reason, "the Kafka consumer failed for good; it is made anew");
                return Ended::Anew;
            }
            match self.tend(consumer, &mut commits) {
                None => return Ended::Stopping,
                Some(next) => wait = next,
            }
        }
    }

    fn judge(&self, error: &KafkaError) -> Option<Ended> {
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                tracing::error!(topic = self.topic, %code, "the Kafka consumer failed for good; it is made anew");
                Some(Ended::Anew)
            }
            _ => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    tracing::warn!(topic = self.topic, "the topic is gone; it is created again");
                    Some(Ended::Anew)
                }
                Some(code) if is_unreadable(code) => {
                    self.shared.state().failed(Unreadable {
                        topic: self.topic.clone(),
                        group: self.group.clone(),
                        code,
                        advice: advice(code),
                    });
                    self.shared.arrived.notify_one();
                    None
                }
                // The client's own error report has seen it.
                _ => None,
            },
        }
    }

    /// Pauses, resumes and commits; how long the next poll may wait. `None`: stop.
    fn tend(&self, consumer: &BaseConsumer<Member>, commits: &mut Commits) -> Option<Duration> {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        let mut offsets = TopicPartitionList::new();
        let mut state = self.shared.state();
        if state.stopping {
            return None;
        }
        let mut busy = false;
        let due = commits.last.elapsed() >= COMMIT;
        for (number, partition) in &mut state.partitions {
            let (records, bytes) = (partition.waiting(), partition.waiting_bytes());
            if !partition.paused && (records >= PAUSE_RECORDS || bytes >= PAUSE_BYTES) {
                partition.paused = true;
                pause.add_partition(&self.topic, *number);
            } else if partition.paused && records <= RESUME_RECORDS && bytes <= RESUME_BYTES {
                partition.paused = false;
                resume.add_partition(&self.topic, *number);
            }
            let to_commit = partition.to_commit();
            busy |= records > 0 || !partition.is_idle() || to_commit.is_some();
            if let Some((offset, done)) = to_commit
                && (due || (partition.is_commit_due(done) && !commits.failed))
            {
                hold(&mut offsets, &self.topic, *number, offset);
            }
        }
        drop(state);
        let paused = if pause.count() > 0 {
            consumer.pause(&pause)
        } else {
            Ok(())
        };
        let resumed = if resume.count() > 0 {
            consumer.resume(&resume)
        } else {
            Ok(())
        };
        if let Err(error) = paused.and(resumed) {
            tracing::debug!(topic = self.topic, %error, "a partition was revoked meanwhile");
        }
        if offsets.count() > 0 {
            self.commit(consumer, &offsets, commits);
        }
        Some(if busy { BUSY } else { IDLE })
    }

    /// Waits for the answer, at most as long as a connection may take: rdkafka brings none of a commit
    /// that is not waited for. Heartbeats go on meanwhile.
    fn commit(&self, consumer: &BaseConsumer<Member>, offsets: &TopicPartitionList, commits: &mut Commits) {
        let result = consumer.commit(offsets, CommitMode::Sync);
        commits.last = Instant::now();
        commits.failed = result.is_err();
        if let Err(error) = result {
            tracing::debug!(topic = self.topic, %error, "not committed; it is tried again");
            return;
        }
        let mut state = self.shared.state();
        for element in offsets.elements() {
            if let (Offset::Offset(offset), Some(partition)) =
                (element.offset(), state.partitions.get_mut(&element.partition()))
            {
                partition.committed(offset);
            }
        }
        drop(state);
        // The window has moved.
        self.shared.arrived.notify_one();
    }
}

fn advice(code: RDKafkaErrorCode) -> &'static str {
    match code {
        RDKafkaErrorCode::InconsistentGroupProtocol => {
            "; another client in this group assigns partitions in another way (posthaste: cooperative-sticky): stop it, or \
             read with a group of your own"
        }
        _ => "",
    }
}

struct Commits {
    last: Instant,
    failed: bool,
}
