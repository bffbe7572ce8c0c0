//! The reading end of a topic for a consumer: takes from what the polling thread has brought.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use rdkafka::error::RDKafkaErrorCode;

use super::KafkaBroker;
use super::poll_topic::Poller;
use super::track_offsets::{Partition, Record};
use super::watch_connection::failed;
use crate::broker::{BrokerError, Delivery};
use crate::status::ReadingStatus;

/// How long leaving the group and the last commit may take. Later the cluster finds out by itself.
const CLOSE: Duration = Duration::from_secs(3);

/// A member of a consumer group. Dropped, it leaves the group in the background.
pub(crate) struct KafkaReceiver {
    shared: Arc<Shared>,
    poller: Poller,
    ended: watch::Receiver<()>,
}

/// What the receiver and its polling thread share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something has arrived, a commit let more be handed out, or the thread has ended.
    pub arrived: Notify,
    /// A record was settled.
    settled: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub partitions: BTreeMap<i32, Partition>,
    tags: HashMap<i64, (i32, i64, u64)>,
    last_tag: i64,
    last_assignment: u64,
    /// The partition whose turn is next.
    turn: i32,
    pub stopping: bool,
    fault: Option<Fault>,
    /// The consumer knows of a fault that is over.
    told_of_fault: bool,
}

struct Fault {
    error: Unreadable,
    /// When it last showed.
    seen: Instant,
    /// When the consumer was told of it.
    told: Option<Instant>,
}

/// While a fault lasts, so often the consumer is told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// librdkafka tries several times in this time.
const OVER: Duration = Duration::from_secs(15);

/// The cluster answers, and the topic cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{topic} cannot be read by the group {group}: {code}{advice}")]
pub(super) struct Unreadable {
    pub topic: String,
    pub group: String,
    pub code: RDKafkaErrorCode,
    pub advice: &'static str,
}

impl KafkaReceiver {
    pub(super) fn start(broker: &KafkaBroker, topic: &str, group: &str, batch: usize, reading: &ReadingStatus) -> Self {
        let shared = Arc::new(Shared::default());
        let poller = Poller {
            broker: broker.clone(),
            shared: shared.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            // A batch in hand and one that is done and not committed yet.
            window: i64::try_from(batch.max(1) * 2).unwrap_or(i64::MAX),
            runtime: Handle::current(),
            reading: reading.clone(),
        };
        let ended = poller.spawn();
        Self { shared, poller, ended }
    }

    pub async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Interest first, look second: an arrival in between is not missed.
            arrived.as_mut().enable();
            let (taken, news) = {
                let mut state = self.shared.state();
                let taken = state.take(max);
                let news = if taken.is_empty() { state.news() } else { None };
                (taken, news)
            };
            if !taken.is_empty() {
                return Ok(taken);
            }
            match news {
                // Nothing came, and it can be read again.
                Some(Ok(())) => return Ok(Vec::new()),
                Some(Err(unreadable)) => return Err(failed(unreadable)),
                None => {}
            }
            tokio::select! {
                () = arrived => {}
                _ = self.ended.changed() => {
                    // It ends by itself only when it panics.
                    tracing::error!(topic = self.poller.topic, "the Kafka consumer ended; it is started again");
                    self.shared.state().partitions.clear();
                    self.ended = self.poller.spawn();
                }
            }
        }
    }

    pub fn acknowledge(&self, tags: &[i64]) {
        let mut state = self.shared.state();
        for tag in tags {
            let Some((partition, offset, assignment)) = state.tags.remove(tag) else {
                continue;
            };
            let partition = state.partitions.get_mut(&partition);
            if let Some(partition) = partition.filter(|partition| partition.assignment == assignment) {
                partition.settle(offset);
            }
        }
        drop(state);
        self.shared.settled.notify_all();
    }

    pub fn abandon(&mut self) {
        let mut state = self.shared.state();
        state.tags.clear();
        for partition in state.partitions.values_mut() {
            partition.give_back();
        }
        drop(state);
        self.shared.settled.notify_all();
    }

    /// Commits what is done and leaves the group, so that others need not wait for this member.
    pub async fn close(mut self) {
        self.stop();
        if tokio::time::timeout(CLOSE, self.ended.changed()).await.is_err() {
            tracing::info!(topic = self.poller.topic, "the consumer group was not left in time");
        }
    }

    fn stop(&mut self) {
        self.abandon();
        self.shared.state().stopping = true;
        self.shared.settled.notify_all();
    }
}

