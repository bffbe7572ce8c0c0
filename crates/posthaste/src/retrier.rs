//! Takes parked rows when they are due, each alone: the attempt is counted and committed first, so
//! that a message that kills the process ends in the dead letters too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::dead_letter;
use crate::failpoint;
use crate::failure::{Failure, chain};
use crate::handle::Subscription;
use crate::invoke::{Blame, blame, cause, invoke};
use crate::outbox;
use crate::retry::{Next, back_off, jitter};
use crate::store::inbox_rows::{self as inbox, Fate, Parked};
use crate::store::{Store, StoreError};
use crate::telemetry::metric;

/// Rows taken at a time.
const BATCH: i64 = 50;
/// A row of a worker that died comes back this long after its handler's deadline; a worker that lives stops trying
/// its claims after this long.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Retrier {
    pub service: String,
    pub store: Store,
    pub subscriptions: Vec<Arc<Subscription>>,
}

impl Retrier {
    /// Runs until `stop`; the row in hand is finished.
    pub async fn run(self, stop: CancellationToken) {
        let mut signal = self.store.signals().parked();
        let names: Vec<String> = self.subscriptions.iter().map(|one| one.name.clone()).collect();
        let mut failures = 0u32;
        while !stop.is_cancelled() {
            signal.borrow_and_update();
            let pause = match self.step(&names, &stop).await {
                Ok(0) => {
                    failures = 0;
                    self.pause(&names).await
                }
                Ok(_) => continue,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(service = self.service, error = %chain(&error), "the retrier waits for the database");
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

    async fn pause(&self, names: &[String]) -> Option<Duration> {
        match inbox::next_due(&self.store, names).await {
            Ok(wait) => wait.map(|wait| Duration::from_secs_f64(wait.clamp(0.001, 3600.0))),
            Err(_away) => Some(Duration::from_secs(1)),
        }
    }

    async fn step(&self, names: &[String], stop: &CancellationToken) -> Result<usize, StoreError> {
        let ordered: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|one| one.ordered)
            .map(|one| one.name.clone())
            .collect();
        let longest = self
            .subscriptions
            .iter()
            .map(|one| one.deadline)
            .max()
            .unwrap_or_default();
        let tx = self.store.begin().await?;
        let taken = inbox::claim_due(&tx, names, &ordered, longest + GRACE, BATCH).await?;
        if taken.is_empty() {
            tx.rollback().await?;
            return Ok(0);
        }
        tx.commit().await?;
        failpoint::hit("retrier.claimed").await;
        let count = taken.len();
        // A row whose claim may run out while it is handled would be taken by two workers.
        let until = Instant::now() + GRACE;
        let mut rows = taken.into_iter();
        for row in rows.by_ref() {
            self.retry(row).await?;
            if stop.is_cancelled() || Instant::now() > until {
                break;
            }
        }
        self.release(rows.as_slice()).await?;
        Ok(count)
    }

    /// Gives back what was claimed and not tried.
    async fn release(&self, rows: &[Parked]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for row in rows {
            inbox::release(&mut tx, row).await?;
        }
        tx.commit().await
    }

    async fn retry(&self, row: Parked) -> Result<(), StoreError> {
        let Some(subscription) = self.subscriptions.iter().find(|one| one.name == row.subscription) else {
            return Ok(());
        };
        if row.attempts > subscription.retry.attempts.max(1) {
            let error = "the attempts are used up; the last one ended without an answer, as in a crash";
            return self.bury(subscription, &row, error).await;
        }
        let decoded = match subscription.handler.decode(&row.message) {
            Ok(decoded) => decoded,
            Err(reason) => return self.bury(subscription, &row, &reason).await,
        };
        let message = Arc::new(row.message.clone());
        let mut tx = self.store.begin().await?;
        if !inbox::mark_parked(&mut tx, &subscription.name, message.id.0, row.attempts).await? {
            return tx.rollback().await;
        }
        let failure = match invoke(subscription, &mut tx, vec![(message, decoded)], row.attempts).await {
            Ok(published) => {
                outbox::append_all(&mut tx, &self.service, published).await?;
                failpoint::hit("retrier.handled").await;
                tx.commit().await?;
                failpoint::hit("retrier.committed").await;
                self.count(subscription, "ok");
                return Ok(());
            }
            Err(failed) => failed.failure,
        };
        // The connection may be gone, and the transaction with it.
        drop(tx.rollback().await);
        self.fail(subscription, &row, failure).await
    }

    async fn fail(&self, subscription: &Subscription, row: &Parked, failure: Failure) -> Result<(), StoreError> {
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
        tx.commit().await
    }

    async fn bury(&self, subscription: &Subscription, row: &Parked, error: &str) -> Result<(), StoreError> {
        self.count(subscription, "dead");
        let mut tx = self.store.begin().await?;
        let from = dead_letter::Origin::Parked { attempts: row.attempts };
        dead_letter::bury(&mut tx, &self.service, subscription, &row.message, from, error).await?;
        failpoint::hit("retrier.burying").await;
        tx.commit().await?;
        failpoint::hit("retrier.buried").await;
        Ok(())
    }

    fn count(&self, subscription: &Subscription, outcome: &'static str) {
        let handler = subscription.name.clone();
        metrics::counter!(metric::ATTEMPTS, "posthaste_handler" => handler, "posthaste_outcome" => outcome)
            .increment(1);
    }
}
