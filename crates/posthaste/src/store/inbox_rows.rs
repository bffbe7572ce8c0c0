//! The rows of `inbox_messages`: marks of what was handled, parked rows, dead letters.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::Value;
use uuid::Uuid;

use crate::envelope;
use crate::message::Message;
use crate::store::{Column, Insert, OnConflict, Row, StoreError, Tx, Wake};

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
    let rows = sorted.into_iter().map(|message| {
        vec![
            subscription.into(),
            dialect.uuid(message.id.0),
            Value::from(message.event_type.as_str()),
            "processed".into(),
            Value::String(message.correlation_id.clone()),
        ]
    });
    let rows = rows.collect();
    MARK.run(tx, rows)
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

/// Writes `message` as parked or dead after `attempts` attempts. A row that is there and not parked
/// stays as it is: the message was a duplicate.
pub(crate) async fn settle(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<(), StoreError> {
    let (status, after, error) = match fate {
        Fate::Parked { after, error } => ("parked", Some(micros(after)), error),
        Fate::Dead { error } => ("dead", None, Some(error)),
    };
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, correlation_id, received_at, topic, \
            message_key, headers, body, attempts, due_at, parked_seq, first_failed_at, last_failed_at, error) \
        VALUES ($1, $2, $3, $4, $5, {now}, $6, $7, $8, $9, $10, CASE WHEN $4 = 'parked' THEN {after:$11} END, {next_parked}, \
            CASE WHEN $12 IS NOT NULL THEN {now} END, CASE WHEN $12 IS NOT NULL THEN {now} END, $12) \
        ON CONFLICT (subscription, message_id) DO UPDATE SET status = excluded.status, attempts = excluded.attempts, \
            due_at = excluded.due_at, error = excluded.error, last_failed_at = excluded.last_failed_at, \
            first_failed_at = COALESCE(inbox_messages.first_failed_at, excluded.first_failed_at) \
        WHERE inbox_messages.status = 'parked'";
    // PostgreSQL has to be told the type of a parameter that only stands in CASE.
    let sql = match tx.dialect() {
        crate::store::Dialect::Postgres => sql
            .replace("$12", "CAST($12 AS text)")
            .replace("$4", "CAST($4 AS text)"),
        crate::store::Dialect::Sqlite => sql.to_owned(),
    };
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
        Value::BigInt(Some(after.unwrap_or(0))),
        Value::String(error.map(str::to_owned)),
    ];
    tx.execute(&sql, values).await?;
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
    let sql = "SELECT subscription, message_id, event_type, topic, message_key, headers, body, attempts FROM inbox_messages p \
        WHERE status = 'parked' AND due_at <= {now} AND subscription {in:$1} AND (message_key IS NULL \
            OR NOT (subscription {in:$2}) OR NOT EXISTS (SELECT 1 FROM inbox_messages e WHERE e.status = 'parked' \
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

/// How long until a parked row of `subscriptions` falls due. Rows that are due already are claimed without a timer, or wait behind the first of their key.
pub(crate) async fn next_due(store: &crate::store::Store, subscriptions: &[String]) -> Result<Option<f64>, StoreError> {
    let sql = "SELECT -({age:MIN(due_at)}) AS wait FROM inbox_messages WHERE status = 'parked' AND due_at > {now} AND subscription {in:$1}";
    let list = store.dialect().texts(subscriptions.iter().cloned());
    let rows = store.query(sql, vec![list]).await?;
    rows.first().map_or(Ok(None), |row| row.get("wait"))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
