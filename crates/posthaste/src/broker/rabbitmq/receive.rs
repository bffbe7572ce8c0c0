//! Reading queues: deliveries as they come, acknowledged together once their effects are committed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::connect::Link;
use super::declare::Kind;
use super::partition_queue;
use super::properties;
use super::reading::{Arrival, Reading};
use crate::PARTITIONS;
use crate::broker::{BrokerError, Delivery};
use crate::handle::Subscription;
use crate::message::MessageId;
use crate::status::ReadingStatus;

/// Where several messages have come at once, more may be on the wire.
const LINGER: Duration = Duration::from_millis(3);
/// How often a queue that another process reads alone is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// Ids kept of deliveries that were in hand when a channel ended.
const KEPT: usize = 50_000;

/// The reader of one subscription's queues.
pub(crate) struct RabbitmqReceiver {
    link: Arc<Link>,
    queue: String,
    /// Reads the partition queues as well as the plain one.
    partitioned: bool,
    ordered: bool,
    /// Unacknowledged deliveries that RabbitMQ may have on the way to here, of one queue.
    prefetch: u16,
    epochs: i64,
    /// What everyone reads, or what has a single active reader.
    shared: Option<Reading>,
    /// The plain queue of an ordered subscription, while it is this process that reads it.
    alone: Option<Reading>,
    try_alone: Instant,
    reading: ReadingStatus,
    /// Messages that were in hand when a channel ended, and did not kill this process.
    survived: HashSet<MessageId>,
}

impl RabbitmqReceiver {
    pub(super) fn new(link: Arc<Link>, subscription: &Subscription, reading: &ReadingStatus) -> Self {
        let prefetch = subscription.batch.saturating_mul(2).clamp(1, usize::from(u16::MAX));
        Self {
            link,
            queue: subscription.queue.clone(),
            partitioned: subscription.partitioned || subscription.ordered,
            ordered: subscription.ordered,
            prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
            epochs: 0,
            shared: None,
            alone: None,
            try_alone: Instant::now(),
            reading: reading.clone(),
            survived: HashSet::new(),
        }
    }

