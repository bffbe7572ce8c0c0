//! The rows of `inbox_messages`: marks of what was handled, parked rows, dead letters.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::Value;
use uuid::Uuid;

use crate::envelope;
use crate::identity::{self, Verdict, body_hash};
use crate::message::{Message, MessageId};
use crate::store::identity_rows;
use crate::store::{Column, Dialect, Insert, OnConflict, Row, Store, StoreError, Tx, Wake};

const MARK: Insert = Insert {
    table: "inbox_messages",
    columns: &[
        Column::Plain("subscription"),
        Column::Plain("message_id"),
        Column::Plain("event_type"),
        Column::Plain("status"),
        Column::Plain("correlation_id"),
        Column::Plain("body_hash"),
        Column::Now("received_at"),
        Column::Now("processed_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: Some("message_id"),
};

/// Writes the marks of `messages`; answers the ids that had none before.
pub(crate) async fn mark<'m>(
    tx: &Tx,
    subscription: &str,
    messages: impl Iterator<Item = &'m Message>,
) -> Result<HashSet<Uuid>, StoreError> {
    let dialect = tx.dialect();
    let mut sorted: Vec<&Message> = messages.collect();
    // Two batches that overlap lock their rows in one order.
    sorted.sort_unstable_by_key(|message| message.id);
    if dialect == Dialect::Mysql {
        // It finds out which rows exist by failing on them: better not to try with those that are known.
        let known = known(tx, subscription, &sorted).await?;
        sorted.retain(|message| !known.contains(&message.id.0));
    }
    let rows = sorted.into_iter().map(|message| {
        vec![
            subscription.into(),
            dialect.uuid(message.id.0),
            Value::from(message.event_type.as_str()),
            "processed".into(),
            Value::String(message.correlation_id.clone()),
            Value::Bytes(Some(body_hash(&message.body).to_vec())),
        ]
    });
    Ok(MARK.run(tx, rows.collect()).await?.into_iter().collect())
}

/// Takes back marks that `tx` has written.
pub(crate) async fn unmark(
    tx: &Tx,
    subscription: &str,
    ids: impl Iterator<Item = MessageId>,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM inbox_messages WHERE subscription = $1 AND status = 'processed' AND message_id {in:$2}";
    let ids = tx.dialect().uuids(ids.map(|id| id.0));
    tx.execute(sql, vec![subscription.into(), ids]).await.map(drop)
}

async fn known(tx: &Tx, subscription: &str, messages: &[&Message]) -> Result<HashSet<Uuid>, StoreError> {
    let sql = "SELECT message_id FROM inbox_messages WHERE subscription = $1 AND message_id {in:$2}";
    let ids = tx.dialect().uuids(messages.iter().map(|message| message.id.0));
    tx.query(sql, vec![subscription.into(), ids])
        .await?
        .iter()
        .map(|row| row.uuid("message_id"))
        .collect()
}

/// Which of `keys` have parked rows, so that what comes later has to queue behind them.
pub(crate) async fn blocked_keys(
    tx: &Tx,
    subscription: &str,
    keys: Vec<String>,
) -> Result<HashSet<String>, StoreError> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT DISTINCT message_key FROM inbox_messages \
        WHERE subscription = $1 AND status = 'retrying' AND message_key {in:$2}";
    let keys = tx.dialect().texts(keys);
    tx.query(sql, vec![subscription.into(), keys])
        .await?
        .iter()
        .map(|row| row.get("message_key"))
        .collect()
}

/// How a message that was not handled stays in the inbox.
pub(crate) enum Fate<'a> {
    /// Due after this time.
    Parked { after: Duration, error: Option<&'a str> },
    /// Given up, with its cause.
    Dead { error: &'a str },
}

/// When rows that wait behind another one are looked at again, should whoever ends that one not come to them.
const BEHIND: Duration = Duration::from_secs(5);

/// Longest error text that is kept; the log line has it in full.
const ERROR_CHARACTERS: usize = 4000;

impl Fate<'_> {
    /// Status, microseconds until due, error text as PostgreSQL takes it.
    fn columns(&self) -> (&'static str, i64, Option<String>) {
        let text = |error: &str| error.chars().filter(|c| *c != '\0').take(ERROR_CHARACTERS).collect();
        match self {
            Self::Parked { after, error } => ("retrying", micros(*after), error.map(text)),
            Self::Dead { error } => ("dead", 0, Some(text(error))),
        }
    }
}

