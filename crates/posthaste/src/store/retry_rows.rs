//! Rows of `inbox_messages` that are still to be handled. A `retrying` row has a due time. A `waiting` row is behind
//! another row of its ordering key and has none: whoever ends the first row of a key makes the next one due in the same
//! transaction, so that nothing touches the rows behind it before.

use std::time::Duration;

use sea_orm::Value;
use uuid::Uuid;

use super::inbox_rows::micros;
use super::{Row, Store, StoreError, Tx, Wake};
use crate::envelope;
use crate::message::Message;

/// Most bytes of bodies that are taken in one go; the first row is taken whatever its size.
const BYTES: i64 = 16 * 1024 * 1024;

/// A row that is due.
#[derive(Clone)]
pub(crate) struct Due {
    pub id: Uuid,
    pub key: Option<String>,
}

/// A row that this retrier has taken.
#[derive(Clone)]
pub(crate) struct Claim {
    pub id: Uuid,
    pub key: Option<String>,
    /// Attempts that are counted, this one included; 0 where rows behind it were taken along.
    pub attempts: u32,
    /// Rows of the key up to this number are handled alone.
    pub alone_until: Option<i64>,
}

impl Claim {
    /// Which attempt this is.
    pub fn attempt(&self) -> u32 {
        self.attempts.max(1)
    }
}

/// What [`take`] took: one row, or the first rows of a key.
pub(crate) struct Taken {
    pub claim: Claim,
    /// The claimed row's, then those of the rows behind it.
    pub messages: Vec<Message>,
}

/// The first row of a key.
struct First {
    id: Uuid,
    waits: bool,
}

/// Rows of `subscription` that are due, at most `limit`; where it is `ordered`, only the first of each key. Those behind
/// another row wait from now on.
pub(crate) async fn due(store: &Store, subscription: &str, ordered: bool, limit: i64) -> Result<Vec<Due>, StoreError> {
    let behind = if ordered {
        // Not EXISTS, which PostgreSQL expects to find soon in the whole table where most rows are of one key.
        "CASE WHEN (SELECT e.parked_seq FROM inbox_messages e WHERE e.status = 'retrying' AND e.subscription = d.subscription \
            AND e.message_key = d.message_key ORDER BY e.parked_seq LIMIT 1) < d.parked_seq \
        OR (SELECT e.parked_seq FROM inbox_messages e WHERE e.status = 'waiting' AND e.subscription = d.subscription \
            AND e.message_key = d.message_key ORDER BY e.parked_seq LIMIT 1) < d.parked_seq THEN 1 ELSE 0 END"
    } else {
        "0"
    };
    let sql = format!(
        "SELECT message_id, message_key, {behind} AS behind FROM inbox_messages d \
        WHERE status = 'retrying' AND due_at <= {{clock}} AND subscription = $1 ORDER BY due_at, parked_seq LIMIT $2"
    );
    loop {
        let found = store.query(&sql, vec![subscription.into(), limit.into()]).await?;
        let full = i64::try_from(found.len()) == Ok(limit);
        let (mut first, mut behind) = (Vec::new(), Vec::new());
        for row in &found {
            let due = Due {
                id: row.uuid("message_id")?,
                key: row.get("message_key")?,
            };
            match row.get::<i32>("behind")? {
                0 => first.push(due),
                _ => behind.push(due),
            }
        }
        make_wait(store, subscription, behind).await?;
        // Behind a page of those that wait others may be due.
        if !first.is_empty() || !full {
            return Ok(first);
        }
    }
}

async fn make_wait(store: &Store, subscription: &str, behind: Vec<Due>) -> Result<(), StoreError> {
    if behind.is_empty() {
        return Ok(());
    }
    // One that somebody has in hand since is not due any more.
    let sql = "UPDATE inbox_messages SET status = 'waiting', due_at = NULL, due_in = NULL \
        WHERE subscription = $1 AND message_id {in:$2} AND status = 'retrying' AND due_at <= {now}";
    let ids = store.dialect().uuids(behind.iter().map(|row| row.id));
    store.execute(sql, vec![subscription.into(), ids]).await?;
    release(store, subscription, behind.into_iter().filter_map(|row| row.key)).await
}

