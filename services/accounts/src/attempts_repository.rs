//! The tables `rate_limits` and `login_attempts`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use posthaste::{Store, StoreError};
use posthaste_host::redis_cache::{Count, Limit};

/// How often a statement is tried that met another one on the same row: many count in one bucket at the same time, and
/// MySQL resolves that by refusing some.
const TRIES: u32 = 5;

/// Counts one more time for `bucket` in a window that starts with its first one.
pub(crate) async fn count(
    store: &Store,
    bucket: &str,
    window: Duration,
    at: DateTime<Utc>,
) -> Result<Count, StoreError> {
    let mut tries = 1;
    loop {
        match count_once(store, bucket, window, at).await {
            Err(StoreError::Collision(_)) if tries < TRIES => tries += 1,
            counted => return counted,
        }
    }
}

async fn count_once(store: &Store, bucket: &str, window: Duration, at: DateTime<Utc>) -> Result<Count, StoreError> {
    let dialect = store.dialect();
    let ends = dialect.time(at + TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX));
    let now = dialect.time(at);
    let tx = store.begin().await?;
    // In this order: MySQL sees in the second assignment what the first one made.
    let update = "UPDATE rate_limits SET used = CASE WHEN window_ends <= $2 THEN 1 ELSE used + 1 END, \
        window_ends = CASE WHEN window_ends <= $3 THEN $4 ELSE window_ends END WHERE bucket = $1";
    let values = vec![bucket.into(), now.clone(), now, ends.clone()];
    if tx.execute(update, values.clone()).await? == 0 {
        let insert = "INSERT INTO rate_limits (bucket, used, window_ends) VALUES ($1, 0, $2) {ignore:bucket}";
        tx.execute(insert, vec![bucket.into(), ends]).await?;
        tx.execute(update, values).await?;
    }
    let sql = "SELECT used, window_ends FROM rate_limits WHERE bucket = $1";
    let rows = tx.query(sql, vec![bucket.into()]).await?;
    let counted = match rows.first() {
        Some(row) => read(row.get("used")?, row.time("window_ends")?, at),
        None => read(1, at, at),
    };
    tx.commit().await?;
    Ok(counted)
}

/// How often it has happened for `bucket` in this window.
pub(crate) async fn used(store: &Store, bucket: &str, at: DateTime<Utc>) -> Result<Count, StoreError> {
    let sql = "SELECT used, window_ends FROM rate_limits WHERE bucket = $1 AND window_ends > $2";
    let rows = store.query(sql, vec![bucket.into(), store.dialect().time(at)]).await?;
    match rows.first() {
        Some(row) => Ok(read(row.get("used")?, row.time("window_ends")?, at)),
        None => Ok(read(0, at, at)),
    }
}

fn read(used: i64, ends: DateTime<Utc>, at: DateTime<Utc>) -> Count {
    Count {
        used: u32::try_from(used).unwrap_or(u32::MAX),
        resets_in: (ends - at).to_std().unwrap_or_default(),
    }
}

/// How often one account may be tried.
pub(crate) struct Patience {
    /// Failures within `limit.window` before it is made to wait.
    pub limit: Limit,
    /// The first wait; each further failure doubles it…
    pub first: TimeDelta,
    /// … up to this.
    pub longest: TimeDelta,
    /// After so many failures without a success in between no password is looked at any more.
    pub in_row: i64,
}

/// What has become of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    /// It was noted; `last` if the account has to wait after it, should it fail.
    Noted { last: bool },
    /// The account has to wait so long; nothing was noted.
    Wait(Duration),
}

/// Notes that `account` is tried, as if it had failed; [`forget`] takes that back. Two that come at the same time are
/// both counted.
pub(crate) async fn try_account(
    store: &Store,
    account: &str,
    patience: &Patience,
    at: DateTime<Utc>,
) -> Result<Tried, StoreError> {
    let mut tries = 1;
    loop {
        match try_once(store, account, patience, at).await {
            Err(StoreError::Collision(_)) if tries < TRIES => tries += 1,
            tried => return tried,
        }
    }
}

