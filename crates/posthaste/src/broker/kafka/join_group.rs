//! A member of the consumer group: what it does when it gets partitions and when it gives them up.

use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::poll_topic::Poller;
use super::track_offsets;
use super::watch_connection::{log_line, report};
use crate::telemetry::metric;

/// The note at a committed offset: nothing above it was in anybody's hand.
const RELEASED: &str = "released";
/// The note at a committed offset: records above it may be in somebody's hand.
const HELD: &str = "held";

/// How long a revoked partition's records in hand are waited for.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the cluster may take to say what is committed.
const COMMITTED: Duration = Duration::from_secs(5);

/// The member of the group as librdkafka calls it back, always in the polling thread.
pub(super) struct Member(pub Poller);

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&self.0.broker.0.connection, &error, reason);
        let reason = reason.to_owned();
        if says_once(&error) {
            self.0.reading.cannot_receive_until_it_does(reason);
        } else {
            self.0.reading.cannot_receive(reason);
        }
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.0.topic) else {
            return;
        };
        let mut state = self.0.shared.state();
        for (number, partition) in &mut state.partitions {
            let Some(seen) = topic.partitions.get(number) else {
                continue;
            };
            let deleted = partition.look(&track_offsets::Statistics {
                low: seen.lo_offset,
                end: seen.eof_offset,
                next_fetch: seen.next_offset,
                queued: seen.fetchq_cnt,
            });
            if deleted > 0 {
                tracing::error!(
                    topic = self.0.topic,
                    group = self.0.group,
                    partition = number,
                    deleted,
                    first_kept = seen.lo_offset,
                    "the cluster deleted records before they were read"
                );
            }
            if let Some(done) = partition.done_to().filter(|_| seen.ls_offset >= 0) {
                self.lag(*number, (seen.ls_offset - done).max(0));
            }
        }
        state.forget_old_fault();
        drop(state);
        self.0.shared.arrived.notify_one();
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.assign(consumer, partitions),
            Rebalance::Revoke(partitions) => self.revoke(consumer, partitions),
            Rebalance::Error(error) => tracing::warn!(topic = self.0.topic, %error, "the rebalance failed"),
        }
    }
}

impl Member {
    /// Asks what the holder before has left, and whether it left in order.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        // The group was joined, also where it has no partition for this member.
        self.0.reading.receives();
        let numbers = self.numbers(partitions);
        if numbers.is_empty() {
            return;
        }
        self.0.broker.0.connection.answers();
        let mut asked = TopicPartitionList::new();
        for number in &numbers {
            asked.add_partition(&self.0.topic, *number);
        }
        let committed = consumer.committed_offsets(asked, COMMITTED);
        if let Err(error) = &committed {
            tracing::debug!(topic = self.0.topic, %error, "what is committed is not known");
        }
        let mut state = self.0.shared.state();
        for number in &numbers {
            let found = committed
                .as_ref()
                .map(|list| list.find_partition(&self.0.topic, *number));
            let start = found.as_ref().ok().and_then(|found| offset_of(found.as_ref()?));
            let (committed, suspect) = match found {
                Ok(found) => handover(found.as_ref()),
                Err(_unknown) => (None, true),
            };
            state.assign(*number, self.0.window, committed, suspect, start);
        }
        state.recovered();
        drop(state);
        // librdkafka forgets its own pauses when a partition is taken away, and not those that were asked for.
        if let Err(error) = consumer.resume(partitions) {
            tracing::debug!(topic = self.0.topic, %error, "not resumed");
        }
        tracing::debug!(
            topic = self.0.topic,
            group = self.0.group,
            ?numbers,
            "partitions were assigned"
        );
    }

    /// Finishes what is in hand, and commits it before the next holder looks.
    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let numbers = self.numbers(partitions);
        let lost = consumer.assignment_lost();
        if !lost {
            self.0.shared.drain(&numbers, DRAIN);
        }
        let mut offsets = TopicPartitionList::new();
        let mut state = self.0.shared.state();
        for number in &numbers {
            if let Some(partition) = state.partitions.remove(number)
                && let Some(done) = partition.done_to()
            {
                let left = if partition.is_idle() { RELEASED } else { HELD };
                note(&mut offsets, &self.0.topic, *number, done, left);
            }
        }
        drop(state);
        for number in &numbers {
            // Somebody else's from now on.
            self.lag(*number, 0);
        }
        tracing::debug!(
            topic = self.0.topic,
            group = self.0.group,
            ?numbers,
            lost,
            "partitions were revoked"
        );
        if lost || offsets.count() == 0 {
            return;
        }
        let mode = if self.0.broker.0.connection.is_away() {
            CommitMode::Async
        } else {
            CommitMode::Sync
        };
        if let Err(error) = consumer.commit(&offsets, mode) {
            tracing::debug!(topic = self.0.topic, %error, "not committed; it will come again");
        }
    }

    fn numbers(&self, partitions: &TopicPartitionList) -> Vec<i32> {
        let ours = partitions.elements_for_topic(&self.0.topic);
        ours.iter().map(TopicPartitionListElem::partition).collect()
    }

    fn lag(&self, partition: i32, records: i64) {
        metrics::gauge!(
            metric::CONSUMER_LAG,
            "messaging_destination_name" => self.0.topic.clone(),
            "messaging_consumer_group_name" => self.0.group.clone(),
            "messaging_destination_partition_id" => partition.to_string()
        )
        .set(records as f64);
    }
}

fn offset_of(found: &TopicPartitionListElem<'_>) -> Option<i64> {
    match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// Whether the group refuses this member: librdkafka goes on asking and reports it once.
fn says_once(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::InconsistentGroupProtocol
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
        )
    )
}

/// What is committed with [`HELD`], and whether the records above may have been handed out before.
fn handover(found: Option<&TopicPartitionListElem<'_>>) -> (Option<i64>, bool) {
    let Some((Offset::Offset(offset), element)) = found.map(|element| (element.offset(), element)) else {
        // A new group: nobody has had anything.
        return (None, false);
    };
    match element.metadata() {
        RELEASED => (None, false),
        HELD => (Some(offset), true),
        // Another client's, or a person's who has reset the group.
        _ => (None, true),
    }
}

/// Adds `offset` to what is committed while records above it are in hand.
pub(super) fn hold(offsets: &mut TopicPartitionList, topic: &str, partition: i32, offset: i64) {
    note(offsets, topic, partition, offset, HELD);
}

fn note(offsets: &mut TopicPartitionList, topic: &str, partition: i32, offset: i64, note: &str) {
    let mut element = offsets.add_partition(topic, partition);
    element.set_metadata(note);
    // Refused only for offsets that are none.
    drop(element.set_offset(Offset::Offset(offset)));
}

#[cfg(test)]
mod tests {
    use super::{HELD, RELEASED, TopicPartitionList, handover, note};

    #[test]
    fn only_a_partition_that_was_given_up_in_order_is_free_of_suspicion() {
        for (left, expected) in [(RELEASED, (None, false)), (HELD, (Some(7), true)), ("", (None, true))] {
            let mut committed = TopicPartitionList::new();
            note(&mut committed, "t", 0, 7, left);
            assert_eq!(handover(committed.find_partition("t", 0).as_ref()), expected, "{left}");
        }
        let mut nothing = TopicPartitionList::new();
        nothing.add_partition("t", 0);
        assert_eq!(handover(nothing.find_partition("t", 0).as_ref()), (None, false));
    }
}
