//! Tries the parked rows of one subscription when they are due, each alone: its own attempt, and no other row's, is counted and
//! committed first, so that a message that kills the process ends in the dead letters too. What is handled outside of
//! a transaction comes here at once, from the consumer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::consumer::EXPIRED;
use crate::dead_letter;
use crate::failpoint;
use crate::failure::{Failure, chain};
use crate::handle::{Effect, Subscription};
use crate::handle_outside::Outside;
use crate::invoke::{self, Blame, Published, blame, cause};
use crate::message::now;
use crate::outbox;
use crate::retry::{Next, back_off, jitter};
use crate::store::inbox_rows::{self as inbox, Due, Fate, Parked};
use crate::store::{Store, StoreError, Tx};
use crate::telemetry::metric;

/// Rows looked at in one go.
const PAGE: i64 = 500;
/// Keys that are worked off at a time, so that one handler that hangs holds up few others.
const LANES: usize = 4;
/// A row of a worker that died comes back this long after its handler's deadline. Also how long one key is
/// worked off before it is another's turn.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Retrier {
    service: String,
    store: Store,
    subscription: Arc<Subscription>,
    /// Rows in hand when the database went away, with their attempts.
    interrupted: Mutex<Vec<(Due, u32)>>,
}

impl Retrier {
    pub fn new(service: &str, store: &Store, subscription: &Arc<Subscription>) -> Self {
        Self {
            service: service.to_owned(),
            store: store.clone(),
            subscription: subscription.clone(),
            interrupted: Mutex::default(),
        }
    }

    /// Runs until `stop`; the rows in hand are finished, as far as the drain allows.
    pub async fn run(self, stop: CancellationToken) {
        let mut signal = self.store.signals().parked();
        let mut failures = 0u32;
        while !stop.is_cancelled() {
            signal.borrow_and_update();
            let pause = match self.step(&stop).await {
                Ok(0) => {
                    failures = 0;
                    self.pause().await
                }
                Ok(_) => continue,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(subscription = self.subscription.name, error = %chain(&error), "the retrier waits for the database");
                    }
                    failures += 1;
                    Some(back_off(
                        failures,
                        Duration::from_millis(100),
                        Duration::from_secs(5),
                        jitter(),
                    ))
                }
            };
            let timer = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                () = stop.cancelled() => true,
                () = timer => false,
                changed = signal.changed(), if failures == 0 => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    async fn pause(&self) -> Option<Duration> {
        match inbox::next_due(&self.store, &self.subscription.name).await {
            Ok(wait) => wait.map(|wait| Duration::from_secs_f64(wait.clamp(0.001, 3600.0))),
            Err(_away) => Some(Duration::from_secs(1)),
        }
    }

