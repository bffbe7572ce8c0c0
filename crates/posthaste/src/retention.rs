//! Removes finished rows in small batches, so that neither tables nor locks grow.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::store::{Store, StoreError, idempotency_rows, retention_rows};

const PAGE: i64 = 1000;

pub(crate) struct Retention {
    pub store: Store,
    pub outbox: Duration,
    pub inbox: Duration,
    pub every: Duration,
}

impl Retention {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
            if let Err(error) = self.pass(&stop).await {
                // Nothing is lost by removing later.
                tracing::info!(error = %chain(&error), "old rows stay for now");
            }
        }
    }

    /// One pass over everything that is old, from its old end.
    async fn pass(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let micros = |age: Duration| i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
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
        Ok(())
    }
}
