//! Transports: publish confirmed, receive and acknowledge. Which one is chosen by URL at start.

#[cfg(feature = "kafka")]
mod kafka;
pub mod memory;
mod rabbitmq;
mod sql;
mod structured_event;

use std::time::Duration;

use crate::handle::Subscription;
use crate::identity::Given;
use crate::lease::Keeper;
use crate::message::Message;
use crate::status::ReadingStatus;
use crate::store::{Store, StoreError, Tx};
use std::sync::Arc;

/// Whether this build speaks to Kafka.
pub const HAS_KAFKA: bool = cfg!(feature = "kafka");

/// What a transport can refuse.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL names no transport of this build.
    #[error("{0}")]
    Url(String),
    /// The transport is away; whether it took the message may be unknown.
    #[error("the transport is not available")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The transport did not answer in time.
    #[error("the transport did not confirm within {0:?}")]
    Deadline(Duration),
    /// The transport never takes a message of this size.
    #[error("the message is too large for the transport: {0}")]
    TooLarge(String),
    /// The transport can never carry this message: its headers are too large, its destination has no possible name.
    #[error("the transport cannot carry the message: {0}")]
    Invalid(String),
    /// The transport refused the message; it may take it later.
    #[error("the transport refused the message: {0}")]
    Refused(String),
}

impl BrokerError {
    /// Whether the transport, not the message or its destination, is the cause.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Deadline(_))
    }

    /// Whether the transport never takes this message, however often it is tried.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::Invalid(_))
    }
}

impl From<StoreError> for BrokerError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// A transport.
#[derive(Clone)]
pub enum Broker {
    /// Queue rows in the service's own database.
    Sql(sql::SqlBroker),
    /// In this process, for tests: it behaves like a foreign broker that outlives its clients.
    Memory(memory::MemoryBroker),
    /// RabbitMQ, or what speaks AMQP 0-9-1 as it does.
    Rabbitmq(rabbitmq::RabbitmqBroker),
    /// An Apache Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaBroker),
}

impl Broker {
    /// The transport behind `url` (`sql:`, `amqp://`, `amqps://`, `kafka://`, `memory:`), next to the database `store`.
    /// It may come later: nothing is connected yet.
    ///
    /// # Errors
    /// [`BrokerError::Url`] when this build has no such transport or the URL cannot be read.
    pub fn open(url: &str, store: &Store) -> Result<Self, BrokerError> {
        match url.split(':').next() {
            Some("sql") => Ok(Self::Sql(sql::SqlBroker::start(store.clone()))),
            Some("memory") => Ok(Self::Memory(memory::MemoryBroker::default())),
            Some("amqp" | "amqps") => Ok(Self::Rabbitmq(rabbitmq::RabbitmqBroker::open(url)?)),
            #[cfg(feature = "kafka")]
            Some("kafka" | "kafkas") => Ok(Self::Kafka(kafka::KafkaBroker::open(url)?)),
            _ => Err(BrokerError::Url(format!(
                "{} is no transport of this build; write sql: (queues in the service's own database), \
                 amqp://USER:PASSWORD@HOST, kafka://HOST:9092 or memory: (tests)",
                crate::store::mask(url)
            ))),
        }
    }

