//! What a service does from time to time, in processes that work.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use posthaste::StoreError;
use posthaste::failure::chain;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::service::ServiceContext;

/// Work that is due at the start of a worker and again after each `every`. All workers of a service do it, so it has to
/// be one that others may have done.
#[derive(Clone, Copy, Debug)]
pub struct Chore {
    /// What it is, for the log.
    pub name: &'static str,
    /// How long it rests.
    pub every: Duration,
    /// Does a little of it and answers whether there is more; it comes again at once then. Where it fails it is left
    /// until the next time.
    pub step: fn(ServiceContext) -> ChoreStep,
}

/// A little of a chore, being done.
pub type ChoreStep = Pin<Box<dyn Future<Output = Result<bool, StoreError>> + Send>>;

impl Chore {
    /// Runs until `stop`, and only while the schema is there.
    pub(crate) async fn run(self, context: ServiceContext, health: Health, stop: CancellationToken) {
        loop {
            while health.is_migrated() && !stop.is_cancelled() {
                match (self.step)(context.clone()).await {
                    Ok(true) => tokio::task::yield_now().await,
                    Ok(false) => break,
                    Err(error) => {
                        // Nothing is lost by doing it later.
                        tracing::info!(chore = self.name, error = chain(&error), "left for now");
                        break;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }
}