/// Writes `message`, of which the inbox knows nothing, as parked or dead after `attempts` attempts. If
/// the inbox has its identity, what is known stays, except a dead letter that this one corrects: `false`.
pub(crate) async fn settle_new(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<bool, StoreError> {
    if insert(tx, subscription, message, attempts, &fate).await? {
        return Ok(true);
    }
    let verdicts = identity_rows::admit(tx, subscription, &[message]).await?;
    let verdict = verdicts.get(&message.id).copied().unwrap_or(Verdict::Repeat);
    identity::report(subscription, message, None, verdict);
    match verdict {
        Verdict::Dead => insert(tx, subscription, message, attempts, &fate).await,
        Verdict::Retried => keep_aside(tx, subscription, message).await.map(|()| false),
        Verdict::Repeat | Verdict::Handled => Ok(false),
    }
}

/// Keeps `message` as a dead letter beside the one that has its identity and is being retried.
pub(crate) async fn keep_aside(tx: &mut Tx, subscription: &str, message: &Message) -> Result<(), StoreError> {
    let mut aside = message.clone();
    aside.id = identity::set_aside(message.id, &body_hash(&message.body));
    let error = format!(
        "another message with the same identity ({}) and a different body is being retried",
        message.id
    );
    insert(tx, subscription, &aside, 0, &Fate::Dead { error: &error })
        .await
        .map(drop)
}

async fn insert(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: &Fate<'_>,
) -> Result<bool, StoreError> {
    let (status, after, error) = fate.columns();
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, correlation_id, received_at, topic, \
            message_key, headers, body, attempts, parked_seq, due_at, first_failed_at, last_failed_at, error, body_hash) \
        VALUES ($1, $2, $3, $4, $5, {now}, $6, $7, $8, $9, $10, {next_parked:$1,$7}, \
            CASE WHEN {int:$11} < 0 THEN NULL ELSE {after:$11} END, \
            CASE WHEN $12 = 1 THEN {now} END, CASE WHEN $12 = 1 THEN {now} END, $13, $14)";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(message.id.0),
        Value::from(message.event_type.as_str()),
        status.into(),
        Value::String(message.correlation_id.clone()),
        Value::from(message.topic.as_str()),
        Value::String(message.key.clone()),
        Value::from(envelope::encode(message)),
        Value::Bytes(Some(message.body.clone())),
        Value::from(attempts.cast_signed()),
        // Dead rows are not due.
        Value::from(if status == "dead" { -1 } else { after }),
        Value::from(i32::from(error.is_some())),
        Value::String(error),
        Value::Bytes(Some(body_hash(&message.body).to_vec())),
    ];
    let inserted = match tx.dialect() {
        // Its count of rows does not tell a new one from one that was there; a duplicate undoes only itself.
        Dialect::Mysql => match tx.execute(sql, values).await {
            Err(StoreError::Duplicate(_)) => 0,
            done => done?,
        },
        Dialect::Postgres | Dialect::Sqlite => tx.execute(&format!("{sql} {{ignore:subscription}}"), values).await?,
    };
    tx.wake_after_commit(Wake::PARKED);
    Ok(inserted == 1)
}

/// Parks or buries the row that the retrier took with `claimed` attempts; `attempts` is what counts from
/// now on. `false`: another worker has taken the row over since, and nothing was done.
pub(crate) async fn settle_parked(
    tx: &mut Tx,
    subscription: &str,
    id: Uuid,
    claimed: u32,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<bool, StoreError> {
    let (status, after, error) = fate.columns();
    let sql = "UPDATE inbox_messages SET status = $4, attempts = $5, due_at = {after:$6}, error = $7, last_failed_at = {now}, \
            first_failed_at = COALESCE(first_failed_at, {now}) \
        WHERE subscription = $1 AND message_id = $2 AND attempts = $3 AND status = 'retrying'";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(id),
        claimed.cast_signed().into(),
        status.into(),
        attempts.cast_signed().into(),
        after.into(),
        Value::String(error),
    ];
    let changed = tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(changed == 1)
}

