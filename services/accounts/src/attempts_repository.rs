//! The tables `rate_limits` and `login_attempts`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use posthaste::{Store, StoreError, Tx};
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
    let tx = store.begin().await?;
    let counted = count_in(&tx, bucket, window, at).await?;
    tx.commit().await?;
    Ok(counted)
}

/// As [`count`], if and only if `tx` commits; nobody else uses `bucket` meanwhile.
pub(crate) async fn count_in(tx: &Tx, bucket: &str, window: Duration, at: DateTime<Utc>) -> Result<Count, StoreError> {
    let dialect = tx.dialect();
    let ends = dialect.time(at + TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX));
    let now = dialect.time(at);
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
    match rows.first() {
        Some(row) => Ok(read(row.get("used")?, row.time("window_ends")?, at)),
        None => Ok(read(1, at, at)),
    }
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
    /// There were too many failures in a row: it waits for a new password, whatever the time; nothing was noted.
    Shut,
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
        return Ok(Tried::Shut);
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

/// Takes the last failure of `account` back, and the wait that it brought: whoever may try has none left from before.
pub(crate) async fn pardon(store: &Store, account: &str) -> Result<(), StoreError> {
    let sql = "UPDATE login_attempts SET failures = failures - 1, in_row = in_row - 1, blocked_until = last_at \
        WHERE account = $1 AND failures > 0 AND in_row > 0";
    store.execute(sql, vec![account.into()]).await?;
    Ok(())
}

/// Drops at most `most` windows that ended before `at`; answers whether there may be more.
pub(crate) async fn purge_windows(store: &Store, at: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT bucket FROM rate_limits WHERE window_ends <= $1 ORDER BY window_ends LIMIT $2";
    let rows = store.query(sql, vec![dialect.time(at), most.into()]).await?;
    let buckets = rows.iter().map(|row| row.get("bucket"));
    let buckets = dialect.texts(buckets.collect::<Result<Vec<String>, _>>()?);
    if !rows.is_empty() {
        // A new window may have begun meanwhile.
        let sql = "DELETE FROM rate_limits WHERE bucket {in:$1} AND window_ends <= $2";
        store.execute(sql, vec![buckets, dialect.time(at)]).await?;
    }
    Ok(rows.len() as i64 == most)
}

/// Drops at most `most` accounts that nobody has tried since `idle_since`; answers whether there may be more.
pub(crate) async fn purge_accounts(store: &Store, idle_since: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT account FROM login_attempts WHERE last_at <= $1 ORDER BY last_at LIMIT $2";
    let rows = store.query(sql, vec![dialect.time(idle_since), most.into()]).await?;
    let accounts = rows.iter().map(|row| row.get("account"));
    let accounts = dialect.texts(accounts.collect::<Result<Vec<String>, _>>()?);
    if !rows.is_empty() {
        let sql = "DELETE FROM login_attempts WHERE account {in:$1} AND last_at <= $2";
        store.execute(sql, vec![accounts, dialect.time(idle_since)]).await?;
    }
    Ok(rows.len() as i64 == most)
}
