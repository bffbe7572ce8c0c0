//! Removes what has ended, a few rows at a time: tokens, sessions, counters, keys.

use std::time::Duration;

use chrono::TimeDelta;
use posthaste::message::now;
use posthaste::{Store, StoreError};
use posthaste_host::Chore;

use crate::{attempts_repository, sessions_repository, signing_keys_repository, waiting_passwords_repository};

const EVERY: Duration = Duration::from_secs(60);
/// Most rows that one statement removes: SQLite has one writer, and others wait for it.
const BATCH: i64 = 200;
/// How long an account that nobody tries is remembered.
const REMEMBERED: TimeDelta = TimeDelta::days(7);
/// How long a registration may lie in the queue or the dead letters and still bring its password.
const WAITING: TimeDelta = TimeDelta::days(30);

/// What workers do.
pub(crate) const CHORE: Chore = Chore {
    name: "purge of what has ended",
    every: EVERY,
    step: |context| Box::pin(async move { purge(&context.store).await }),
};

/// Whether there may be more.
async fn purge(store: &Store) -> Result<bool, StoreError> {
    let at = now();
    let mut more = sessions_repository::purge_revoked(store, at, BATCH).await?;
    more |= sessions_repository::purge(store, at, BATCH).await?;
    more |= attempts_repository::purge_windows(store, at, BATCH).await?;
    more |= attempts_repository::purge_accounts(store, at - REMEMBERED, BATCH).await?;
    more |= waiting_passwords_repository::purge(store, at - WAITING, BATCH).await?;
    if !more {
        signing_keys_repository::purge(store, at).await?;
    }
    Ok(more)
}