/// A parked row that may be tried.
#[derive(Clone)]
pub(crate) struct Due {
    pub subscription: String,
    pub id: Uuid,
    pub key: Option<String>,
    seq: i64,
}

/// Rows of `subscription` that are due, at most `limit`; where it is `ordered`, only the earliest of each key. Those
/// behind another one are put off, so that no look finds them again and again: whoever ends the earliest goes on
/// with [`next_of_key`].
pub(crate) async fn due(store: &Store, subscription: &str, ordered: bool, limit: i64) -> Result<Vec<Due>, StoreError> {
    let sql = "SELECT subscription, message_id, message_key, parked_seq FROM inbox_messages \
        WHERE status = 'retrying' AND due_at <= {clock} AND subscription = $1 ORDER BY due_at, parked_seq LIMIT $2";
    loop {
        let found = store.query(sql, vec![subscription.into(), limit.into()]).await?;
        let found: Vec<Due> = found.iter().map(read_due).collect::<Result<_, _>>()?;
        let full = i64::try_from(found.len()) == Ok(limit);
        let first = if ordered {
            put_off_behind(store, subscription, found).await?
        } else {
            found
        };
        // Behind a page of those that were put off others may be due.
        if !first.is_empty() || !full {
            return Ok(first);
        }
    }
}

/// Puts off those of `due` that wait behind another row of their key; answers the others.
async fn put_off_behind(store: &Store, subscription: &str, due: Vec<Due>) -> Result<Vec<Due>, StoreError> {
    let dialect = store.dialect();
    let keys: HashSet<&String> = due.iter().filter_map(|row| row.key.as_ref()).collect();
    if keys.is_empty() {
        return Ok(due);
    }
    let sql = "SELECT message_key, MIN(parked_seq) AS head FROM inbox_messages \
        WHERE subscription = $1 AND status = 'retrying' AND message_key {in:$2} GROUP BY message_key";
    let keys = dialect.texts(keys.into_iter().cloned());
    let mut heads: HashMap<String, i64> = HashMap::new();
    for row in store.query(sql, vec![subscription.into(), keys]).await? {
        heads.insert(row.get("message_key")?, row.get("head")?);
    }
    let (first, behind): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|row| {
        let head = row.key.as_ref().and_then(|key| heads.get(key));
        head.is_none_or(|head| *head == row.seq)
    });
    if !behind.is_empty() {
        // One that somebody has in hand since is not due any more.
        let sql = "UPDATE inbox_messages SET due_at = {after:$1} \
            WHERE subscription = $2 AND message_id {in:$3} AND status = 'retrying' AND due_at <= {now}";
        let ids = dialect.uuids(behind.into_iter().map(|row| row.id));
        let values = vec![micros(BEHIND).into(), subscription.into(), ids];
        store.execute(sql, values).await?;
    }
    Ok(first)
}

fn read_due(row: &Row) -> Result<Due, StoreError> {
    Ok(Due {
        subscription: row.get("subscription")?,
        id: row.uuid("message_id")?,
        key: row.get("message_key")?,
        seq: row.get("parked_seq")?,
    })
}

/// The earliest parked rows of `key`, at most `limit`, due or not.
pub(crate) async fn next_of_key(
    store: &Store,
    subscription: &str,
    key: &str,
    limit: i64,
) -> Result<Vec<Due>, StoreError> {
    let sql = "SELECT subscription, message_id, message_key, parked_seq FROM inbox_messages \
        WHERE subscription = $1 AND status = 'retrying' AND message_key = $2 ORDER BY parked_seq LIMIT $3";
    let rows = store
        .query(sql, vec![subscription.into(), key.into(), limit.into()])
        .await?;
    rows.iter().map(read_due).collect()
}

