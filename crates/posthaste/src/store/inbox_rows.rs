//! The rows of `inbox_messages`: marks of what was handled, parked rows, dead letters.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::Value;
use uuid::Uuid;

use crate::envelope;
use crate::message::Message;
use crate::store::{Column, Dialect, Insert, OnConflict, Row, StoreError, Tx, Wake};

const MARK: Insert = Insert {
    table: "inbox_messages",
    columns: &[
        Column::Plain("subscription"),
        Column::Plain("message_id"),
        Column::Plain("event_type"),
        Column::Plain("status"),
        Column::Plain("correlation_id"),
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
        ]
    });
    Ok(MARK.run(tx, rows.collect()).await?.into_iter().collect())
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
        WHERE subscription = $1 AND status = 'parked' AND message_key {in:$2}";
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

/// Longest error text that is kept; the log line has it in full.
const ERROR_CHARACTERS: usize = 4000;

impl Fate<'_> {
    /// Status, microseconds until due, error text as PostgreSQL takes it.
    fn columns(&self) -> (&'static str, i64, Option<String>) {
        let text = |error: &str| error.chars().filter(|c| *c != '\0').take(ERROR_CHARACTERS).collect();
        match self {
            Self::Parked { after, error } => ("parked", micros(*after), error.map(text)),
            Self::Dead { error } => ("dead", 0, Some(text(error))),
        }
    }
}

/// Writes `message`, of which the inbox knows nothing, as parked or dead after `attempts` attempts. If
/// the inbox has it, it was a duplicate and what is known stays.
pub(crate) async fn settle_new(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<(), StoreError> {
    let (status, after, error) = fate.columns();
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, correlation_id, received_at, topic, \
            message_key, headers, body, attempts, parked_seq, due_at, first_failed_at, last_failed_at, error) \
        VALUES ($1, $2, $3, $4, $5, {now}, $6, $7, $8, $9, $10, {next_parked:$1,$7}, \
            CASE WHEN {int:$11} < 0 THEN NULL ELSE {after:$11} END, \
            CASE WHEN $12 = 1 THEN {now} END, CASE WHEN $12 = 1 THEN {now} END, $13) \
        {ignore:subscription}";
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
    ];
    tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(())
}

/// Parks or buries the row that the retrier took with `claimed` attempts; `attempts` is what counts from
/// now on. Does nothing when another worker has taken the row over since.
pub(crate) async fn settle_parked(
    tx: &mut Tx,
    subscription: &str,
    id: Uuid,
    claimed: u32,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<(), StoreError> {
    let (status, after, error) = fate.columns();
    let sql = "UPDATE inbox_messages SET status = $4, attempts = $5, due_at = {after:$6}, error = $7, last_failed_at = {now}, \
            first_failed_at = COALESCE(first_failed_at, {now}) \
        WHERE subscription = $1 AND message_id = $2 AND attempts = $3 AND status = 'parked'";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(id),
        claimed.cast_signed().into(),
        status.into(),
        attempts.cast_signed().into(),
        after.into(),
        Value::String(error),
    ];
    tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(())
}

/// A parked row that the retrier has taken; its attempt is already counted.
pub(crate) struct Parked {
    pub subscription: String,
    pub message: Message,
    pub attempts: u32,
}

/// Takes due rows of `subscriptions`, at most `limit`: counts the attempt and puts the due time `lease`
/// ahead, in a transaction of its own, so that an attempt that kills the process counts too. Of a key
/// of an `ordered` subscription only the earliest row is taken.
pub(crate) async fn claim_due(
    tx: &Tx,
    subscriptions: &[String],
    ordered: &[String],
    lease: Duration,
    limit: i64,
) -> Result<Vec<Parked>, StoreError> {
    let dialect = tx.dialect();
    let sql = "SELECT subscription, message_id, event_type, topic, message_key, headers, body, attempts FROM inbox_messages p {index:inbox_parked} \
        WHERE status = 'parked' AND due_at <= {now} AND subscription {in:$1} AND (message_key IS NULL \
            OR NOT (subscription {in:$2}) OR NOT EXISTS (SELECT 1 FROM inbox_messages e {index:inbox_parked_keys} WHERE e.status = 'parked' \
            AND e.subscription = p.subscription AND e.message_key = p.message_key AND e.parked_seq < p.parked_seq)) \
        ORDER BY due_at, parked_seq LIMIT $3 {skip_locked}";
    let texts = |list: &[String]| dialect.texts(list.iter().cloned());
    let rows = tx
        .query(sql, vec![texts(subscriptions), texts(ordered), limit.into()])
        .await?;
    let mut taken: Vec<Parked> = rows.iter().map(parked).collect::<Result<_, _>>()?;
    for row in &mut taken {
        let sql = "UPDATE inbox_messages SET attempts = attempts + 1, due_at = {after:$3} WHERE subscription = $1 AND message_id = $2";
        let id = dialect.uuid(row.message.id.0);
        tx.execute(sql, vec![row.subscription.as_str().into(), id, micros(lease).into()])
            .await?;
        row.attempts += 1;
    }
    Ok(taken)
}

fn parked(row: &Row) -> Result<Parked, StoreError> {
    Ok(Parked {
        subscription: row.get("subscription")?,
        message: envelope::read(row, "message_id")?,
        attempts: row.get::<i32>("attempts")?.cast_unsigned(),
    })
}

/// Turns the parked row into a mark; `false`: another worker has taken it over since.
pub(crate) async fn mark_parked(tx: &mut Tx, subscription: &str, id: Uuid, attempts: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE inbox_messages SET status = 'processed', processed_at = {now}, due_at = NULL, parked_seq = NULL, \
            body = NULL, headers = NULL, error = NULL \
        WHERE subscription = $1 AND message_id = $2 AND status = 'parked' AND attempts = $3";
    let id = tx.dialect().uuid(id);
    let changed = tx
        .execute(sql, vec![subscription.into(), id, attempts.cast_signed().into()])
        .await?;
    // The next row of its key is due now.
    tx.wake_after_commit(Wake::PARKED);
    Ok(changed == 1)
}

/// Gives back a row that [`claim_due`] took and nobody tried: its attempt does not count.
pub(crate) async fn release(tx: &mut Tx, row: &Parked) -> Result<(), StoreError> {
    let sql = "UPDATE inbox_messages SET attempts = attempts - 1, due_at = {now} \
        WHERE subscription = $1 AND message_id = $2 AND status = 'parked' AND attempts = $3";
    let id = tx.dialect().uuid(row.message.id.0);
    let attempts = row.attempts.cast_signed().into();
    tx.execute(sql, vec![row.subscription.as_str().into(), id, attempts])
        .await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(())
}

/// How long until a parked row of `subscriptions` falls due. Rows that are due already are claimed without a timer, or wait behind the first of their key.
pub(crate) async fn next_due(store: &crate::store::Store, subscriptions: &[String]) -> Result<Option<f64>, StoreError> {
    let sql = "SELECT -({age:due_at}) AS wait FROM inbox_messages {index:inbox_parked} \
        WHERE status = 'parked' AND due_at > {now} AND subscription {in:$1} ORDER BY due_at LIMIT 1";
    let list = store.dialect().texts(subscriptions.iter().cloned());
    let rows = store.query(sql, vec![list]).await?;
    rows.first().map_or(Ok(None), |row| row.get("wait"))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