    /// Which it is, as people write it.
    pub fn title(&self) -> &'static str {
        match self.name() {
            "kafka" => "Kafka",
            "rabbitmq" => "RabbitMQ",
            other => other,
        }
    }

    /// Its name in labels and settings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sql(_) => "sql",
            Self::Memory(_) => "memory",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            Self::Rabbitmq(_) => "rabbitmq",
        }
    }

    /// Publishes `messages` and answers for each whether the transport has confirmed it. The order of
    /// the confirmed ones is the order given: a transport that has not taken a message takes no later
    /// one of the same topic and key in this call, or the order of that key would be lost.
    pub async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), BrokerError>> {
        match self {
            Self::Sql(broker) => broker.publish(messages).await,
            Self::Memory(broker) => broker.publish(messages).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(broker) => broker.publish(messages).await,
            Self::Rabbitmq(broker) => broker.publish(messages).await,
        }
    }

    /// As [`Broker::publish`] for single messages that many tasks publish at a time: they share
    /// commits or confirms.
    pub(crate) async fn publish_grouped(&self, message: Message) -> Result<(), BrokerError> {
        match self {
            Self::Sql(broker) => broker.publish_grouped(message).await,
            Self::Memory(broker) => broker.publish(vec![message]).await.pop().unwrap_or(Ok(())),
            #[cfg(feature = "kafka")]
            Self::Kafka(broker) => broker.publish(vec![message]).await.pop().unwrap_or(Ok(())),
            Self::Rabbitmq(broker) => broker.publish_grouped(message).await,
        }
    }

    /// Tells the transport what publishers have to know of the queues of `subscriptions`, too: a queue is declared by
    /// whoever needs it first.
    pub fn learn(&self, subscriptions: &[Subscription]) {
        if let Self::Rabbitmq(broker) = self {
            broker.learn(subscriptions);
        }
    }

    /// Makes sure that `queues` exist, which others read, where the transport has queues that may be missing.
    pub(crate) async fn declare(&self, queues: &[String]) -> Result<(), BrokerError> {
        match self {
            Self::Sql(_) | Self::Memory(_) => Ok(()),
            #[cfg(feature = "kafka")]
            Self::Kafka(broker) => broker.declare(queues).await,
            Self::Rabbitmq(broker) => broker.declare(queues).await,
        }
    }

    /// The subscription that collects what this transport moves aside for `subscription`.
    pub(crate) fn collector(&self, subscription: &Subscription) -> Option<Subscription> {
        let unread = subscription.unread.as_ref()?;
        matches!(self, Self::Rabbitmq(_)).then(|| Subscription {
            queue: unread.queue.clone(),
            ordered: false,
            partitioned: false,
            unread: None,
            ..subscription.clone()
        })
    }

    /// Asks the transport for an answer within `limit`.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn ping(&self, limit: Duration) -> Result<(), BrokerError> {
        match self {
            Self::Sql(broker) => Ok(broker.ping(limit).await?),
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "kafka")]
            Self::Kafka(broker) => broker.ping(limit).await,
            Self::Rabbitmq(broker) => broker.ping(limit).await,
        }
    }

    /// A reader of the queue of `subscription` for the worker role whose leases are `scope`.
    pub(crate) fn receiver(
        &self,
        subscription: &Subscription,
        keeper: &Arc<Keeper>,
        scope: &str,
        reading: &ReadingStatus,
    ) -> Receiver {
        match self {
            Self::Sql(broker) => Receiver::Sql(broker.receiver(&subscription.queue, keeper, scope)),
            Self::Memory(broker) => Receiver::Memory(broker.receiver(&subscription.queue)),
            #[cfg(feature = "kafka")]
            Self::Kafka(broker) => Receiver::Kafka(broker.receiver(subscription, scope, reading)),
            Self::Rabbitmq(broker) => Receiver::Rabbitmq(Box::new(broker.receiver(subscription, reading))),
        }
    }
}

/// A message that has come and waits to be settled.
pub(crate) struct Delivery {
    /// What the transport knows it by.
    pub tag: i64,
    /// What came with it to tell it from others; its id follows from that and from the contract.
    pub given: Given,
    pub message: Message,
    /// It may have been handed out before: handled alone, its attempt written first.
    pub redelivered: bool,
}

/// The reading end of one queue.
pub(crate) enum Receiver {
    Sql(sql::SqlReceiver),
    Memory(memory::MemoryReceiver),
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaReceiver),
    Rabbitmq(Box<rabbitmq::RabbitmqReceiver>),
}

impl Receiver {
    /// Waits for messages; at most `max` of them, in order.
    pub async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        match self {
            Self::Sql(receiver) => receiver.receive(max).await,
            Self::Memory(receiver) => receiver.receive(max).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(receiver) => receiver.receive(max).await,
            Self::Rabbitmq(receiver) => receiver.receive(max).await,
        }
    }

    /// Settles inside the transaction of the effect where the transport can; `false`: the deliveries
    /// belong to another reader by now and `tx` must be rolled back.
    pub async fn settle_in(&self, tx: &Tx, tags: &[i64]) -> Result<bool, StoreError> {
        match self {
            Self::Sql(receiver) => receiver.settle_in(tx, tags).await,
            Self::Memory(_) | Self::Rabbitmq(_) => Ok(true),
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => Ok(true),
        }
    }

    /// Acknowledges after the commit what could not be settled in it.
    pub async fn acknowledge(&self, tags: &[i64]) -> Result<(), BrokerError> {
        match self {
            Self::Sql(_) => Ok(()),
            Self::Memory(receiver) => {
                receiver.acknowledge(tags);
                Ok(())
            }
            Self::Rabbitmq(receiver) => {
                receiver.acknowledge(tags).await;
                Ok(())
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(receiver) => {
                receiver.acknowledge(tags);
                Ok(())
            }
        }
    }

    /// Whether its queue lies in the database that the effects are written to.
    pub fn shares_database(&self) -> bool {
        matches!(self, Self::Sql(_))
    }

    /// Everything received has been settled.
    pub fn settled(&mut self) {
        if let Self::Sql(receiver) = self {
            receiver.settled();
        }
    }

    /// Gives back what was received and not settled.
    pub fn abandon(&mut self) {
        match self {
            Self::Sql(receiver) => receiver.abandon(),
            Self::Memory(receiver) => receiver.abandon(),
            Self::Rabbitmq(receiver) => receiver.abandon(),
            #[cfg(feature = "kafka")]
            Self::Kafka(receiver) => receiver.abandon(),
        }
    }

    /// Ends the reading so that others can go on at once; what is not settled is given back.
    pub async fn close(self) {
        match self {
            Self::Sql(_) | Self::Memory(_) | Self::Rabbitmq(_) => {}
            #[cfg(feature = "kafka")]
            Self::Kafka(receiver) => receiver.close().await,
        }
    }
}
