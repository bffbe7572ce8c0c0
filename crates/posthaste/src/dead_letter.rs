//! Messages that were given up: their bytes, cause and attempts, to look at, replay or discard.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::handle::Subscription;
use crate::identity;
use crate::message::{Message, MessageId};
pub use crate::settle_letters::{Act, Operator, Progress, settle};
use crate::store::inbox_rows::{self, Aside, Fate, Written};
use crate::store::{Store, StoreError, Tx, dead_letter_rows, outbox_rows};

/// A message that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Whose message it was.
    pub subscription: String,
    /// The message with the bytes that came.
    pub message: Message,
    /// Attempts that were made; 0 when it was refused before any.
    pub attempts: u32,
    /// The last failure and its causes.
    pub error: String,
    /// When it first came.
    pub received_at: DateTime<Utc>,
    /// When it first failed.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// When it was given up.
    pub last_failed_at: Option<DateTime<Utc>>,
}

/// Which dead letters are meant; all conditions hold, an empty one holds for all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these subscriptions'.
    pub subscriptions: Option<Vec<String>>,
    /// Of what could not be sent, only these services'.
    pub outboxes: Option<Vec<String>>,
    /// Only these.
    pub ids: Vec<MessageId>,
}

impl Selection {
    /// The dead letters of one subscription.
    pub fn of_subscription(name: &str) -> Self {
        Self {
            subscriptions: Some(vec![name.to_owned()]),
            outboxes: Some(Vec::new()),
            ids: Vec::new(),
        }
    }
}

/// A dead letter without its body and headers.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Whose message it is.
    pub owner: Owner,
    /// Its id.
    pub id: MessageId,
    /// Its type.
    pub event_type: String,
    /// The topic or queue it is for.
    pub topic: String,
    /// Its ordering key.
    pub key: Option<String>,
    /// The request or message chain that it belongs to.
    pub correlation_id: Option<String>,
    /// Attempts that were made; 0 when it was refused before any.
    pub attempts: u32,
    /// The last failure and its causes.
    pub error: String,
    /// When it first came, or was written.
    pub received_at: DateTime<Utc>,
    /// When it first failed.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// When it was given up.
    pub last_failed_at: DateTime<Utc>,
}

/// Where a dead letter lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// In the inbox: a subscription gave it up.
    Subscription(String),
    /// In the outbox of a service: the transport will never take it.
    Outbox(String),
}

/// A place between dead letters, which are ordered by the time they died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The time.
    pub at: DateTime<Utc>,
    /// Among those of one time the message id.
    pub id: Uuid,
    /// Among those of one time and id the subscription or service.
    pub owner: String,
}

impl Place {
    /// Before everything that died at `at` or later.
    pub fn before(at: DateTime<Utc>) -> Self {
        Self {
            at,
            id: Uuid::nil(),
            owner: String::new(),
        }
    }

    /// Where `letter` is.
    pub fn of(letter: &Summary) -> Self {
        let (Owner::Subscription(owner) | Owner::Outbox(owner)) = &letter.owner;
        Self {
            at: letter.last_failed_at,
            id: letter.id.0,
            owner: owner.clone(),
        }
    }
}

/// The newest dead letters of `selection` that died before `before`, at most `limit`. No bodies are read.
///
/// # Errors
/// When the database is away.
pub async fn page(
    store: &Store,
    selection: &Selection,
    before: Option<&Place>,
    limit: u32,
) -> Result<Vec<Summary>, StoreError> {
    dead_letter_rows::page(store, selection, before, limit).await
}

/// The newest dead letters of subscriptions of `selection` with their bodies, at most `limit`.
///
/// # Errors
/// When the database is away.
pub async fn list(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    dead_letter_rows::list(store, selection, limit).await
}

/// A message that the transport will never take.
#[derive(Clone, Debug)]
pub struct Unsent {
    /// The service whose outbox it is in.
    pub service: String,
    /// The message.
    pub message: Message,
    /// Why it cannot be sent.
    pub error: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was given up.
    pub failed_at: DateTime<Utc>,
}

