//! Handlers and their subscriptions.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::DatabaseTransaction;

use crate::contract::Event;
use crate::failure::{Failure, Handled};
use crate::handle_outside::{self, Act, HandleOutside};
use crate::message::{Message, MessageId};
use crate::retry::RetryPolicy;
use crate::store::Tx;

/// Handles one event at a time.
///
/// Everything written through `cx` commits together with the message's inbox mark, or not at all.
/// The call may be repeated after a failure; its committed effect is not.
pub trait Handle<E: Event>: Send + Sync + 'static {
    /// The effect of `event`.
    fn handle(&self, event: E, cx: &mut Cx<'_>) -> impl Future<Output = Handled> + Send;
}

/// Handles a whole batch in one call, for effects that one statement can write.
///
/// If it fails the batch is halved until the message at fault stands alone.
pub trait HandleBatch<E: Event>: Send + Sync + 'static {
    /// The effect of `events`, in the order they came; no message id occurs twice.
    fn handle_batch(&self, events: Vec<Received<E>>, cx: &mut Cx<'_>) -> impl Future<Output = Handled> + Send;
}

/// An event and the message that brought it.
pub struct Received<E> {
    /// The decoded body.
    pub event: E,
    /// Its envelope.
    pub message: Arc<Message>,
}

/// What a handler works with: the open transaction and the message in hand.
pub struct Cx<'a> {
    tx: &'a mut Tx,
    message: Arc<Message>,
    subscription: &'a str,
    attempt: u32,
    published: &'a mut Vec<(Message, Option<DateTime<Utc>>)>,
    derived: Derived,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(
        tx: &'a mut Tx,
        message: Arc<Message>,
        subscription: &'a str,
        attempt: u32,
        published: &'a mut Vec<(Message, Option<DateTime<Utc>>)>,
    ) -> Self {
        Self {
            tx,
            message,
            subscription,
            attempt,
            published,
            derived: Derived::default(),
        }
    }

    /// The SeaORM transaction that the handler's rows belong in.
    pub fn db(&self) -> &DatabaseTransaction {
        self.tx.db()
    }

    /// The same transaction with posthaste's own helpers.
    pub fn tx(&mut self) -> &mut Tx {
        self.tx
    }

    /// The message being handled; in a batch the first one.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Which attempt this is, counted from 1; attempts that ended in a crash count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Publishes `event` if and only if this transaction commits. Its id derives from the message in
    /// hand, so that a repeat publishes under the same id.
    ///
    /// # Errors
    /// When the event cannot be written as JSON.
    pub fn publish<E: Event>(&mut self, event: &E) -> Result<MessageId, Failure> {
        self.send(Message::of(event)?, None)
    }

    /// As [`Cx::publish`], handed to the transport at `due` instead of at once.
    ///
    /// # Errors
    /// When the event cannot be written as JSON.
    pub fn publish_at<E: Event>(&mut self, event: &E, due: DateTime<Utc>) -> Result<MessageId, Failure> {
        self.send(Message::of(event)?, Some(due))
    }

    /// As [`Cx::publish`] for a message made by hand, for example with another topic.
    ///
    /// # Errors
    /// None today; the signature leaves room for limits.
    pub fn send(&mut self, mut message: Message, due: Option<DateTime<Utc>>) -> Result<MessageId, Failure> {
        let cause = self.message.clone();
        message.correlation_id = message.correlation_id.or_else(|| cause.correlation_id.clone());
        Ok(self.push(&cause, message, due))
    }

    /// As [`Cx::send`] in a batch: `message` follows from `cause`, one of the batch, and not from its first.
    ///
    /// # Errors
    /// As [`Cx::send`].
    pub fn send_for(&mut self, cause: &Message, mut message: Message) -> Result<MessageId, Failure> {
        message.correlation_id.clone_from(&cause.correlation_id);
        message.traceparent = cause.traceparent.clone().or(message.traceparent);
        Ok(self.push(cause, message, None))
    }

    fn push(&mut self, cause: &Message, mut message: Message, due: Option<DateTime<Utc>>) -> MessageId {
        message.id = self.derived.next(cause.id, self.subscription);
        message.causation_id = Some(cause.id.to_string());
        let id = message.id;
        self.published.push((message, due));
        id
    }
}

/// Ids of what a handler publishes. Each cause has a count of its own: a repeat may come in a batch with other messages,
/// and is to publish under the same ids.
#[derive(Default)]
struct Derived(HashMap<MessageId, u32>);

impl Derived {
    fn next(&mut self, cause: MessageId, subscription: &str) -> MessageId {
        let count = self.0.entry(cause).or_insert(0);
        let id = cause.derive(subscription, *count);
        *count += 1;
        id
    }
}