/// Makes the first row of those of `keys` due that have waiting rows and nothing that would make them due.
///
/// Two transactions do not see each other: one puts a row behind the first of its key, the other one ends that first row.
/// So both look once more after their commits, and the later one sees everything.
pub(crate) async fn release(
    store: &Store,
    subscription: &str,
    keys: impl IntoIterator<Item = String>,
) -> Result<(), StoreError> {
    let mut keys: Vec<String> = keys.into_iter().collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return Ok(());
    }
    let sql = "SELECT DISTINCT message_key FROM inbox_messages \
        WHERE subscription = $1 AND status = 'retrying' AND message_key {in:$2}";
    let list = store.dialect().texts(keys.iter().cloned());
    for row in store.query(sql, vec![subscription.into(), list]).await? {
        let headed: String = row.get("message_key")?;
        if let Ok(at) = keys.binary_search(&headed) {
            keys.remove(at);
        }
    }
    for key in keys {
        let mut tx = store.begin().await?;
        make_next_due(&mut tx, subscription, &key, None).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Makes the first row of `key` due if it waits. Up to the number `alone_until` rows are to be handled alone.
pub(crate) async fn make_next_due(
    tx: &mut Tx,
    subscription: &str,
    key: &str,
    alone_until: Option<i64>,
) -> Result<(), StoreError> {
    let rows = tx.query(FIRST_OF_KEY, vec![subscription.into(), key.into()]).await?;
    let Some(first) = rows.first().map(read_first).transpose()?.filter(|first| first.waits) else {
        return Ok(());
    };
    let sql = "UPDATE inbox_messages SET status = 'retrying', due_at = {now}, due_in = 0, \
            alone_until = CASE WHEN parked_seq <= {int:$3} THEN {int:$3} ELSE alone_until END \
        WHERE subscription = $1 AND message_id = $2 AND status = 'waiting'";
    let id = tx.dialect().uuid(first.id);
    let values = vec![subscription.into(), id, alone_until.unwrap_or(-1).into()];
    tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(())
}

const FIRST_OF_KEY: &str = "SELECT * FROM (SELECT message_id, parked_seq, 0 AS waits FROM inbox_messages \
        WHERE subscription = $1 AND status = 'retrying' AND message_key = $2 ORDER BY parked_seq LIMIT 1) AS r \
    UNION ALL SELECT * FROM (SELECT message_id, parked_seq, 1 AS waits FROM inbox_messages \
        WHERE subscription = $1 AND status = 'waiting' AND message_key = $2 ORDER BY parked_seq LIMIT 1) AS w \
    ORDER BY parked_seq LIMIT 1";

fn read_first(row: &Row) -> Result<First, StoreError> {
    Ok(First {
        id: row.uuid("message_id")?,
        waits: row.get::<i32>("waits")? == 1,
    })
}

/// The first row of `key`; makes it due if it waits for nothing.
pub(crate) async fn next_of_key(store: &Store, subscription: &str, key: &str) -> Result<Option<Due>, StoreError> {
    let rows = store.query(FIRST_OF_KEY, vec![subscription.into(), key.into()]).await?;
    let Some(first) = rows.first().map(read_first).transpose()? else {
        return Ok(None);
    };
    if first.waits {
        release(store, subscription, [key.to_owned()]).await?;
    }
    Ok(Some(Due {
        id: first.id,
        key: Some(key.to_owned()),
    }))
}

/// Takes the row if it is due: counts the attempt and puts the due time `lease` ahead, in a transaction of its own, so
/// that an attempt that kills the process counts. `None`: another worker has it, or it is not due.
///
/// A row that never failed takes up to `most - 1` such rows of its key along. Then no attempt is counted, but noted that
/// these rows are handled alone from now on: should one of them kill the process, each has its own attempts.
pub(crate) async fn take(
    store: &Store,
    subscription: &str,
    row: &Due,
    lease: Duration,
    most: usize,
) -> Result<Option<Taken>, StoreError> {
    let dialect = store.dialect();
    let tx = store.begin().await?;
    let sql = "SELECT message_id, event_type, topic, message_key, headers, body, attempts, parked_seq, alone_until, \
            CASE WHEN first_failed_at IS NULL THEN 0 ELSE 1 END AS failed FROM inbox_messages \
        WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' AND due_at <= {now} {skip_locked}";
    let key = || vec![Value::from(subscription), dialect.uuid(row.id)];
    let rows = tx.query(sql, key()).await?;
    let Some(found) = rows.first() else {
        tx.rollback().await?;
        return Ok(None);
    };
    let mut messages = vec![envelope::read(found, "message_id")?];
    let mut claim = Claim {
        id: row.id,
        key: row.key.clone(),
        attempts: found.get::<i32>("attempts")?.cast_unsigned(),
        alone_until: found.get("alone_until")?,
    };
    let untried = claim.attempts == 0 && claim.alone_until.is_none() && found.get::<i32>("failed")? == 0;
    let behind = match &row.key {
        Some(key) if untried && most > 1 => {
            let seq = found.get::<i64>("parked_seq")?;
            untried_behind(&tx, subscription, key, seq, most - 1, messages[0].body.len()).await?
        }
        _ => Vec::new(),
    };
    let mut values = key();
    values.push(micros(lease).into());
    let sql = match behind.last() {
        Some((last, _)) => {
            claim.alone_until = Some(*last);
            values.push((*last).into());
            "UPDATE inbox_messages SET alone_until = $4, due_at = {after:$3}, due_in = $3 \
                WHERE subscription = $1 AND message_id = $2"
        }
        None => {
            claim.attempts += 1;
            "UPDATE inbox_messages SET attempts = attempts + 1, due_at = {after:$3}, due_in = $3 \
                WHERE subscription = $1 AND message_id = $2"
        }
    };
    tx.execute(sql, values).await?;
    tx.commit().await?;
    messages.extend(behind.into_iter().map(|(_, message)| message));
    Ok(Some(Taken { claim, messages }))
}

/// The rows of `key` behind `seq`, up to the first that is not waiting or may not be handled together with others.
async fn untried_behind(
    tx: &Tx,
    subscription: &str,
    key: &str,
    seq: i64,
    most: usize,
    bytes: usize,
) -> Result<Vec<(i64, Message)>, StoreError> {
    let columns = "message_id, parked_seq, {int:LENGTH(body)} AS bytes, \
        CASE WHEN attempts = 0 AND first_failed_at IS NULL AND alone_until IS NULL THEN 1 ELSE 0 END AS untried";
    let sql = format!(
        "SELECT * FROM (SELECT {columns}, 0 AS waits FROM inbox_messages WHERE subscription = $1 AND status = 'retrying' \
            AND message_key = $2 AND parked_seq > $3 ORDER BY parked_seq LIMIT 1) AS r \
        UNION ALL SELECT * FROM (SELECT {columns}, 1 AS waits FROM inbox_messages WHERE subscription = $1 AND status = 'waiting' \
            AND message_key = $2 AND parked_seq > $3 ORDER BY parked_seq LIMIT $4) AS w ORDER BY parked_seq"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let values = vec![subscription.into(), key.into(), seq.into(), most.into()];
    let mut room = BYTES - i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut ids = Vec::new();
    for row in tx.query(&sql, values).await? {
        room = room.saturating_sub(row.get::<Option<i64>>("bytes")?.unwrap_or(0));
        if room < 0 || row.get::<i32>("waits")? == 0 || row.get::<i32>("untried")? == 0 {
            break;
        }
        ids.push(row.uuid("message_id")?);
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT message_id, event_type, topic, message_key, headers, body, parked_seq FROM inbox_messages \
        WHERE subscription = $1 AND message_id {in:$2} AND status = 'waiting' ORDER BY parked_seq";
    let values = vec![subscription.into(), tx.dialect().uuids(ids)];
    let rows = tx.query(sql, values).await?;
    rows.iter()
        .map(|row| Ok((row.get("parked_seq")?, envelope::read(row, "message_id")?)))
        .collect()
}

/// Turns the claimed row and those `behind` it into marks; `false`: another worker has taken them since.
pub(crate) async fn mark_taken(
    tx: &mut Tx,
    subscription: &str,
    claim: &Claim,
    behind: Vec<Uuid>,
) -> Result<bool, StoreError> {
    const HANDLED: &str = "SET status = 'processed', processed_at = {now}, due_at = NULL, due_in = NULL, alone_until = NULL, \
        parked_seq = NULL, body = NULL, headers = NULL, error = NULL";
    let dialect = tx.dialect();
    let sql = format!(
        "UPDATE inbox_messages {HANDLED} WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' AND attempts = $3"
    );
    let values = vec![
        subscription.into(),
        dialect.uuid(claim.id),
        claim.attempts.cast_signed().into(),
    ];
    if tx.execute(&sql, values).await? != 1 {
        return Ok(false);
    }
    if behind.is_empty() {
        return Ok(true);
    }
    let sql = format!(
        "UPDATE inbox_messages {HANDLED} WHERE subscription = $1 AND message_id {{in:$2}} AND status = 'waiting'"
    );
    let expected = behind.len() as u64;
    let ids = dialect.uuids(behind);
    Ok(tx.execute(&sql, vec![subscription.into(), ids]).await? == expected)
}

/// Makes a claimed row due as it was before it was taken.
pub(crate) async fn give_back(tx: &mut Tx, subscription: &str, claim: &Claim) -> Result<(), StoreError> {
    let sql = "UPDATE inbox_messages SET attempts = $4, due_at = {now}, due_in = 0, \
            alone_until = CASE WHEN {int:$3} = 0 THEN NULL ELSE alone_until END \
        WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' AND attempts = $3";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(claim.id),
        claim.attempts.cast_signed().into(),
        claim.attempts.saturating_sub(1).cast_signed().into(),
    ];
    tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(())
}

/// Whether a row of any subscription is due.
pub(crate) async fn is_due(store: &Store) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS one FROM inbox_messages WHERE status = 'retrying' AND due_at <= {clock} LIMIT 1";
    Ok(!store.query(sql, vec![]).await?.is_empty())
}

/// How long until a row of `subscription` falls due. Rows that are due already are taken without a timer.
pub(crate) async fn next_due(store: &Store, subscription: &str) -> Result<Option<f64>, StoreError> {
    let sql = "SELECT -({age:due_at}) AS wait FROM inbox_messages {index:inbox_retrying} \
        WHERE status = 'retrying' AND due_at > {clock} AND subscription = $1 ORDER BY due_at LIMIT 1";
    let rows = store.query(sql, vec![subscription.into()]).await?;
    rows.first().map_or(Ok(None), |row| row.get("wait"))
}

/// Bounds due times by the delay they were set with, where they lie further ahead than `beyond`: the clock of the database
/// has been set back since. A delay that is long on purpose keeps its length.
pub(crate) async fn bound_due_times(store: &Store, subscription: &str, beyond: Duration) -> Result<u64, StoreError> {
    const AHEAD: &str = "subscription = $1 AND status = 'retrying' AND due_at > {clock:$2} AND due_at > {after:due_in}";
    let values = || vec![Value::from(subscription), micros(beyond).into()];
    let found = store
        .query(
            &format!("SELECT 1 AS one FROM inbox_messages WHERE {AHEAD} LIMIT 1"),
            values(),
        )
        .await?;
    if found.is_empty() {
        return Ok(0);
    }
    let mut tx = store.begin().await?;
    let sql = format!("UPDATE inbox_messages SET due_at = {{after:due_in}} WHERE {AHEAD}");
    let changed = tx.execute(&sql, values()).await?;
    tx.wake_after_commit(Wake::PARKED);
    tx.commit().await?;
    Ok(changed)
}

/// Keys that a sweep looks at in one go.
const KEYS: i64 = 500;

/// Makes due what waits for nothing: the worker that should have made it due died between its commit and its last look, or
/// the subscription is not `ordered` any more. Reads one index entry per key, however many rows wait behind it.
pub(crate) async fn release_stranded(store: &Store, subscription: &str, ordered: bool) -> Result<(), StoreError> {
    if !ordered {
        return release_all(store, subscription).await;
    }
    let sql = "WITH RECURSIVE found (message_key, place) AS ( \
            SELECT (SELECT MIN(w.message_key) FROM inbox_messages w \
                WHERE w.subscription = $1 AND w.status = 'waiting' AND w.message_key >= $2), 1 \
            UNION ALL SELECT (SELECT MIN(w.message_key) FROM inbox_messages w \
                WHERE w.subscription = $1 AND w.status = 'waiting' AND w.message_key > found.message_key), found.place + 1 \
            FROM found WHERE found.message_key IS NOT NULL AND found.place < $3) \
        SELECT message_key FROM found WHERE message_key IS NOT NULL";
    let mut from = String::new();
    loop {
        let rows = store
            .query(sql, vec![subscription.into(), from.as_str().into(), KEYS.into()])
            .await?;
        let keys: Vec<String> = rows
            .iter()
            .map(|row| row.get("message_key"))
            .collect::<Result<_, _>>()?;
        let next = (i64::try_from(keys.len()) == Ok(KEYS))
            .then(|| keys.last().cloned())
            .flatten();
        release(store, subscription, keys).await?;
        match next {
            Some(last) => from = last,
            None => return Ok(()),
        }
    }
}

async fn release_all(store: &Store, subscription: &str) -> Result<(), StoreError> {
    let sql = "SELECT message_id FROM inbox_messages WHERE subscription = $1 AND status = 'waiting' LIMIT 500";
    loop {
        let rows = store.query(sql, vec![subscription.into()]).await?;
        let ids: Vec<Uuid> = rows
            .iter()
            .map(|row| row.uuid("message_id"))
            .collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = store.begin().await?;
        let sql = "UPDATE inbox_messages SET status = 'retrying', due_at = {now}, due_in = 0 \
            WHERE subscription = $1 AND message_id {in:$2} AND status = 'waiting'";
        let ids = tx.dialect().uuids(ids);
        tx.execute(sql, vec![subscription.into(), ids]).await?;
        tx.wake_after_commit(Wake::PARKED);
        tx.commit().await?;
    }
}
