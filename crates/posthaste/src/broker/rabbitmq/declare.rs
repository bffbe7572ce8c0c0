//! Queues are declared before their first use on a connection; one that someone else declared otherwise is used as
//! it is.

use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::connect::Up;
use super::target::Target;
use super::unavailable;
use crate::broker::BrokerError;
use crate::failure::chain;
use crate::handle::Unread;

/// What kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whoever publishes by hand uses it.
    Plain,
    /// Read by one consumer at a time.
    Partition,
    /// Others read it, and it may be a stream.
    Written,
}

/// Makes sure that `queue` is there.
pub(super) async fn declare(up: &Arc<Up>, target: &Target, queue: &str, kind: Kind) -> Result<(), BrokerError> {
    if up.declared().contains(queue) {
        return Ok(());
    }
    let bound = target.bound_of(queue);
    if let Some(bound) = &bound {
        // RabbitMQ drops what it cannot move.
        Box::pin(declare(up, target, &bound.queue, Kind::Written)).await?;
    }
    let name = queue_name(queue)?;
    let arguments = arguments(target, kind, bound.as_ref());
    let found = up.in_time(ask(up, &name, arguments)).await??;
    if kind != Kind::Written && found.is_some_and(|refused| refused.contains(STREAM)) {
        return Err(BrokerError::Unavailable(Arc::new(IsStream(queue.to_owned()))));
    }
    up.declared().insert(queue.to_owned());
    Ok(())
}

/// How RabbitMQ says that a queue is a stream.
const STREAM: &str = "current is the value 'stream'";

/// A stream has no acknowledgement: it would be read from its start after every reconnect, for longer than the inbox
/// remembers.
#[derive(Debug, thiserror::Error)]
#[error("the queue {0} is a stream, which cannot be read as a queue; declare a classic or quorum queue of this name")]
struct IsStream(String);

/// The name as the protocol has it.
pub(super) fn queue_name(queue: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(queue)
        .map_err(|too_long| BrokerError::Invalid(format!("AMQP has no such queue name: {too_long}")))
}

/// `Some`: it is there as somebody else declared it, and this is what RabbitMQ said of the difference.
async fn ask(up: &Arc<Up>, name: &ShortString, arguments: FieldTable) -> Result<Option<String>, BrokerError> {
    let mut slot = up.declaring.lock().await;
    let channel = match slot.take().filter(|channel| channel.status().connected()) {
        Some(channel) => channel,
        None => up.channel().await?,
    };
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let refused = match channel.queue_declare(name.clone(), options, arguments).await {
        Ok(_queue) => {
            *slot = Some(channel);
            return Ok(None);
        }
        Err(error) if error.is_amqp_soft_error() => error,
        Err(error) => return Err(unavailable(error)),
    };
    // Declared by someone else with other arguments, or not ours to declare: being there is enough. The refusal has
    // closed the channel.
    let channel = up.channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    match channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await
    {
        Ok(_queue) => {
            *slot = Some(channel);
            let refused = chain(&refused);
            tracing::warn!(queue = %name, error = refused, "the queue is used as it was declared by someone else");
            Ok(Some(refused))
        }
        Err(error) if error.is_amqp_soft_error() => Err(BrokerError::Refused(chain(&refused))),
        Err(error) => Err(unavailable(error)),
    }
}

/// Makes sure that the queue `name` is there, a classic one that goes with its reader. `false`: it may not be.
pub(super) async fn declare_lock(up: &Arc<Up>, name: &ShortString) -> Result<bool, BrokerError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let options = QueueDeclareOptions {
        durable: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let channel = up.channel().await?;
    let asked = channel.queue_declare(name.clone(), options, arguments);
    match up.in_time(asked).await? {
        Ok(_queue) => {
            up.in_time(channel.close(200, "OK".into()))
                .await?
                .map_err(unavailable)?;
            Ok(true)
        }
        Err(error) if error.is_amqp_soft_error() => {
            tracing::warn!(queue = %name, error = %chain(&error), "more than one process may read the plain queue: this one, which says whose turn it is, cannot be declared");
            Ok(false)
        }
        Err(error) => Err(unavailable(error)),
    }
}

fn arguments(target: &Target, kind: Kind, bound: Option<&Unread>) -> FieldTable {
    let mut arguments = FieldTable::default();
    if target.quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
    if kind == Kind::Partition {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if let Some(Unread { after, queue }) = bound {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(after));
        // The default exchange: straight to the queue of that name.
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            AMQPValue::LongString(queue.as_str().into()),
        );
    }
    arguments
}
