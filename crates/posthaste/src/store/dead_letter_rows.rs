//! Dead letters: rows of `inbox_messages` that were given up.

use chrono::{DateTime, Utc};
use sea_orm::Value;

use super::{Dialect, Row, Store, StoreError, Tx, Wake};
use crate::dead_letter::{DeadLetter, Selection};
use crate::envelope;

const COLUMNS: &str = "subscription, message_id, event_type, topic, message_key, headers, body, attempts, error, received_at, \
    first_failed_at, last_failed_at";

/// The WHERE clause for `selection` and its values.
fn chosen(dialect: Dialect, selection: &Selection) -> (String, Vec<Value>) {
    let mut clause = "status = 'dead'".to_owned();
    let mut values = Vec::new();
    if let Some(subscription) = &selection.subscription {
        values.push(subscription.as_str().into());
        clause.push_str(&format!(" AND subscription = ${}", values.len()));
    }
    if !selection.ids.is_empty() {
        values.push(dialect.uuids(selection.ids.iter().map(|id| id.0)));
        clause.push_str(&format!(" AND message_id {{in:${}}}", values.len()));
    }
    (clause, values)
}

pub(crate) async fn list(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let (clause, mut values) = chosen(store.dialect(), selection);
    values.push(i64::from(limit).into());
    let sql = format!(
        "SELECT {COLUMNS} FROM inbox_messages WHERE {clause} ORDER BY last_failed_at DESC LIMIT ${}",
        values.len()
    );
    store.query(&sql, values).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<DeadLetter, StoreError> {
    let time = |column: &str| -> Result<Option<DateTime<Utc>>, StoreError> { row.time_or_null(column) };
    Ok(DeadLetter {
        subscription: row.get("subscription")?,
        message: envelope::read(row, "message_id")?,
        attempts: row.get::<i32>("attempts")?.cast_unsigned(),
        error: row.get::<Option<String>>("error")?.unwrap_or_default(),
        received_at: row.time("received_at")?,
        first_failed_at: time("first_failed_at")?,
        last_failed_at: time("last_failed_at")?,
    })
}

/// Makes the chosen rows due now, with all attempts ahead of them. One behind another row of its key waits from the
/// retrier's look on.
pub(crate) async fn replay(tx: &mut Tx, selection: &Selection) -> Result<u64, StoreError> {
    let (clause, values) = chosen(tx.dialect(), selection);
    // Whoever replays it wants it handled, however late.
    let sql = format!(
        "SELECT subscription, message_id, headers FROM inbox_messages WHERE {clause} AND headers LIKE '%expirytime%'"
    );
    for row in tx.query(&sql, values.clone()).await? {
        let headers = envelope::without_expiry(&row.get::<String>("headers")?);
        let sql = "UPDATE inbox_messages SET headers = $1 WHERE subscription = $2 AND message_id = $3";
        let (subscription, id): (String, _) = (row.get("subscription")?, tx.dialect().uuid(row.uuid("message_id")?));
        tx.execute(sql, vec![headers.into(), subscription.into(), id]).await?;
    }
    let sql = format!(
        "UPDATE inbox_messages SET status = 'retrying', attempts = 0, due_at = {{now}}, due_in = 0 WHERE {clause}"
    );
    let count = tx.execute(&sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(count)
}

pub(crate) async fn discard(tx: &Tx, selection: &Selection) -> Result<u64, StoreError> {
    let (clause, values) = chosen(tx.dialect(), selection);
    // Kept as a mark, so that a late duplicate of what was thrown away does not come to life.
    let sql = format!(
        "UPDATE inbox_messages SET status = 'processed', processed_at = {{now}}, due_at = NULL, parked_seq = NULL, \
         body = NULL, headers = NULL WHERE {clause}"
    );
    tx.execute(&sql, values).await
}

/// How many dead letters each queue has.
pub(crate) async fn count_by_queue(store: &Store) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "SELECT COALESCE(topic, '') AS topic, COUNT(*) AS number FROM inbox_messages WHERE status = 'dead' GROUP BY topic";
    store
        .query(sql, vec![])
        .await?
        .iter()
        .map(|row| Ok((row.get("topic")?, row.get("number")?)))
        .collect()
}
