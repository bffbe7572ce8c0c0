//! Removes old rows in small batches, so that neither tables nor locks grow: what is finished, and where an age is set for
//! it, dead letters and what lies in queues that nobody reads.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::message::now;
use crate::migrations::CORE_MIGRATIONS;
use crate::store::dead_letter_rows::{self, Pages};
use crate::store::{Store, StoreError, backlog_rows, idempotency_rows, retention_rows};
use crate::telemetry::metric;

const PAGE: i64 = 1000;
/// The migration of the core since which services say which queues they read.
const READERS: i64 = 4;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Counting for a warning stops here.
const MOST: i64 = 100_001;

pub(crate) struct Retention {
    pub store: Store,
    pub outbox: Duration,
    pub inbox: Duration,
    /// `None`: dead letters are kept.
    pub dead: Option<Duration>,
    /// `None`: what nobody reads is kept.
    pub unread: Option<Duration>,
    /// The queues of this database that the service reads.
    pub reads: Vec<String>,
    pub every: Duration,
}

impl Retention {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
            let warns = warned.is_none_or(|at| at.elapsed() >= DAY);
            match self.pass(warns, &stop).await {
                Ok(()) if warns => warned = Some(Instant::now()),
                Ok(()) => {}
                // Nothing is lost by removing later.
                Err(error) => tracing::info!(error = %chain(&error), "old rows stay for now"),
            }
        }
    }

    /// One pass over everything that is old, from its old end.
    async fn pass(&self, warns: bool, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut after = 0;
        while let (_, Some(last)) = retention_rows::outbox(&self.store, after, micros(self.outbox), PAGE).await? {
            after = last;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        while retention_rows::inbox(&self.store, micros(self.inbox), PAGE).await? == PAGE.cast_unsigned() {
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        while idempotency_rows::remove_expired(&self.store, PAGE).await? == PAGE.cast_unsigned() {}
        if let Some(age) = self.dead {
            self.dead_letters(age, warns, stop).await?;
        }
        if let Some(age) = self.unread {
            self.unread_queues(age, warns, stop).await?;
        }
        Ok(())
    }

    /// Discards dead letters that died longer than `age` ago. Their marks stay as long as others.
    async fn dead_letters(&self, age: Duration, warns: bool, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut removed = 0;
        let mut pages = Pages::older_than(&self.store, age).await?;
        while let Some(keys) = pages.next(&self.store).await? {
            let tx = self.store.begin().await?;
            let count = dead_letter_rows::discard(&tx, &keys).await?;
            tx.commit().await?;
            metrics::counter!(metric::DEAD_LETTERS_EXPIRED).increment(count);
            removed += count;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        if removed > 0 {
            tracing::warn!(
                removed,
                ?age,
                "dead letters were discarded: they were older than they may become"
            );
        }
        let soon = age.saturating_sub(DAY);
        if warns && let count @ 1.. = dead_letter_rows::count_older_than(&self.store, soon).await? {
            tracing::warn!(
                count,
                ?age,
                "dead letters will be discarded within a day; replay them, or keep them longer"
            );
        }
        Ok(())
    }

    /// Removes what has lain for longer than `age` in queues that no service has ever read.
    async fn unread_queues(&self, age: Duration, warns: bool, stop: &CancellationToken) -> Result<(), StoreError> {
        // Who reads is known since that migration; a service of an earlier version may not have said so yet.
        let state = self.store.migration_state("core", CORE_MIGRATIONS).await?;
        let since = state
            .iter()
            .find(|one| one.version == READERS)
            .and_then(|one| one.applied_at);
        if since.is_none_or(|since| (now() - since).to_std().unwrap_or_default() < age) {
            return Ok(());
        }
        let readers = retention_rows::readers(&self.store).await?;
        // This process has not said yet what it reads.
        if self.reads.iter().any(|queue| !readers.contains(queue)) {
            return Ok(());
        }
        let mut queues = backlog_rows::queue_names(&self.store).await?;
        queues.retain(|queue| !readers.contains(queue));
        for queue in queues {
            let mut removed = 0;
            loop {
                let count = retention_rows::queue(&self.store, &queue, micros(age), PAGE).await?;
                metrics::counter!(metric::QUEUE_EXPIRED, "messaging_destination_name" => queue.clone())
                    .increment(count);
                removed += count;
                if count < PAGE.cast_unsigned() {
                    break;
                }
                if stop.is_cancelled() {
                    return Ok(());
                }
            }
            if removed > 0 {
                tracing::warn!(
                    queue,
                    removed,
                    ?age,
                    "messages were removed from a queue that nobody reads"
                );
            }
            let soon = micros(age.saturating_sub(DAY));
            if warns && let count @ 1.. = retention_rows::count_in_queue(&self.store, &queue, soon, MOST).await? {
                tracing::warn!(
                    queue,
                    count,
                    ?age,
                    "nobody reads the queue; these messages will be removed within a day"
                );
            }
        }
        Ok(())
    }
}

fn micros(age: Duration) -> i64 {
    i64::try_from(age.as_micros()).unwrap_or(i64::MAX)
}
