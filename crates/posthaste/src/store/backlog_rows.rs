//! What waits, for the gauges.

use super::{Store, StoreError};

/// Pending outbox rows of a service and the age of the oldest in seconds.
pub(crate) async fn outbox(store: &Store) -> Result<Vec<(String, i64, f64)>, StoreError> {
    let sql = "SELECT service, COUNT(*) AS number, {age:MIN(created_at)} AS age FROM outbox_messages \
        WHERE status = 'pending' AND due_at IS NULL GROUP BY service";
    let rows = store.query(sql, vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("service")?, row.get("number")?, row.get("age")?)))
        .collect()
}

/// Rows in each `sql:` queue.
pub(crate) async fn queues(store: &Store) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "SELECT topic, COUNT(*) AS number FROM queue_messages GROUP BY topic";
    let rows = store.query(sql, vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("topic")?, row.get("number")?)))
        .collect()
}