/// From a message that was given up and its cause to what tells others of it. The messages commit with the dead
/// letter; their ids derive from the message's. The body may be anything.
pub type OnDead = Arc<dyn Fn(&Message, &str) -> Result<Vec<Message>, serde_json::Error> + Send + Sync>;

/// What becomes of messages that lie in a queue unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// How long they may, in whole milliseconds.
    pub after: Duration,
    /// Where the transport moves them then. From there they come to the dead letters of the subscription, which can be
    /// replayed; the transport alone would keep them for nobody.
    pub queue: String,
}

/// A handler on a queue, with the rules for its messages.
#[derive(Clone)]
pub struct Subscription {
    /// Unique name within the service; part of the inbox key, so it must not change.
    pub name: String,
    /// The queue or topic it reads.
    pub queue: String,
    /// Keep the order per key through retries: a failed message holds back its own key.
    pub ordered: bool,
    /// What follows a failed attempt.
    pub retry: RetryPolicy,
    /// Most messages in one transaction.
    pub batch: usize,
    /// Transactions at a time (SQLite, which has one writer, always takes 1).
    pub concurrency: usize,
    /// How long one handler call may take before it counts as failed.
    pub deadline: Duration,
    /// The Kafka consumer group; the service's name where there is none. Other transports have no groups.
    pub group: Option<String>,
    /// Whether the inbox recognises messages that were handled before. Without it a message that comes again is handled
    /// again, and the inbox keeps only what failed: for handlers whose effect may be repeated.
    pub deduplicate: bool,
    /// Whether messages are handled that are older than the inbox remembers ([`Tuning::keep_inbox`](crate::Tuning)) and
    /// that it does not know: a topic that is read from its beginning, for example. One that was handled before is handled
    /// again then. Without it they become dead letters, which can be replayed.
    pub take_old: bool,
    /// A copy of each dead letter goes to this queue too.
    pub dead_letter_queue: Option<String>,
    /// Messages that nobody reads in time become dead letters. Only on RabbitMQ, where a queue may be bounded in time.
    pub unread: Option<Unread>,
    /// What else is published when a message is given up.
    pub on_dead: Option<OnDead>,
    /// Queues for readers outside of the system that its handler publishes to. They exist from the start of the relay on,
    /// as its dead-letter queue does: others may read them before there is a first message.
    pub writes: Vec<String>,
    /// Its event is [ordered](Event::ORDERED), so it may lie in partition queues.
    pub(crate) partitioned: bool,
    pub(crate) contract: Contract,
    pub(crate) effect: Effect,
}

impl Subscription {
    /// `handler` on `queue`, one event a call, with the defaults: unordered, batches of 500.
    pub fn new<E: Event, H: Handle<E>>(name: &str, queue: &str, handler: H) -> Self {
        let single = Single(handler, PhantomData::<fn() -> E>);
        Self::with::<E>(name, queue, Effect::Each(Arc::new(single)))
    }

    /// `handler` on `queue`, a whole batch a call.
    pub fn batch<E: Event, H: HandleBatch<E>>(name: &str, queue: &str, handler: H) -> Self {
        let batched = Batched(handler, PhantomData::<fn() -> E>);
        Self::with::<E>(name, queue, Effect::Batch(Arc::new(batched)))
    }

    /// `handler` on `queue`, one event a call and without a transaction. Up to four calls at a time are shared by all such
    /// subscriptions of a service (`concurrency` means nothing here), and messages are always recognised.
    pub fn outside<E: Event, H: HandleOutside<E>>(name: &str, queue: &str, handler: H) -> Self {
        Self::with::<E>(name, queue, Effect::Outside(handle_outside::erase::<E, H>(handler)))
    }

    fn with<E: Event>(name: &str, queue: &str, effect: Effect) -> Self {
        Self {
            name: name.to_owned(),
            queue: queue.to_owned(),
            ordered: false,
            retry: RetryPolicy::default(),
            batch: 500,
            concurrency: 2,
            deadline: Duration::from_secs(30),
            group: None,
            deduplicate: true,
            take_old: false,
            dead_letter_queue: None,
            unread: None,
            on_dead: None,
            writes: Vec::new(),
            partitioned: E::ORDERED,
            contract: Contract {
                decode: decode::<E>,
                dedup_key: dedup_key::<E>,
                key: key::<E>,
            },
            effect,
        }
    }
}

/// A decoded event of a type that only its handler knows.
pub(crate) type Decoded = Box<dyn Any + Send>;
pub(crate) type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Handled> + Send + 'a>>;

/// How the bodies of a queue are read.
#[derive(Clone, Copy)]
pub(crate) struct Contract {
    /// The event in a message, or why it can never be handled.
    pub decode: fn(&Message) -> Result<Decoded, String>,
    /// The id inside a body that came without an envelope.
    pub dedup_key: fn(&[u8]) -> Option<String>,
    pub key: fn(&[u8]) -> Option<String>,
}

