//! Removes finished rows in small batches, so that neither tables nor locks grow.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::failure::chain;
use crate::store::{Store, StoreError, idempotency_rows, retention_rows};

const PAGE: i64 = 1000;

pub(crate) struct Retention {
    pub store: Store,
    pub subscriptions: Vec<String>,
    pub outbox: Duration,
    pub inbox: Duration,
    pub every: Duration,
}

impl Retention {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut next: HashMap<String, Uuid> = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
            if let Err(error) = self.pass(&mut next, &stop).await {
                // Nothing is lost by removing later.
                tracing::info!(error = %chain(&error), "old rows stay for now");
            }
        }
    }

    /// One pass: the whole outbox from its old end; of each subscription's marks as many pages as
    /// have something to remove, going on next time where it stopped.
    async fn pass(&self, next: &mut HashMap<String, Uuid>, stop: &CancellationToken) -> Result<(), StoreError> {
        let micros = |age: Duration| i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let mut after = 0;
        while let (_, Some(last)) = retention_rows::outbox(&self.store, after, micros(self.outbox), PAGE).await? {
            after = last;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        for subscription in &self.subscriptions {
            loop {
                let after = next.get(subscription).copied().unwrap_or(Uuid::nil());
                let (removed, last) =
                    retention_rows::inbox(&self.store, subscription, after, micros(self.inbox), PAGE).await?;
                next.insert(subscription.clone(), last.unwrap_or(Uuid::nil()));
                if removed == 0 || stop.is_cancelled() {
                    break;
                }
            }
        }
        while idempotency_rows::remove_expired(&self.store, PAGE).await? == PAGE.cast_unsigned() {}
        Ok(())
    }
}