    pub async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        loop {
            self.open().await?;
            self.reading.receives();
            let Some(arrival) = self.next().await else { continue };
            let mut arrivals = vec![arrival];
            self.take_waiting(&mut arrivals, max);
            if (2..max).contains(&arrivals.len()) {
                let end = Instant::now() + LINGER;
                while arrivals.len() < max {
                    match tokio::time::timeout_at(end, self.next()).await {
                        Ok(Some(arrival)) => arrivals.push(arrival),
                        Ok(None) | Err(_) => break,
                    }
                    self.take_waiting(&mut arrivals, max);
                }
            }
            if let Some(deliveries) = self.accept(arrivals) {
                return Ok(deliveries);
            }
        }
    }

    /// Opens what is not open. A channel of a lost connection is not.
    async fn open(&mut self) -> Result<(), BrokerError> {
        if self.shared.as_ref().is_some_and(|reading| !reading.alive()) {
            self.lose_shared();
        }
        if self.alone.as_ref().is_some_and(|reading| !reading.alive()) {
            self.lose_alone();
        }
        let wants_alone = self.ordered && self.alone.is_none() && self.try_alone <= Instant::now();
        if self.shared.is_some() && !wants_alone {
            return Ok(());
        }
        let up = self.link.up_at_last().await?;
        let target = self.link.target();
        if self.shared.is_none() {
            let mut queues = Vec::new();
            if !self.ordered {
                queues.push((self.queue.clone(), Kind::Plain));
            }
            if self.partitioned {
                queues.extend((0..PARTITIONS).map(|n| (partition_queue(&self.queue, n), Kind::Partition)));
            }
            let share = u16::try_from(queues.len()).unwrap_or(1);
            let prefetch = (self.prefetch / share).max(64.min(self.prefetch));
            self.epochs += 1;
            self.shared = Some(Reading::open(&up, target, self.epochs, &queues, prefetch).await?);
        }
        if wants_alone {
            self.epochs += 1;
            self.alone = Reading::open_alone(&up, target, self.epochs, &self.queue, self.prefetch).await?;
            self.try_alone = Instant::now() + RETRY;
        }
        Ok(())
    }

    /// The next arrival; `None` when there is something to open first.
    async fn next(&mut self) -> Option<Arrival> {
        let again = self.try_alone;
        let waits = self.ordered && self.alone.is_none();
        let shared = self.shared.as_mut()?;
        let alone = async {
            match &mut self.alone {
                Some(reading) => reading.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrival = shared.next() => arrival,
            arrival = alone => arrival,
            () = tokio::time::sleep_until(again), if waits => None,
        }
    }

    fn take_waiting(&mut self, arrivals: &mut Vec<Arrival>, max: usize) {
        for reading in [&mut self.shared, &mut self.alone].into_iter().flatten() {
            while arrivals.len() < max {
                match reading.arrivals.next().now_or_never() {
                    Some(Some(arrival)) => arrivals.push(arrival),
                    Some(None) | None => break,
                }
            }
        }
    }

    /// `None`: a channel has ended, and nothing is left to hand on. What came before its end is, so that a connection
    /// that is cut again and again gets somewhere; but not where order is asked for: the next reader has it already.
    fn accept(&mut self, arrivals: Vec<Arrival>) -> Option<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(arrivals.len());
        let mut ended = false;
        for arrival in arrivals {
            let Arrival {
                epoch,
                partition,
                arrived,
            } = arrival;
            let Some(arrived) = arrived else {
                ended = true;
                self.end(epoch);
                continue;
            };
            let delivery_tag = arrived.delivery_tag;
            let redelivered = arrived.redelivered;
            let (message, given) = properties::decode(arrived, &self.queue, partition);
            let hint = given.hint();
            let Some(reading) = self.reading(epoch) else { continue };
            let tag = reading.received(delivery_tag, hint);
            // With order asked for, the ones in hand must not go ahead of others that came back with them.
            let known = hint.is_some_and(|hint| redelivered && self.survived.remove(&hint));
            let survived = !self.ordered && known;
            deliveries.push(Delivery {
                tag,
                given,
                message,
                redelivered: redelivered && !survived,
            });
        }
        if ended && self.ordered {
            self.abandon();
            return None;
        }
        (!deliveries.is_empty()).then_some(deliveries)
    }

    fn reading(&self, epoch: i64) -> Option<&Reading> {
        [&self.shared, &self.alone]
            .into_iter()
            .flatten()
            .find(|reading| reading.epoch() == epoch)
    }

    fn end(&mut self, epoch: i64) {
        if self.shared.as_ref().is_some_and(|reading| reading.epoch() == epoch) {
            self.lose_shared();
        } else if self.alone.as_ref().is_some_and(|reading| reading.epoch() == epoch) {
            self.lose_alone();
        }
    }

    pub async fn acknowledge(&self, tags: &[i64]) {
        for reading in [&self.shared, &self.alone].into_iter().flatten() {
            reading.acknowledge(tags).await;
        }
    }

    /// The channels go, and RabbitMQ takes back what is not acknowledged.
    pub fn abandon(&mut self) {
        self.lose_shared();
        self.lose_alone();
    }

    fn lose_shared(&mut self) {
        if let Some(reading) = self.shared.take() {
            self.lose(reading);
        }
    }

    fn lose_alone(&mut self) {
        if let Some(reading) = self.alone.take() {
            self.try_alone = Instant::now();
            self.lose(reading);
        }
    }

    fn lose(&mut self, reading: Reading) {
        let in_hand = reading.close();
        if self.survived.len() + in_hand.len() > KEPT {
            self.survived.clear();
        }
        if !self.ordered {
            self.survived.extend(in_hand);
        }
    }
}