async fn try_once(store: &Store, account: &str, patience: &Patience, at: DateTime<Utc>) -> Result<Tried, StoreError> {
    let dialect = store.dialect();
    let now = dialect.time(at);
    let tx = store.begin().await?;
    let lock = "UPDATE login_attempts SET in_row = in_row WHERE account = $1";
    if tx.execute(lock, vec![account.into()]).await? == 0 {
        let sql = "INSERT INTO login_attempts (account, failures, in_row, last_at, blocked_until) \
            VALUES ($1, 0, 0, $2, $3) {ignore:account}";
        tx.execute(sql, vec![account.into(), now.clone(), now.clone()]).await?;
        tx.execute(lock, vec![account.into()]).await?;
    }
    let sql = "SELECT failures, in_row, last_at, blocked_until FROM login_attempts WHERE account = $1";
    let rows = tx.query(sql, vec![account.into()]).await?;
    let Some(row) = rows.first() else {
        return Ok(Tried::Noted { last: false });
    };
    let (failures, in_row): (i64, i64) = (row.get("failures")?, row.get("in_row")?);
    let (last, blocked) = (row.time("last_at")?, row.time("blocked_until")?);
    if in_row >= patience.in_row {
        return Ok(Tried::Wait(patience.longest.to_std().unwrap_or_default()));
    }
    if blocked > at {
        return Ok(Tried::Wait((blocked - at).to_std().unwrap_or_default()));
    }
    let window = TimeDelta::from_std(patience.limit.window).unwrap_or(TimeDelta::MAX);
    // Whoever has waited has not been forgiven: the next failure makes it wait longer.
    let forgotten = last + window.max(patience.longest * 2) < at
        || (failures < i64::from(patience.limit.most) && last + window < at);
    let failures = if forgotten { 1 } else { failures + 1 };
    let beyond = failures - i64::from(patience.limit.most);
    let blocked = match u32::try_from(beyond) {
        Ok(doublings) => {
            let factor = 2_i32.checked_pow(doublings.min(16)).unwrap_or(i32::MAX);
            at + (patience.first * factor).min(patience.longest)
        }
        Err(_not_yet) => at,
    };
    let sql = "UPDATE login_attempts SET failures = $2, in_row = in_row + 1, last_at = $3, blocked_until = $4 \
        WHERE account = $1";
    let values = vec![account.into(), failures.into(), now, dialect.time(blocked)];
    tx.execute(sql, values).await?;
    tx.commit().await?;
    Ok(Tried::Noted { last: blocked > at })
}

/// Forgets all failures of `account`.
pub(crate) async fn forget(store: &Store, account: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM login_attempts WHERE account = $1";
    store.execute(sql, vec![account.into()]).await?;
    Ok(())
}

/// Takes the last failure of `account` back.
pub(crate) async fn pardon(store: &Store, account: &str) -> Result<(), StoreError> {
    let sql = "UPDATE login_attempts SET failures = failures - 1, in_row = in_row - 1 \
        WHERE account = $1 AND failures > 0 AND in_row > 0";
    store.execute(sql, vec![account.into()]).await?;
    Ok(())
}

/// Drops windows that have ended, and what was last tried before `idle_since`.
pub(crate) async fn purge(store: &Store, at: DateTime<Utc>, idle_since: DateTime<Utc>) -> Result<(), StoreError> {
    let dialect = store.dialect();
    let ended = vec![dialect.time(at)];
    store
        .execute("DELETE FROM rate_limits WHERE window_ends <= $1", ended)
        .await?;
    let idle = vec![dialect.time(idle_since)];
    store
        .execute("DELETE FROM login_attempts WHERE last_at <= $1", idle)
        .await?;
    Ok(())
}
