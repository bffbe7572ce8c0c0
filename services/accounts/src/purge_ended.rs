//! Removes what has ended, a few rows at a time: tokens, sessions, counters, keys, old records and mail files.

use std::time::Duration;

use chrono::TimeDelta;
use posthaste::message::now;
use posthaste::{Store, StoreError};
use posthaste_host::{Chore, Settings};

use crate::{
    attempts_repository, audit_repository, send_mail, sessions_repository, signing_keys_repository,
    waiting_passwords_repository,
};

const EVERY: Duration = Duration::from_secs(60);
/// Most rows that one statement removes: SQLite has one writer, and others wait for it.
const BATCH: i64 = 200;
/// How long an account that nobody tries is remembered.
const REMEMBERED: TimeDelta = TimeDelta::days(7);
/// How long a registration may lie in the queue or the dead letters and still bring its password.
const WAITING: TimeDelta = TimeDelta::days(30);

/// How long mails lie in their folder where there is no mail server.
const MAIL_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long records are kept; `AUDIT_DAYS` was checked at the start.
fn keep_records(settings: &Settings) -> TimeDelta {
    let days = settings.get("AUDIT_DAYS").and_then(|text| text.parse::<u32>().ok());
    TimeDelta::days(days.unwrap_or(365).max(1).into())
}

/// What workers do.
pub(crate) const CHORE: Chore = Chore {
    name: "purge of what has ended",
    every: EVERY,
    step: |context| {
        Box::pin(async move {
            if purge(&context.store, keep_records(&context.settings)).await? {
                return Ok(true);
            }
            send_mail::purge_files(&context.settings, MAIL_KEPT).await;
            Ok(false)
        })
    },
};

/// Whether there may be more.
async fn purge(store: &Store, keep_records: TimeDelta) -> Result<bool, StoreError> {
    let at = now();
    let mut more = sessions_repository::purge_revoked(store, at, BATCH).await?;
    more |= sessions_repository::purge(store, at, BATCH).await?;
    more |= attempts_repository::purge_windows(store, at, BATCH).await?;
    more |= attempts_repository::purge_accounts(store, at - REMEMBERED, BATCH).await?;
    more |= waiting_passwords_repository::purge(store, at - WAITING, BATCH).await?;
    more |= audit_repository::purge(store, at - keep_records, BATCH).await?;
    if !more {
        signing_keys_repository::purge(store, at).await?;
    }
    Ok(more)
}
