//! While a subscription reads old messages, its marks stay: they are what recognises those that were handled before.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{Store, StoreError, retention_rows};

/// From this age on a message is old: usually they are read within seconds.
pub(crate) const OLD: Duration = Duration::from_secs(24 * 3600);
/// How long marks stay after the last old message.
const HOLD: Duration = Duration::from_secs(15 * 60);
/// A hold is renewed at most this often.
const RENEW: Duration = Duration::from_secs(60);

/// The hold of one consumer.
#[derive(Default)]
pub(crate) struct HoldMarks {
    since: Mutex<Option<Instant>>,
}

impl HoldMarks {
    /// Old messages of `subscription` have come: a group has lost its offsets or was reset, or nobody has read for long.
    pub async fn extend(&self, store: &Store, subscription: &str) -> Result<(), StoreError> {
        let last = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < RENEW) {
            return Ok(());
        }
        retention_rows::hold(store, subscription, HOLD).await?;
        if last.is_none_or(|last| last.elapsed() > HOLD) {
            tracing::warn!(
                subscription,
                "messages older than a day are read: the reader's position was lost or reset, or nobody has read for long; \
                 what was handled stays known until they are through"
            );
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }
}