/// What is done with events; erased, because subscriptions of different types of them stand in one list.
#[derive(Clone)]
pub(crate) enum Effect {
    /// A call for each, in the transaction of their marks.
    Each(Arc<dyn Within>),
    /// One call for all.
    Batch(Arc<dyn Within>),
    /// A call for each, before the transaction of its mark.
    Outside(Act),
}

/// A handler in a transaction.
pub(crate) trait Within: Send + Sync {
    /// Runs it on the one message, or on all of them.
    fn handle<'a>(&'a self, items: Vec<(Arc<Message>, Decoded)>, cx: &'a mut Cx<'_>) -> HandlerFuture<'a>;
}

/// Runs code of the contract's author: a panic in it is the message's failure, not the consumer's end.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        format!(
            "the contract's own code panicked: {}",
            crate::failure::panic_text(panic.as_ref())
        )
    })
}

fn decode<E: Event>(message: &Message) -> Result<Decoded, String> {
    guarded(|| decode_event::<E>(message))?
}

fn decode_event<E: Event>(message: &Message) -> Result<Decoded, String> {
    let event: E = serde_json::from_slice(&message.body)
        .map_err(|error| format!("the body breaks the contract: {}", without_values(&error.to_string())))?;
    event
        .validate()
        .map_err(|rule| format!("the body breaks the contract: {rule}"))?;
    Ok(Box::new(event))
}

/// A decoder's complaint without the values it quotes: causes are logged, and bodies hold personal data.
fn without_values(text: &str) -> String {
    let mut parts = text.split('"');
    let first = parts.next().unwrap_or_default().to_owned();
    let last = parts.next_back();
    match last {
        Some(last) => format!("{first}\"…\"{last}"),
        None => first,
    }
}

/// As [`dedup_key`], the key of its order.
fn key<E: Event>(body: &[u8]) -> Option<String> {
    guarded(|| serde_json::from_slice::<E>(body).ok()?.key()).ok()?
}

fn dedup_key<E: Event>(body: &[u8]) -> Option<String> {
    // A body that cannot be read is found out when it is decoded.
    guarded(|| serde_json::from_slice::<E>(body).ok()?.dedup_key()).ok()?
}

pub(crate) fn downcast<E: Event>(decoded: Decoded) -> Result<E, Failure> {
    match decoded.downcast::<E>() {
        Ok(event) => Ok(*event),
        Err(_other_type) => Err(Failure::Reject("decoded by another handler".to_owned())),
    }
}

struct Single<E, H>(H, PhantomData<fn() -> E>);

impl<E: Event, H: Handle<E>> Within for Single<E, H> {
    fn handle<'a>(&'a self, items: Vec<(Arc<Message>, Decoded)>, cx: &'a mut Cx<'_>) -> HandlerFuture<'a> {
        Box::pin(async move {
            for (_message, decoded) in items {
                self.0.handle(downcast(decoded)?, cx).await?;
            }
            Ok(())
        })
    }
}

struct Batched<E, H>(H, PhantomData<fn() -> E>);

impl<E: Event, H: HandleBatch<E>> Within for Batched<E, H> {
    fn handle<'a>(&'a self, items: Vec<(Arc<Message>, Decoded)>, cx: &'a mut Cx<'_>) -> HandlerFuture<'a> {
        Box::pin(async move {
            let mut events = Vec::with_capacity(items.len());
            for (message, decoded) in items {
                events.push(Received {
                    event: downcast(decoded)?,
                    message,
                });
            }
            self.0.handle_batch(events, cx).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Derived, without_values};
    use crate::message::MessageId;

    #[test]
    fn ids_follow_from_the_cause_and_not_from_its_place_in_the_batch() {
        let (one, two) = (MessageId::new(), MessageId::new());
        let ids = |causes: &[MessageId]| -> Vec<MessageId> {
            let mut derived = Derived::default();
            causes.iter().map(|cause| derived.next(*cause, "s")).collect()
        };
        let [a, b, c] = ids(&[one, two, two])[..] else { panic!() };
        assert_eq!(ids(&[two, two, one]), [b, c, a]);
        assert!(a != b && b != c);
    }

    #[test]
    fn complaints_quote_no_values() {
        let error = serde_json::from_str::<u32>("\"my \\\"secret\\\" \\u0000 value\"")
            .map_err(|error| without_values(&error.to_string()));
        assert_eq!(
            error,
            Err("invalid type: string \"…\", expected u32 at line 1 column 28".to_owned())
        );
        assert_eq!(
            without_values("missing field `user_id` at line 1"),
            "missing field `user_id` at line 1"
        );
    }
}