impl Drop for KafkaReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `limit`, or until the receiver stops.
    pub fn pause(&self, limit: Duration) {
        let waiting = |state: &mut State| !state.stopping;
        drop(self.settled.wait_timeout_while(self.state(), limit, waiting));
    }

    /// Hands nothing more out of `partitions` and waits, at most `limit`, until what is in hand is settled.
    pub fn drain(&self, partitions: &[i32], limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.state();
        for partition in partitions {
            if let Some(partition) = state.partitions.get_mut(partition) {
                partition.revoked = true;
            }
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let open = partitions
                .iter()
                .filter_map(|one| state.partitions.get(one))
                .any(|one| !one.is_idle());
            if !open || state.stopping || left.is_zero() {
                return;
            }
            let waited = self.settled.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    pub fn assign(&mut self, number: i32, window: i64, committed: Option<i64>, suspect: bool, start: Option<i64>) {
        self.last_assignment += 1;
        let partition = Partition::new(self.last_assignment, window, committed, suspect).started_at(start);
        self.partitions.insert(number, partition);
    }

    /// Nothing can be read, for this reason.
    pub fn failed(&mut self, error: Unreadable) {
        let same = self.fault.take().filter(|fault| fault.error.code == error.code);
        self.fault = Some(Fault {
            error,
            seen: Instant::now(),
            told: same.and_then(|fault| fault.told),
        });
    }

    /// Ends a fault that has not shown for a while. A record is no sign of that: it may be another partition's.
    pub fn forget_old_fault(&mut self) {
        if self.fault.as_ref().is_some_and(|fault| fault.seen.elapsed() > OVER) {
            self.recovered();
        }
    }

    /// What could not be read can be.
    pub fn recovered(&mut self) {
        if let Some(fault) = self.fault.take() {
            self.told_of_fault |= fault.told.is_some();
        }
    }

    /// What the consumer is to know besides records: a failure, from time to time while it lasts, or its end.
    fn news(&mut self) -> Option<Result<(), Unreadable>> {
        if std::mem::take(&mut self.told_of_fault) {
            return Some(Ok(()));
        }
        let fault = self.fault.as_mut()?;
        if fault.told.is_some_and(|told| told.elapsed() < TOLD_AGAIN) {
            return None;
        }
        fault.told = Some(Instant::now());
        Some(Err(fault.error.clone()))
    }

    /// Whether the log goes on below what was committed of it.
    pub fn arrived(&mut self, number: i32, record: Record) -> bool {
        let Some(partition) = self.partitions.get_mut(&number) else {
            return false;
        };
        let shrunk = partition.has_shrunk(&record);
        if shrunk {
            self.last_assignment += 1;
            partition.begin_anew(self.last_assignment);
        }
        partition.arrived(record);
        shrunk
    }

    /// Up to `max` records, each time from another partition on.
    fn take(&mut self, max: usize) -> Vec<Delivery> {
        let from = self.turn;
        let after: Vec<i32> = self.partitions.range(from..).map(|(number, _)| *number).collect();
        let before: Vec<i32> = self.partitions.range(..from).map(|(number, _)| *number).collect();
        let mut taken = Vec::new();
        for number in after.into_iter().chain(before) {
            while taken.len() < max
                && let Some(partition) = self.partitions.get_mut(&number)
                && let Some((record, redelivered)) = partition.hand_out()
            {
                self.last_tag += 1;
                let assignment = partition.assignment;
                self.tags.insert(self.last_tag, (number, record.offset, assignment));
                self.turn = number + 1;
                taken.push(Delivery {
                    tag: self.last_tag,
                    given: record.given,
                    message: record.message,
                    redelivered,
                });
            }
        }
        taken
    }
}