    async fn step(&self, stop: &CancellationToken) -> Result<usize, StoreError> {
        self.resume().await?;
        let subscription = &self.subscription;
        let heads = inbox::due(&self.store, &subscription.name, subscription.ordered, PAGE).await?;
        let count = heads.len();
        let halt = stop.child_token();
        let lanes = heads.into_iter().map(|head| self.work_off(head, &halt));
        let mut lanes = stream::iter(lanes).buffer_unordered(LANES);
        let mut failed = None;
        while let Some(worked) = lanes.next().await {
            if let Err(error) = worked {
                // The others finish what they have in hand: dropped in the middle it would have cost an attempt.
                halt.cancel();
                failed = Some(error);
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// Makes due what an outage interrupted; otherwise it would wait as long as the rows of a process that died.
    async fn resume(&self) -> Result<(), StoreError> {
        let interrupted = self.interrupted().clone();
        if interrupted.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for (row, attempts) in &interrupted {
            let fate = Fate::Parked {
                after: Duration::ZERO,
                error: None,
            };
            let counted = attempts.saturating_sub(1);
            inbox::settle_parked(&mut tx, &row.subscription, row.id, *attempts, counted, fate).await?;
        }
        tx.commit().await?;
        self.interrupted().clear();
        Ok(())
    }

    fn interrupted(&self) -> MutexGuard<'_, Vec<(Due, u32)>> {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries `head`, and once it has ended the rows that wait behind it.
    async fn work_off(&self, head: Due, halt: &CancellationToken) -> Result<(), StoreError> {
        let subscription = self.subscription.as_ref();
        let key = head.key.clone().filter(|_| subscription.ordered);
        // What acts outside of the database holds no connection meanwhile.
        let _turn = match subscription.effect {
            Effect::Outside(_) => None,
            Effect::Each(_) | Effect::Batch(_) => self.store.retries().acquire().await.ok(),
        };
        let until = Instant::now() + GRACE;
        if halt.is_cancelled() {
            return Ok(());
        }
        let mut rows = VecDeque::from([head]);
        let mut first = true;
        while let Some(row) = rows.pop_front() {
            if !first && (halt.is_cancelled() || Instant::now() > until) {
                // The other keys' turn; this one goes on where it stopped.
                return inbox::hasten(&self.store, &row).await;
            }
            first = false;
            let Some(taken) = inbox::take(&self.store, &row, subscription.deadline + GRACE).await? else {
                return Ok(());
            };
            failpoint::hit("retrier.claimed").await;
            let attempts = taken.attempts;
            let ended = match self.retry(subscription, taken).await {
                Ok(ended) => ended,
                Err(error) => {
                    if error.is_unavailable() {
                        self.interrupted().push((row, attempts));
                    }
                    return Err(error);
                }
            };
            match &key {
                Some(key) if ended && rows.is_empty() => {
                    rows = inbox::next_of_key(&self.store, &subscription.name, key, PAGE)
                        .await?
                        .into();
                }
                Some(_) if ended => {}
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether the row has ended: handled or dead.
    async fn retry(&self, subscription: &Subscription, row: Parked) -> Result<bool, StoreError> {
        if row.attempts > subscription.retry.attempts.max(1) {
            let error = "the attempts are used up; the last one ended without an answer, as in a crash";
            return self.bury(subscription, &row, error).await;
        }
        if row.message.expired(now()) {
            return self.bury(subscription, &row, EXPIRED).await;
        }
        let decoded = match (subscription.contract.decode)(&row.message) {
            Ok(decoded) => decoded,
            Err(reason) => return self.bury(subscription, &row, &reason).await,
        };
        let message = Arc::new(row.message.clone());
        let items = match &subscription.effect {
            Effect::Each(_) | Effect::Batch(_) => vec![(message, decoded)],
            Effect::Outside(act) => {
                let cx = Outside {
                    store: self.store.clone(),
                    message,
                    attempt: row.attempts,
                };
                if let Err(failure) = invoke::act(subscription, act, decoded, &cx).await {
                    return self.fail(subscription, &row, failure).await;
                }
                failpoint::hit("retrier.acted").await;
                Vec::new()
            }
        };
        let mut tx = self.store.begin().await?;
        match inbox::mark_parked(&mut tx, &subscription.name, row.message.id.0, row.attempts).await {
            Ok(true) => {}
            Ok(false) => {
                tx.rollback().await?;
                return Ok(false);
            }
            Err(error @ StoreError::Collision(_)) => {
                // The connection may be gone, and the transaction with it.
                drop(tx.rollback().await);
                return self.fail(subscription, &row, Failure::Retry(Box::new(error))).await;
            }
            Err(error) => return Err(error),
        }
        let failure = match invoke::invoke(subscription, &mut tx, items, row.attempts).await {
            Ok(published) => match self.finish(tx, published).await {
                Ok(()) => {
                    self.count(subscription, "ok");
                    return Ok(true);
                }
                // Whether the database or what was published is at fault, the cause is to be kept.
                Err(error) => Failure::Retry(Box::new(error)),
            },
            Err(failed) => {
                // The connection may be gone, and the transaction with it.
                drop(tx.rollback().await);
                failed.failure
            }
        };
        self.fail(subscription, &row, failure).await
    }

    async fn finish(&self, mut tx: Tx, published: Published) -> Result<(), StoreError> {
        outbox::append_all(&mut tx, &self.service, published).await?;
        failpoint::hit("retrier.handled").await;
        tx.commit().await?;
        failpoint::hit("retrier.committed").await;
        Ok(())
    }

    async fn fail(&self, subscription: &Subscription, row: &Parked, failure: Failure) -> Result<bool, StoreError> {
        let error = cause(&failure);
        // Neither an outage nor an answer "later" uses an attempt up.
        let (attempts, next) = match (&failure, blame(&failure)) {
            (_, Blame::Unavailable | Blame::Collision) => (row.attempts - 1, Next::After(Duration::from_millis(200))),
            (Failure::Later(after), _) => (row.attempts - 1, Next::After(*after)),
            (Failure::Reject(_), _) => (row.attempts, Next::Dead),
            (Failure::Retry(_), _) => (row.attempts, subscription.retry.next(row.attempts, jitter())),
        };
        let Next::After(after) = next else {
            return self.bury(subscription, row, &error).await;
        };
        tracing::warn!(
            subscription = subscription.name,
            message_id = %row.message.id,
            correlation_id = row.message.correlation_id,
            attempt = row.attempts,
            retry_in_ms = after.as_millis() as u64,
            error,
            "the handler failed"
        );
        self.count(subscription, "retry");
        let mut tx = self.store.begin().await?;
        let fate = Fate::Parked {
            after,
            error: Some(&error),
        };
        let id = row.message.id.0;
        inbox::settle_parked(&mut tx, &subscription.name, id, row.attempts, attempts, fate).await?;
        failpoint::hit("retrier.parking").await;
        tx.commit().await?;
        Ok(false)
    }

    async fn bury(&self, subscription: &Subscription, row: &Parked, error: &str) -> Result<bool, StoreError> {
        self.count(subscription, "dead");
        let mut tx = self.store.begin().await?;
        let from = dead_letter::Origin::Parked { attempts: row.attempts };
        dead_letter::bury(&mut tx, &self.service, subscription, &row.message, from, error).await?;
        failpoint::hit("retrier.burying").await;
        tx.commit().await?;
        failpoint::hit("retrier.buried").await;
        Ok(true)
    }

    fn count(&self, subscription: &Subscription, outcome: &'static str) {
        let handler = subscription.name.clone();
        metrics::counter!(metric::ATTEMPTS, "posthaste_handler" => handler, "posthaste_outcome" => outcome)
            .increment(1);
    }
}