/// What of `selection` lies dead in outboxes, with the bodies, newest first, at most `limit`.
///
/// # Errors
/// When the database is away.
pub async fn list_unsent(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<Unsent>, StoreError> {
    dead_letter_rows::list_unsent(store, selection, limit).await
}

/// How many dead letters `selection` has.
///
/// # Errors
/// When the database is away.
pub async fn count(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    dead_letter_rows::count(store, selection).await
}

/// How the database finds the dead letters of `selection`: the plans of the statements that list and settle them.
///
/// # Errors
/// When the database is away.
#[cfg(feature = "explore")]
pub async fn explain(store: &Store, selection: &Selection) -> Result<Vec<String>, StoreError> {
    dead_letter_rows::explain(store, selection).await
}

/// Does [`Act::Replay`] to `selection`; returns the count.
///
/// # Errors
/// As [`settle`].
pub async fn replay(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    settle_all(store, Act::Replay, selection).await
}

/// Does [`Act::Discard`] to `selection`; returns the count.
///
/// # Errors
/// As [`settle`].
pub async fn discard(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    settle_all(store, Act::Discard, selection).await
}

async fn settle_all(store: &Store, act: Act, selection: &Selection) -> Result<u64, StoreError> {
    let never = CancellationToken::new();
    let done = settle(store, act, selection, &Operator::new("program"), &never, |_| ()).await?;
    Ok(done.done)
}

/// Hands `letter` to its handler with another body. It gets a new id with a causation link; the
/// original stays dead until it is discarded.
///
/// # Errors
/// When the database is away; then nothing was replayed.
pub async fn replay_edited(store: &Store, letter: &DeadLetter, body: Vec<u8>) -> Result<MessageId, StoreError> {
    let mut message = letter.message.clone();
    message.id = MessageId::new();
    message.causation_id = Some(letter.message.id.to_string());
    message.body = body;
    let mut tx = store.begin().await?;
    let fate = Fate::Retrying {
        after: Duration::ZERO,
        error: None,
    };
    let written = inbox_rows::settle_new(&mut tx, &letter.subscription, &message, 0, fate).await?;
    debug_assert!(matches!(written, Written::AsAsked), "the id is new");
    tx.commit().await?;
    Ok(message.id)
}

/// Most bytes of attributes and headers that go along with a copy: RabbitMQ has one frame for all of them, and a copy
/// that it cannot carry would stay pending for ever. The dead letter itself keeps them.
const COPIED: usize = 64 * 1024;

/// The header of a copy that names the queue the message came on.
const ORIGIN: &str = "posthaste-origin-destination";

/// Whether `message` is a copy for a dead-letter queue.
pub(crate) fn is_copy(message: &Message) -> bool {
    message.headers.contains_key(ORIGIN)
}

/// What a dead letter says of a body that the database does not take.
pub(crate) fn body_omitted(message: &Message) -> String {
    let hash = Sha256::digest(&message.body);
    let hash = hash
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let bytes = message.body.len();
    format!("the database does not take its body of {bytes} bytes (SHA-256 {hash})")
}

/// Where a message stood when it was given up.
pub(crate) enum Origin {
    /// It came from the transport and is new to the inbox.
    Transport { attempts: u32 },
    /// The retrier had taken its row, of which `claimed` attempts were counted by then.
    Taken { claimed: u32, attempts: u32 },
}

/// Writes `message` as dead, a copy to the subscription's dead-letter queue, and what [`Subscription::on_dead`]
/// makes of it; nothing where another worker has settled it before.
pub(crate) async fn bury(
    tx: &mut Tx,
    service: &str,
    subscription: &Subscription,
    message: &Message,
    from: Origin,
    error: &str,
) -> Result<(), StoreError> {
    let (Origin::Transport { attempts } | Origin::Taken { attempts, .. }) = from;
    let fate = Fate::Dead { error };
    match from {
        Origin::Transport { attempts } => {
            match inbox_rows::settle_new(tx, &subscription.name, message, attempts, fate).await? {
                Written::AsAsked => {}
                Written::Aside(aside) => return follow_aside(tx, service, subscription, &aside).await,
                // A repeat of what was handled or dead before is no news.
                Written::Not => return Ok(()),
            }
        }
        Origin::Taken { claimed, attempts } => {
            if !inbox_rows::settle_taken(tx, &subscription.name, message.id.0, claimed, attempts, fate).await? {
                return Ok(());
            }
        }
    }
    follow(tx, service, subscription, message, attempts, error).await
}

/// Writes what follows a message that was kept as a dead letter beside the one that has its identity.
pub(crate) async fn follow_aside(
    tx: &mut Tx,
    service: &str,
    subscription: &Subscription,
    aside: &Aside,
) -> Result<(), StoreError> {
    follow(tx, service, subscription, &aside.message, 0, &aside.error).await
}

/// Logs the dead letter `message`, and writes its copy and what [`Subscription::on_dead`] makes of it.
async fn follow(
    tx: &mut Tx,
    service: &str,
    subscription: &Subscription,
    message: &Message,
    attempts: u32,
    error: &str,
) -> Result<(), StoreError> {
    tracing::error!(
        subscription = subscription.name,
        message_id = %message.id,
        correlation_id = message.correlation_id,
        attempts,
        error,
        "dead letter"
    );
    let mut told = Vec::new();
    if let Some(queue) = &subscription.dead_letter_queue {
        let mut copy = if message.envelope_bytes() > COPIED {
            message.bare()
        } else {
            message.clone()
        };
        copy.topic.clone_from(queue);
        // The copy is evidence: it is to be read however late.
        copy.expires_at = None;
        copy.headers
            .insert("posthaste-error-message".to_owned(), error.chars().take(1000).collect());
        copy.headers
            .insert("posthaste-attempt".to_owned(), attempts.to_string());
        copy.headers.insert(ORIGIN.to_owned(), message.topic.clone());
        // The row took the body; with what is added here it may not fit any more.
        if !tx.store().takes(&copy) {
            tracing::warn!(subscription = subscription.name, message_id = %message.id, "{}", body_omitted(&copy));
            copy.body.clear();
        }
        told.push(copy);
    }
    if let Some(on_dead) = &subscription.on_dead {
        match on_dead(message, error) {
            Ok(messages) => told.extend(messages.into_iter().filter(|message| {
                let takes = tx.store().takes(message);
                if !takes {
                    tracing::error!(
                        subscription = subscription.name,
                        topic = message.topic,
                        "{}",
                        body_omitted(message)
                    );
                }
                takes
            })),
            // The dead letter itself must not fail for it.
            Err(failure) => {
                tracing::error!(subscription = subscription.name, message_id = %message.id, error = %failure, "nobody is told of the dead letter");
            }
        }
    }
    // A correction of it, should that one die too, has the same id and is told of by messages of its own.
    let hash = identity::body_hash(&message.body);
    let told_of = format!("{} {}", subscription.name, identity::set_aside(message.id, &hash));
    for (copy, n) in told.iter_mut().zip(0u32..) {
        copy.id = message.id.derive(&told_of, u32::MAX - n);
        copy.causation_id = Some(message.id.to_string());
        copy.correlation_id.clone_from(&message.correlation_id);
    }
    outbox_rows::append(tx, service, told.into_iter().map(|copy| (copy, None)).collect()).await
}
