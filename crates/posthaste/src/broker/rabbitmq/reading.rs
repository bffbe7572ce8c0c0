//! One channel that reads queues.

use std::sync::Arc;

use lapin::Consumer;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{mpsc, oneshot};

use super::connect::Up;
use super::declare::{Kind, declare, declare_lock, queue_name};
use super::hold_bytes::Bytes;
use super::take_in::{Added, Arrival, Plain, Share, Source, TakeIn, Taking};
use super::target::Target;
use super::unavailable;
use super::unsettled::Ledger;
use crate::broker::BrokerError;
use crate::message::MessageId;

/// A tag is the number of the channel and, in these low bits, RabbitMQ's number on it.
const TAG_BITS: u32 = 40;

pub(super) struct Reading {
    epoch: i64,
    ledger: Arc<Ledger>,
    pub(super) arrivals: mpsc::UnboundedReceiver<Arrival>,
    add: mpsc::UnboundedSender<Added>,
    /// Ends the task that takes in what comes, and the channel.
    stop: Option<oneshot::Sender<Option<Consumer>>>,
    /// Says that it is this process's turn to read a plain quorum queue; nothing comes of it.
    turn: Option<Consumer>,
}

/// How many unacknowledged deliveries RabbitMQ may have on the way to here.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    /// Of the plain queue, at most.
    pub(super) plain: u16,
    /// Of each partition queue.
    pub(super) partition: u16,
}

impl Reading {
    /// Reads `queues`, which are declared first.
    pub(super) async fn open(
        up: &Arc<Up>,
        bytes: &Arc<Bytes>,
        target: &Target,
        epoch: i64,
        queues: &[(String, Kind)],
        prefetch: Prefetch,
    ) -> Result<Self, BrokerError> {
        let mut reading = Self::on(up, bytes, epoch).await?;
        let mut shared = None;
        for ((queue, kind), n) in queues.iter().zip(0u16..) {
            // It may have been deleted since the last look.
            up.declared().remove(queue);
            declare(up, target, queue, *kind).await?;
            let queue = queue_name(queue)?;
            let (share, prefetch) = if *kind == Kind::Partition {
                (Share::Own(n), prefetch.partition)
            } else {
                let plain = Plain {
                    queue: queue.clone(),
                    most: prefetch.plain,
                };
                let first = plain.first();
                shared = Some(plain);
                (Share::Shared, first)
            };
            let consumed = reading.consume(queue, *kind, share, prefetch).await?;
            consumed.map_err(unavailable)?;
        }
        if let Some(plain) = shared {
            reading.tell(Added::Plain(plain));
        }
        Ok(reading)
    }

    /// Reads the plain queue as its only reader; `None` while there is another.
    pub(super) async fn open_alone(
        up: &Arc<Up>,
        bytes: &Arc<Bytes>,
        target: &Target,
        epoch: i64,
        queue: &str,
        prefetch: u16,
    ) -> Result<Option<Self>, BrokerError> {
        let mut reading = Self::on(up, bytes, epoch).await?;
        if target.quorum && !reading.lock(queue).await? {
            return Ok(None);
        }
        up.declared().remove(queue);
        declare(up, target, queue, Kind::Plain).await?;
        let queue = queue_name(queue)?;
        match reading.consume(queue, Kind::Plain, Share::Own(0), prefetch).await? {
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
        if !declare_lock(self.ledger.up(), &name).await? {
            return Ok(true);
        }
        let options = BasicConsumeOptions {
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let asked = self
            .ledger
            .channel()
            .basic_consume(name, "".into(), options, FieldTable::default());
        match self.ledger.up().in_time(asked).await? {
            Ok(consumer) => {
                self.turn = Some(consumer);
                Ok(true)
            }
            // Somebody else has it, or it went with somebody just now.
            Err(error) if error.is_amqp_soft_error() => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn on(up: &Arc<Up>, bytes: &Arc<Bytes>, epoch: i64) -> Result<Self, BrokerError> {
        let channel = up.channel().await?;
        let ledger = Arc::new(Ledger::new(up.clone(), channel, bytes.clone()));
        let Taking { arrivals, add, stop } = TakeIn::start(epoch, ledger.clone());
        Ok(Self {
            epoch,
            ledger,
            arrivals,
            add,
            stop: Some(stop),
            turn: None,
        })
    }

    async fn consume(
        &mut self,
        queue: ShortString,
        kind: Kind,
        share: Share,
        prefetch: u16,
    ) -> Result<Result<(), lapin::Error>, BrokerError> {
        let options = BasicConsumeOptions {
            exclusive: kind == Kind::Plain && share != Share::Shared,
            ..BasicConsumeOptions::default()
        };
        let asked = async {
            let channel = self.ledger.channel();
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            channel
                .basic_consume(queue, "".into(), options, FieldTable::default())
                .await
        };
        let consumer = match self.ledger.up().in_time(asked).await? {
            Ok(consumer) => consumer,
            Err(error) => return Ok(Err(error)),
        };
        self.tell(Added::Source(Source {
            share,
            partition: kind == Kind::Partition,
            consumer: Some(consumer),
        }));
        Ok(Ok(()))
    }

    fn tell(&self, added: Added) {
        // The task runs as long as this is here.
        drop(self.add.send(added));
    }

    /// The next arrival; `None` when its connection is replaced.
    pub(super) async fn next(&mut self) -> Option<Arrival> {
        tokio::select! {
            arrival = self.arrivals.recv() => arrival,
            () = self.ledger.up().gone() => None,
        }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(super) fn alive(&self) -> bool {
        self.ledger.alive()
    }

    /// The tag to settle a delivery by.
    pub(super) fn tag(&self, delivery_tag: u64) -> i64 {
        // RabbitMQ counts from 1 on each channel; neither number comes near its bits.
        (self.epoch << TAG_BITS) | i64::try_from(delivery_tag).unwrap_or(i64::MAX)
    }

    /// Settles those of `tags` that belong to this channel. What does not get through comes again.
    pub(super) async fn acknowledge(&self, tags: &[i64]) {
        let mask = (1 << TAG_BITS) - 1;
        let own = tags.iter().filter(|tag| **tag >> TAG_BITS == self.epoch);
        let own = own.filter_map(|tag| u64::try_from(tag & mask).ok());
        self.ledger.acknowledge(own).await;
    }

    /// Ends the channel; RabbitMQ takes back what was not acknowledged. Returns the ids of that.
    pub(super) fn close(self) -> Vec<MessageId> {
        self.ledger.close()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.ledger.close());
        if let Some(stop) = self.stop.take() {
            // Only a runtime that ends has ended the task before.
            drop(stop.send(self.turn.take()));
        }
    }
}
