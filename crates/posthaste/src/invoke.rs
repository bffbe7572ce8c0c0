//! One call of a handler: deadline, panic guard, correlation id, span, what it published.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::DbErr;
use tracing::Instrument;

use crate::correlation;
use crate::failure::{Failure, Handled};
use crate::handle::{Cx, Decoded, Subscription};
use crate::message::Message;
use crate::store::{StoreError, Tx};
use crate::telemetry::{self, metric};

/// A handler's failure; `culprit` is the index of the message at fault where it is known.
pub(crate) struct Failed {
    pub culprit: Option<usize>,
    pub failure: Failure,
}

/// A message and what its body says.
pub(crate) type Item = (Arc<Message>, Decoded);

/// What the handler calls published, to be appended in the same transaction.
pub(crate) type Published = Vec<(Message, Option<DateTime<Utc>>)>;

/// Runs the handler of `subscription` on `items` inside `tx`.
pub(crate) async fn invoke(
    subscription: &Subscription,
    tx: &mut Tx,
    items: Vec<Item>,
    attempt: u32,
) -> Result<Published, Failed> {
    let mut published = Vec::new();
    if subscription.handler.takes_batches() {
        let single = items.len() == 1;
        call(subscription, tx, items, attempt, &mut published)
            .await
            .map_err(|failure| Failed {
                culprit: single.then_some(0),
                failure,
            })?;
    } else {
        for (n, item) in items.into_iter().enumerate() {
            call(subscription, tx, vec![item], attempt, &mut published)
                .await
                .map_err(|failure| Failed {
                    culprit: Some(n),
                    failure,
                })?;
        }
    }
    Ok(published)
}

async fn call(
    subscription: &Subscription,
    tx: &mut Tx,
    items: Vec<Item>,
    attempt: u32,
    published: &mut Published,
) -> Handled {
    let Some(first) = items.first().map(|(message, _)| message.clone()) else {
        return Ok(());
    };
    let span = tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.operation.name = "process",
        messaging.destination.name = subscription.queue,
        messaging.message.id = tracing::field::Empty,
        messaging.message.conversation_id = first.correlation_id,
        messaging.batch.message_count = items.len(),
    );
    if !span.is_disabled() {
        trace(&span, &items);
    }
    let started = Instant::now();
    let mut cx = Cx::new(tx, first.clone(), &subscription.name, attempt, published);
    let work = subscription.handler.handle(items, &mut cx).instrument(span);
    let work = AssertUnwindSafe(tokio::time::timeout(subscription.deadline, work)).catch_unwind();
    let work = async {
        match &first.correlation_id {
            Some(id) => correlation::scope(id.clone(), work).await,
            None => work.await,
        }
    };
    let outcome = match &first.traceparent {
        Some(traceparent) => correlation::traced(traceparent.clone(), work).await,
        None => work.await,
    };
    metrics::histogram!(metric::PROCESS, "messaging_destination_name" => subscription.queue.clone())
        .record(started.elapsed());
    match outcome {
        Ok(Ok(handled)) => handled,
        Ok(Err(_elapsed)) => Err(Failure::Retry(Box::new(Unanswered::Deadline(subscription.deadline)))),
        Err(panic) => Err(Failure::Retry(Box::new(Unanswered::Panic(crate::failure::panic_text(
            panic.as_ref(),
        ))))),
    }
}

/// A lone message continues its publisher's trace; a batch, which has many, links to all of them.
fn trace(span: &tracing::Span, items: &[Item]) {
    if let [(message, _)] = items {
        span.record("messaging.message.id", message.id.to_string());
        if let Some(traceparent) = &message.traceparent {
            telemetry::continue_trace(span, traceparent);
        }
        return;
    }
    for traceparent in items.iter().filter_map(|(message, _)| message.traceparent.as_deref()) {
        telemetry::link_trace(span, traceparent);
    }
}

/// A handler that gave no answer of its own.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the handler did not finish within {0:?}")]
    Deadline(Duration),
    #[error("the handler panicked: {0}")]
    Panic(String),
}

/// What the database has to do with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// It is away: no message is at fault and no attempt is counted.
    Unavailable,
    /// Two transactions collided: the same once more.
    Collision,
    /// The message or its handler.
    Message,
}

/// Looks through the causes of `failure` for the database's part in it.
pub(crate) fn blame(failure: &Failure) -> Blame {
    let Failure::Retry(error) = failure else {
        return Blame::Message;
    };
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = next {
        let found = match (error.downcast_ref::<StoreError>(), error.downcast_ref::<DbErr>()) {
            // The handler's own statement took too long; while the database is away, no handler is called.
            (Some(StoreError::Deadline(_)), _) => Blame::Message,
            (Some(store), _) => blame_store(store),
            (None, Some(db)) => match StoreError::from(db.clone()) {
                StoreError::Deadline(_) => Blame::Message,
                store => blame_store(&store),
            },
            (None, None) => Blame::Message,
        };
        if found != Blame::Message {
            return found;
        }
        next = error.source();
    }
    Blame::Message
}

pub(crate) fn blame_store(error: &StoreError) -> Blame {
    match error {
        error if error.is_unavailable() => Blame::Unavailable,
        StoreError::Collision(_) => Blame::Collision,
        _ => Blame::Message,
    }
}

/// `failure` as the cause that a parked row or a dead letter keeps.
pub(crate) fn cause(failure: &Failure) -> String {
    match failure {
        Failure::Retry(error) => crate::failure::chain(error.as_ref()),
        Failure::Reject(reason) => reason.clone(),
        Failure::Later(after) => format!("asked for again after {after:?}"),
    }
}
