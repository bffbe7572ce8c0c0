//! Messages that were given up: their bytes, cause and attempts, to look at, replay or discard.

use chrono::{DateTime, Utc};
use std::time::Duration;

use crate::handle::Subscription;
use crate::identity;
use crate::message::{Message, MessageId};
use crate::store::inbox_rows::{self, Fate};
use crate::store::{Store, StoreError, Tx, dead_letter_rows, outbox_rows};
use crate::telemetry::metric;

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

/// Which dead letters are meant; both conditions hold, an empty one holds for all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this subscription's.
    pub subscription: Option<String>,
    /// Only these.
    pub ids: Vec<MessageId>,
}

/// The newest dead letters of `selection`, at most `limit`.
///
/// # Errors
/// When the database is away.
pub async fn list(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    dead_letter_rows::list(store, selection, limit).await
}

/// Hands `selection` to its handlers again, under the same ids and with all attempts ahead of them;
/// answers how many.
///
/// # Errors
/// When the database is away; then none was replayed.
pub async fn replay(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    let mut tx = store.begin().await?;
    let count = replay_in(&mut tx, selection).await?;
    tx.commit().await?;
    Ok(count)
}

/// As [`replay`], if and only if `tx` commits: for whoever records it.
///
/// # Errors
/// When the database is away; `tx` is of no use then.
pub async fn replay_in(tx: &mut Tx, selection: &Selection) -> Result<u64, StoreError> {
    let count = dead_letter_rows::replay(tx, selection).await?;
    metrics::counter!(metric::REPLAYED, "posthaste_outcome" => "retrying").increment(count);
    Ok(count)
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
    inbox_rows::settle_new(&mut tx, &letter.subscription, &message, 0, fate).await?;
    tx.commit().await?;
    Ok(message.id)
}

/// Gives `selection` up for good; answers how many. The ids stay known as handled.
///
/// # Errors
/// When the database is away; then none was discarded.
pub async fn discard(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    let tx = store.begin().await?;
    let count = discard_in(&tx, selection).await?;
    tx.commit().await?;
    Ok(count)
}

/// As [`discard`], if and only if `tx` commits.
///
/// # Errors
/// When the database is away; `tx` is of no use then.
pub async fn discard_in(tx: &Tx, selection: &Selection) -> Result<u64, StoreError> {
    dead_letter_rows::discard(tx, selection).await
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
    let buried = match from {
        Origin::Transport { attempts } => {
            inbox_rows::settle_new(tx, &subscription.name, message, attempts, fate).await?
        }
        Origin::Taken { claimed, attempts } => {
            inbox_rows::settle_taken(tx, &subscription.name, message.id.0, claimed, attempts, fate).await?
        }
    };
    // A repeat of what was handled or buried before is no news.
    if !buried {
        return Ok(());
    }
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
        told.push(copy);
    }
    if let Some(on_dead) = &subscription.on_dead {
        match on_dead(message, error) {
            Ok(messages) => told.extend(messages),
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
