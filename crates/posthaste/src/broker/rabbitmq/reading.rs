//! One channel that reads queues, and which of its deliveries are settled.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::SelectAll;
use futures_util::{FutureExt, Stream, StreamExt};
use lapin::message::Delivery as Arrived;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::connect::Up;
use super::declare::{Kind, declare, declare_lock, queue_name};
use super::target::{LIMIT, Target};
use super::{properties, unavailable};
use crate::broker::BrokerError;
use crate::failure::chain;
use crate::message::MessageId;

/// A tag is the number of the channel and, in these low bits, RabbitMQ's number on it.
const TAG_BITS: u32 = 40;

/// What comes out of a channel.
pub(super) struct Arrival {
    pub(super) epoch: i64,
    /// From a partition queue.
    pub(super) partition: bool,
    /// `None`: the channel or one of its queues is gone.
    pub(super) arrived: Option<Arrived>,
}

pub(super) struct Reading {
    epoch: i64,
    up: Arc<Up>,
    channel: Channel,
    pub(super) arrivals: SelectAll<Source>,
    unsettled: Mutex<Unsettled>,
    /// An acknowledgement did not get through.
    failed: AtomicBool,
    /// Says that it is this process's turn to read a plain quorum queue; nothing comes of it.
    turn: Option<Consumer>,
}

/// One queue's deliveries.
pub(super) struct Source {
    epoch: i64,
    partition: bool,
    consumer: Option<Consumer>,
}

impl Stream for Source {
    type Item = Arrival;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let (epoch, partition) = (self.epoch, self.partition);
        let arrival = |arrived| {
            Poll::Ready(Some(Arrival {
                epoch,
                partition,
                arrived,
            }))
        };
        let Some(consumer) = &mut self.consumer else {
            return Poll::Ready(None);
        };
        match consumer.poll_next_unpin(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(arrived))) => arrival(Some(arrived)),
            Poll::Ready(ended) => {
                match ended {
                    Some(Err(error)) => tracing::debug!(error = %chain(&error), "a channel to RabbitMQ ended"),
                    Some(Ok(_)) | None => {
                        tracing::info!(queue = %consumer.queue(), "RabbitMQ ended the reading of a queue; it begins anew");
                    }
                }
                self.consumer = None;
                arrival(None)
            }
        }
    }
}

impl Reading {
    /// Reads `queues`, which are declared first.
    pub(super) async fn open(
        up: &Arc<Up>,
        target: &Target,
        epoch: i64,
        queues: &[(String, Kind)],
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let mut reading = Self::on(up, epoch, prefetch).await?;
        for (queue, kind) in queues {
            // It may have been deleted since the last look.
            up.declared().remove(queue);
            declare(up, target, queue, *kind).await?;
            let name = queue_name(queue)?;
            reading.consume(name, *kind, false).await?.map_err(unavailable)?;
        }
        Ok(reading)
    }

