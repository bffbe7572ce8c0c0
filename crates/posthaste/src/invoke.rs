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
use crate::handle::{Cx, Decoded, Effect, Subscription};
use crate::handle_outside::{Act, Outside};
use crate::message::Message;
use crate::store::{StoreError, Tx, idle_limit};
use crate::telemetry::{self, metric};

/// A handler's failure; `culprit` is the index of the message at fault where it is known.
pub(crate) struct Failed {
    pub culprit: Option<usize>,
    pub failure: Failure,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self {
            culprit: None,
            failure: Failure::Retry(Box::new(error)),
        }
    }
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
    let handler = match &subscription.effect {
        Effect::Each(handler) | Effect::Batch(handler) => handler,
        // It has acted before.
        Effect::Outside(_) => return Ok(published),
    };
    if let Some(limit) = idle_limit::for_handler(subscription.deadline) {
        tx.limit_idle(limit).await.map_err(|error| Failed {
            culprit: None,
            failure: Failure::Retry(Box::new(error)),
        })?;
    }
    let one_call = matches!(subscription.effect, Effect::Batch(_));
    let single = items.len() == 1;
    let calls = if one_call {
        vec![items]
    } else {
        items.into_iter().map(|item| vec![item]).collect()
    };
    for (n, items) in calls.into_iter().enumerate() {
        let Some((first, _)) = items.first() else { continue };
        let of = Call::of(subscription, items.iter().map(|(message, _)| message));
        let mut cx = Cx::new(tx, first.clone(), &subscription.name, attempt, &mut published);
        of.run(handler.handle(items, &mut cx)).await.map_err(|failure| Failed {
            culprit: (!one_call || single).then_some(n),
            failure,
        })?;
    }
    Ok(published)
}

/// Runs `act`, the handler of `subscription`, on what was `decoded` from the message of `cx`.
pub(crate) async fn act(subscription: &Subscription, act: &Act, decoded: Decoded, cx: &Outside) -> Handled {
    Call::of(subscription, std::iter::once(&cx.message))
        .run(act(decoded, cx))
        .await
}

/// One call of a handler and what surrounds it.
struct Call<'a> {
    subscription: &'a Subscription,
    span: tracing::Span,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

impl<'a> Call<'a> {
    fn of<'m>(
        subscription: &'a Subscription,
        messages: impl ExactSizeIterator<Item = &'m Arc<Message>> + Clone,
    ) -> Self {
        let first = messages.clone().next();
        let correlation_id = first.and_then(|first| first.correlation_id.clone());
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.operation.name = "process",
            messaging.destination.name = subscription.queue,
            messaging.message.id = tracing::field::Empty,
            messaging.message.conversation_id = correlation_id,
            messaging.batch.message_count = messages.len(),
        );
        if !span.is_disabled() {
            trace(&span, messages);
        }
        Self {
            subscription,
            span,
            correlation_id,
            traceparent: first.and_then(|first| first.traceparent.clone()),
        }
    }

    async fn run(self, work: impl Future<Output = Handled>) -> Handled {
        let started = Instant::now();
        let deadline = self.subscription.deadline;
        let work = work.instrument(self.span);
        let work = AssertUnwindSafe(tokio::time::timeout(deadline, work)).catch_unwind();
        let work = async {
            match self.correlation_id {
                Some(id) => correlation::scope(id, work).await,
                None => work.await,
            }
        };
        let outcome = match self.traceparent {
            Some(traceparent) => correlation::traced(traceparent, work).await,
            None => work.await,
        };
        metrics::histogram!(metric::PROCESS, "messaging_destination_name" => self.subscription.queue.clone())
            .record(started.elapsed());
        match outcome {
            Ok(Ok(handled)) => handled,
            Ok(Err(_elapsed)) => Err(Failure::Retry(Box::new(Unanswered::Deadline(deadline)))),
            Err(panic) => Err(Failure::Retry(Box::new(Unanswered::Panic(crate::failure::panic_text(
                panic.as_ref(),
            ))))),
        }
    }
}

/// A lone message continues its publisher's trace; a batch, which has many, links to all of them.
fn trace<'m>(span: &tracing::Span, mut messages: impl ExactSizeIterator<Item = &'m Arc<Message>>) {
    if messages.len() == 1
        && let Some(message) = messages.next()
    {
        span.record("messaging.message.id", message.id.to_string());
        if let Some(traceparent) = &message.traceparent {
            telemetry::continue_trace(span, traceparent);
        }
        return;
    }
    for traceparent in messages.filter_map(|message| message.traceparent.as_deref()) {
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
    /// It has to be mended first, as where a migration is missing: no attempt is counted.
    Environment,
    /// Two transactions collided: the same once more.
    Collision,
    /// The message or its handler.
    Message,
}

/// Looks through the causes of `failure` for the database's part in it.
pub(crate) fn blame(failure: &Failure) -> Blame {
    let blamed = database_errors(failure).map(|error| match error {
        // The handler's own statement took too long; while the database is away, no handler is called.
        StoreError::Deadline(_) => Blame::Message,
        error => blame_store(&error),
    });
    let mut blamed = blamed.filter(|blame| *blame != Blame::Message);
    blamed.next().unwrap_or(Blame::Message)
}

/// The error of a database that has to be mended first, where `failure` has that cause.
pub(crate) fn environment(failure: &Failure) -> Option<StoreError> {
    database_errors(failure).find(|error| blame_store(error) == Blame::Environment)
}

/// The errors of the database among the causes of `failure`, outermost first.
fn database_errors(failure: &Failure) -> impl Iterator<Item = StoreError> {
    let first: Option<&(dyn std::error::Error + 'static)> = match failure {
        Failure::Retry(error) => Some(error.as_ref()),
        Failure::Reject(_) | Failure::Later(_) => None,
    };
    std::iter::successors(first, |&error| error.source()).filter_map(|error| {
        let store = error.downcast_ref::<StoreError>().cloned();
        store.or_else(|| error.downcast_ref::<DbErr>().cloned().map(StoreError::from))
    })
}

pub(crate) fn blame_store(error: &StoreError) -> Blame {
    match error {
        error if error.is_unavailable() => Blame::Unavailable,
        StoreError::Environment(_) => Blame::Environment,
        StoreError::Collision(_) => Blame::Collision,
        _ => Blame::Message,
    }
}

/// `failure` as the cause that a row that is tried again or a dead letter keeps.
pub(crate) fn cause(failure: &Failure) -> String {
    match failure {
        Failure::Retry(error) => crate::failure::chain(error.as_ref()),
        Failure::Reject(reason) => reason.clone(),
        Failure::Later(after) => format!("asked for again after {after:?}"),
    }
}
