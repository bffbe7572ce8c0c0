//! RabbitMQ (AMQP 0-9-1). Messages go through the default exchange to the queue named like their topic, so any AMQP
//! client can publish to it or read it; the queue is durable and declared without arguments, except one that is bounded
//! in time (see [`Subscription::unread`]).
//!
//! **Order.** A queue with several readers has no order. Messages of an [ordered](crate::Event::ORDERED) event
//! therefore go to one of sixteen queues, `<topic>.p0` to `<topic>.p15`, chosen by their key. Each has a single active
//! consumer: the first process to come reads all sixteen, the others stand by. A subscription to such an event reads
//! these queues and the plain one, where people and foreign clients publish by hand. If the subscription is ordered,
//! one process at a time reads the plain queue too; the others look every few seconds whether it is free. With quorum
//! queues who may is said by a queue `<topic>.reader`, which goes with its reader. The
//! publisher keeps at most one unconfirmed message of an ordered key on the way, because RabbitMQ may refuse one and
//! take the next. Keys of events without order are pipelined freely.
//!
//! **Connections.** One for publishing and one for reading, each made at the first need and for ever again after a
//! loss. lapin's own recovery is not used: after any error the channels are dropped and opened anew, what was not
//! confirmed is published again, and what was not acknowledged comes again.
//!
//! **URL.** `amqp://user:password@host:port/vhost`, `amqps://` for TLS. Without a path or with an empty one the vhost
//! is `/`. `?queue_type=quorum` declares quorum queues instead of what the server's default is; `heartbeat`,
//! `frame_max` and `channel_max` are taken as everywhere. A queue that exists with other arguments is used as it is.
//!
//! **Streams** are written to and not read: a stream has no acknowledgement, and would come again from its start after each
//! reconnect.
//!
//! **Delivery limits.** A quorum queue drops, or moves to its dead-letter exchange, what was given back more often than its
//! `delivery-limit` (20 by default from RabbitMQ 4 on). A process gives back what it has in hand when it dies, loses its
//! connection or its database, once each time: raise the limit by a policy where that may happen so often to one message.

mod connect;
mod declare;
mod properties;
mod publish;
mod publish_grouped;
mod reading;
mod receive;
mod target;

use std::sync::Arc;
use std::time::Duration;

use super::BrokerError;
use crate::handle::Subscription;
use crate::message::Message;
use crate::status::ReadingStatus;
use connect::Link;
use publish::Publishing;
use publish_grouped::Grouped;
use target::Target;

pub(crate) use receive::RabbitmqReceiver;

/// A RabbitMQ server or cluster. Cheap to clone.
#[derive(Clone)]
pub struct RabbitmqBroker {
    publishing: Arc<Publishing>,
    consuming: Arc<Link>,
    grouped: Grouped,
}

impl RabbitmqBroker {
    /// The broker behind `url`; connects at the first need.
    pub(super) fn open(url: &str) -> Result<Self, BrokerError> {
        let target = Arc::new(Target::parse(url)?);
        let publishing = Arc::new(Publishing::on(Link::to(target.clone(), "publishing")));
        Ok(Self {
            grouped: Grouped::start(publishing.clone()),
            publishing,
            consuming: Arc::new(Link::to(target, "reading")),
        })
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), BrokerError>> {
        self.publishing.publish(messages, publish::BATCH_LIMIT).await
    }

    pub(super) async fn publish_grouped(&self, message: Message) -> Result<(), BrokerError> {
        self.grouped.publish(message).await
    }

    /// An answer from the server on each connection in use.
    pub(super) async fn ping(&self, limit: Duration) -> Result<(), BrokerError> {
        let asked = async {
            self.publishing.link().up(limit).await?.ping().await?;
            if self.consuming.started() {
                self.consuming.up(limit).await?.ping().await?;
            }
            Ok(())
        };
        tokio::time::timeout(limit, asked)
            .await
            .unwrap_or(Err(BrokerError::Deadline(limit)))
    }

    /// Makes sure that `queues` exist, which others read.
    pub(super) async fn declare(&self, queues: &[String]) -> Result<(), BrokerError> {
        let link = self.publishing.link();
        let up = link.up_at_last().await?;
        for queue in queues {
            declare::declare(&up, link.target(), queue, declare::Kind::Written).await?;
        }
        Ok(())
    }

    pub(super) fn learn(&self, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            if let Some(unread) = &subscription.unread {
                self.consuming.target().bound(&subscription.queue, unread);
            }
        }
    }

    pub(super) fn receiver(&self, subscription: &Subscription, reading: &ReadingStatus) -> RabbitmqReceiver {
        RabbitmqReceiver::new(self.consuming.clone(), subscription, reading)
    }
}

/// The queue of partition `partition` of an ordered topic.
fn partition_queue(topic: &str, partition: u16) -> String {
    format!("{topic}.p{partition}")
}

fn unavailable(error: lapin::Error) -> BrokerError {
    BrokerError::Unavailable(Arc::new(error))
}