    /// Reads the plain queue as its only reader; `None` while there is another.
    pub(super) async fn open_alone(
        up: &Arc<Up>,
        target: &Target,
        epoch: i64,
        queue: &str,
        prefetch: u16,
    ) -> Result<Option<Self>, BrokerError> {
        let mut reading = Self::on(up, epoch, prefetch).await?;
        if target.quorum && !reading.lock(queue).await? {
            return Ok(None);
        }
        up.declared().remove(queue);
        declare(up, target, queue, Kind::Plain).await?;
        match reading.consume(queue_name(queue)?, Kind::Plain, true).await? {
            Ok(()) => Ok(Some(reading)),
            Err(error) if error.is_amqp_soft_error() => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Quorum queues take the wish to be alone and grant it to everybody, so a classic queue beside is read alone as long
    /// as this channel is open. `false` while another one reads it.
    async fn lock(&mut self, queue: &str) -> Result<bool, BrokerError> {
        let Ok(name) = ShortString::try_new(format!("{queue}.reader")) else {
            tracing::warn!(
                queue,
                "a name so long leaves none for the queue that says who may read it"
            );
            return Ok(true);
        };
        if !declare_lock(&self.up, &name).await? {
            return Ok(true);
        }
        let options = BasicConsumeOptions {
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let asked = self
            .channel
            .basic_consume(name, "".into(), options, FieldTable::default());
        match self.up.in_time(asked).await? {
            Ok(consumer) => {
                self.turn = Some(consumer);
                Ok(true)
            }
            // Somebody else has it, or it went with somebody just now.
            Err(error) if error.is_amqp_soft_error() => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn on(up: &Arc<Up>, epoch: i64, prefetch: u16) -> Result<Self, BrokerError> {
        let channel = up.channel().await?;
        let options = BasicQosOptions::default();
        up.in_time(channel.basic_qos(prefetch, options))
            .await?
            .map_err(unavailable)?;
        Ok(Self {
            epoch,
            up: up.clone(),
            channel,
            arrivals: SelectAll::new(),
            unsettled: Mutex::new(Unsettled {
                next: 1,
                ..Unsettled::default()
            }),
            failed: AtomicBool::new(false),
            turn: None,
        })
    }

    async fn consume(
        &mut self,
        queue: ShortString,
        kind: Kind,
        exclusive: bool,
    ) -> Result<Result<(), lapin::Error>, BrokerError> {
        let options = BasicConsumeOptions {
            exclusive,
            ..BasicConsumeOptions::default()
        };
        let asked = self
            .channel
            .basic_consume(queue, "".into(), options, FieldTable::default());
        let consumer = match self.up.in_time(asked).await? {
            Ok(consumer) => consumer,
            Err(error) => return Ok(Err(error)),
        };
        self.arrivals.push(Source {
            epoch: self.epoch,
            partition: kind == Kind::Partition,
            consumer: Some(consumer),
        });
        Ok(Ok(()))
    }

    /// The next arrival; `None` when its connection is replaced.
    pub(super) async fn next(&mut self) -> Option<Arrival> {
        tokio::select! {
            arrival = self.arrivals.next() => arrival,
            () = self.up.gone() => None,
        }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(super) fn alive(&self) -> bool {
        self.up.alive() && self.channel.status().connected() && !self.failed.load(Ordering::Relaxed)
    }

    /// Notes a delivery that is handed on; answers the tag to settle it by.
    pub(super) fn received(&self, delivery_tag: u64, id: Option<MessageId>) -> i64 {
        self.unsettled().in_hand.insert(delivery_tag, id);
        // RabbitMQ counts from 1 on each channel; neither number comes near its bits.
        (self.epoch << TAG_BITS) | i64::try_from(delivery_tag).unwrap_or(i64::MAX)
    }

    /// Settles those of `tags` that belong to this channel. What does not get through comes again.
    pub(super) async fn acknowledge(&self, tags: &[i64]) {
        let mask = (1 << TAG_BITS) - 1;
        let own = tags.iter().filter(|tag| **tag >> TAG_BITS == self.epoch);
        let own = own.filter_map(|tag| u64::try_from(tag & mask).ok());
        let Some(up_to) = self.unsettled().settle(own) else {
            return;
        };
        let options = BasicAckOptions { multiple: true };
        let sent = self.up.in_time(self.channel.basic_ack(up_to, options)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the channel; RabbitMQ takes back what was not acknowledged. Answers the ids of that.
    pub(super) fn close(mut self) -> Vec<MessageId> {
        let mut ids: Vec<MessageId> = std::mem::take(&mut self.unsettled().in_hand)
            .into_values()
            .flatten()
            .collect();
        while let Some(Some(arrival)) = self.arrivals.next().now_or_never() {
            ids.extend(arrival.arrived.as_ref().and_then(properties::hint));
        }
        ids
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    /// Ends the channel before its consumers. Cancelled by themselves, they would let each queue's next reader have what
    /// comes after the deliveries in hand here, before these are given back.
    fn drop(&mut self) {
        let (channel, arrivals) = (self.channel.clone(), std::mem::take(&mut self.arrivals));
        let turn = self.turn.take();
        // Without a runtime the process ends, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // In vain only where the connection is gone, and with it the channel.
                drop(tokio::time::timeout(LIMIT, channel.close(200, "OK".into())).await);
                drop((arrivals, turn));
            });
        }
    }
}

/// What of a channel's deliveries still waits for its acknowledgement.
#[derive(Default)]
struct Unsettled {
    /// All before this one are acknowledged.
    next: u64,
    /// Settled, behind one that is not.
    settled: BTreeSet<u64>,
    /// Handed on and not settled.
    in_hand: BTreeMap<u64, Option<MessageId>>,
}

impl Unsettled {
    /// The number up to which everything is settled, if it has risen.
    fn settle(&mut self, tags: impl Iterator<Item = u64>) -> Option<u64> {
        for tag in tags {
            if self.in_hand.remove(&tag).is_some() {
                self.settled.insert(tag);
            }
        }
        let before = self.next;
        while self.settled.remove(&self.next) {
            self.next += 1;
        }
        (self.next > before).then_some(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Unsettled;

    #[test]
    fn only_what_has_nothing_open_before_it_is_acknowledged() {
        let mut unsettled = Unsettled {
            next: 1,
            ..Unsettled::default()
        };
        for tag in [1, 2, 3, 5] {
            unsettled.in_hand.insert(tag, None);
        }
        assert_eq!(unsettled.settle([2, 3].into_iter()), None);
        assert_eq!(unsettled.settle([1, 1, 9].into_iter()), Some(3));
        assert_eq!(unsettled.settle([5].into_iter()), None);
        unsettled.in_hand.insert(4, None);
        assert_eq!(unsettled.settle([4].into_iter()), Some(5));
    }
}