/// Makes a row that was never tried due now.
pub(crate) async fn hasten(store: &Store, row: &Due) -> Result<(), StoreError> {
    let sql = "UPDATE inbox_messages SET due_at = {now} \
        WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' AND attempts = 0 AND first_failed_at IS NULL";
    let mut tx = store.begin().await?;
    tx.execute(sql, vec![row.subscription.as_str().into(), tx.dialect().uuid(row.id)])
        .await?;
    tx.wake_after_commit(Wake::PARKED);
    tx.commit().await
}

/// A parked row that the retrier has taken; its attempt is already counted.
pub(crate) struct Parked {
    pub message: Message,
    pub attempts: u32,
}

/// Takes the row if it is due or was never tried: counts the attempt and puts the due time `lease` ahead,
/// in a transaction of its own, so that an attempt that kills the process counts too. `None`: another
/// worker has it, or it is not due.
pub(crate) async fn take(store: &Store, row: &Due, lease: Duration) -> Result<Option<Parked>, StoreError> {
    let dialect = store.dialect();
    let tx = store.begin().await?;
    let sql = "SELECT message_id, event_type, topic, message_key, headers, body, attempts FROM inbox_messages \
        WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' \
        AND (due_at <= {now} OR (attempts = 0 AND first_failed_at IS NULL)) {skip_locked}";
    let key = || vec![row.subscription.as_str().into(), dialect.uuid(row.id)];
    let rows = tx.query(sql, key()).await?;
    let Some(mut taken) = rows.first().map(parked).transpose()? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let sql = "UPDATE inbox_messages SET attempts = attempts + 1, due_at = {after:$3} WHERE subscription = $1 AND message_id = $2";
    let mut values = key();
    values.push(micros(lease).into());
    tx.execute(sql, values).await?;
    tx.commit().await?;
    taken.attempts += 1;
    Ok(Some(taken))
}

fn parked(row: &Row) -> Result<Parked, StoreError> {
    Ok(Parked {
        message: envelope::read(row, "message_id")?,
        attempts: row.get::<i32>("attempts")?.cast_unsigned(),
    })
}

/// Turns the parked row into a mark; `false`: another worker has taken it over since.
pub(crate) async fn mark_parked(tx: &mut Tx, subscription: &str, id: Uuid, attempts: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE inbox_messages SET status = 'processed', processed_at = {now}, due_at = NULL, parked_seq = NULL, \
            body = NULL, headers = NULL, error = NULL \
        WHERE subscription = $1 AND message_id = $2 AND status = 'retrying' AND attempts = $3";
    let id = tx.dialect().uuid(id);
    let changed = tx
        .execute(sql, vec![subscription.into(), id, attempts.cast_signed().into()])
        .await?;
    // The next row of its key is due now.
    tx.wake_after_commit(Wake::PARKED);
    Ok(changed == 1)
}

/// Whether a parked row of any subscription is due.
pub(crate) async fn is_due(store: &Store) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS one FROM inbox_messages WHERE status = 'retrying' AND due_at <= {clock} LIMIT 1";
    Ok(!store.query(sql, vec![]).await?.is_empty())
}

/// How long until a parked row of `subscription` falls due. Rows that are due already are claimed without a timer, or
/// wait behind the first of their key.
pub(crate) async fn next_due(store: &Store, subscription: &str) -> Result<Option<f64>, StoreError> {
    let sql = "SELECT -({age:due_at}) AS wait FROM inbox_messages {index:inbox_retrying} \
        WHERE status = 'retrying' AND due_at > {clock} AND subscription = $1 ORDER BY due_at LIMIT 1";
    let rows = store.query(sql, vec![subscription.into()]).await?;
    rows.first().map_or(Ok(None), |row| row.get("wait"))
}

/// Ten years at most: what lies further ahead than a database's times go would be refused, or never due.
fn micros(time: Duration) -> i64 {
    const MOST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    time.min(MOST).as_micros() as i64
}
