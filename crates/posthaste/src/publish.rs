//! Publishing without a transaction of the caller's: straight to the transport, and to the outbox
//! while the transport is away.

use crate::broker::{Broker, BrokerError};
use crate::failure::chain;
use crate::group_commit::GroupCommit;
use crate::message::Message;
use crate::outbox;
use crate::store::{Store, StoreError};
use crate::telemetry::metric;

/// Where an accepted message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The transport has confirmed it.
    Broker,
    /// It waits in the outbox until the transport is back.
    Outbox,
}

/// Neither the transport nor the outbox could take the message.
#[derive(Debug, thiserror::Error)]
#[error("neither the transport ({broker}) nor the outbox could take the message")]
pub struct PublishError {
    /// What the transport said.
    pub broker: BrokerError,
    /// What the database said.
    #[source]
    pub store: StoreError,
}

/// Publishes for one service. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    service: String,
    broker: Broker,
    outbox: GroupCommit,
}

impl Publisher {
    /// A publisher for `service` on `broker`, with the outbox in `store` to fall back on.
    pub fn new(service: &str, store: Store, broker: Broker) -> Self {
        let writer = (store.clone(), service.to_owned());
        let outbox = GroupCommit::start(&store, move |messages| {
            let (store, service) = writer.clone();
            async move { append(&store, &service, messages).await }
        });
        Self {
            service: service.to_owned(),
            broker,
            outbox,
        }
    }

    /// The transport.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Publishes `message`; once this answers `Ok` it is durable. When the transport's answer was lost
    /// it may go out twice, under one id.
    ///
    /// It keeps no order with what its key has in the outbox: a message that goes straight to the transport overtakes
    /// one that waits there, as those do that came while the transport was away. Where the order of a key matters, all
    /// of its messages belong into the outbox ([`Publisher::append`], [`outbox::append`]).
    ///
    /// # Errors
    /// When neither the transport nor the outbox took it; the caller may try again with the same id.
    pub async fn publish(&self, mut message: Message) -> Result<Via, PublishError> {
        if message.source.is_empty() {
            message.source.clone_from(&self.service);
        }
        let spare = message.clone();
        let broker = match self.broker.publish_grouped(message).await {
            Ok(()) => {
                metrics::counter!(metric::SENT).increment(1);
                return Ok(Via::Broker);
            }
            Err(error) => error,
        };
        tracing::warn!(service = self.service, message_id = %spare.id, error = %chain(&broker), "not published; to the outbox");
        match self.outbox.submit(spare).await {
            Ok(()) => Ok(Via::Outbox),
            Err(store) => Err(PublishError { broker, store }),
        }
    }

    /// Writes `message` to the outbox in a commit that it shares with other callers' messages: for requests that
    /// write nothing else. The relay publishes it.
    ///
    /// # Errors
    /// When the database is away; the caller may try again with the same id.
    pub async fn append(&self, message: Message) -> Result<(), StoreError> {
        self.outbox.submit(message).await
    }
}

async fn append(store: &Store, service: &str, messages: Vec<Message>) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let rows = messages.into_iter().map(|message| (message, None)).collect();
    outbox::append_all(&mut tx, service, rows).await?;
    tx.commit().await
}
