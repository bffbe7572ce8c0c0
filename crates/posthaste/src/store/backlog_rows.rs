//! What waits, for the gauges. Each count reads a part of an index and stops at a bound: a scrape that takes too long is
//! given up, and the server would count on.

use super::{Store, StoreError};

/// Pending outbox rows of a service, at most `most`, and the age of the oldest in seconds.
pub(crate) async fn outbox(store: &Store, most: i64) -> Result<Vec<(String, i64, f64)>, StoreError> {
    const PENDING: &str = "FROM outbox_messages {index:outbox_pending} WHERE status = 'pending' AND due_at IS NULL";
    let mut found: Vec<(String, i64, f64)> = Vec::new();
    loop {
        let last = found.last().map_or("", |(service, ..)| service);
        let sql = format!("SELECT service {PENDING} AND service > $1 ORDER BY service LIMIT 1");
        let rows = store.query(&sql, vec![last.into()]).await?;
        let Some(row) = rows.first() else {
            return Ok(found);
        };
        let service: String = row.get("service")?;
        let sql = format!("SELECT {{age:created_at}} AS age {PENDING} AND service = $1 ORDER BY seq LIMIT 1");
        let oldest = store.query(&sql, vec![service.as_str().into()]).await?;
        let age = oldest.first().map_or(Ok(0.0), |row| row.get("age"))?;
        let rows = format!("SELECT 1 AS one {PENDING} AND service = $1 LIMIT $2");
        let number = count(store, &rows, &service, most).await?;
        found.push((service, number, age));
    }
}

/// Rows in each `sql:` queue, at most `most`.
pub(crate) async fn queues(store: &Store, most: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let mut found = Vec::new();
    for topic in queue_names(store).await? {
        let rows = "SELECT 1 AS one FROM queue_messages {index:queue_by_topic} WHERE topic = $1 LIMIT $2";
        let number = count(store, rows, &topic, most).await?;
        found.push((topic, number));
    }
    Ok(found)
}

/// The `sql:` queues that have rows: one entry of the index is read for each.
pub(crate) async fn queue_names(store: &Store) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT topic FROM queue_messages WHERE topic > $1 ORDER BY topic LIMIT 1";
    let mut found: Vec<String> = Vec::new();
    loop {
        let last = found.last().map_or("", String::as_str);
        match store.query(sql, vec![last.into()]).await?.first() {
            Some(row) => found.push(row.get("topic")?),
            None => return Ok(found),
        }
    }
}

async fn count(store: &Store, rows: &str, of: &str, most: i64) -> Result<i64, StoreError> {
    let sql = format!("SELECT COUNT(*) AS number FROM ({rows}) AS counted");
    let counted = store.query(&sql, vec![of.into(), most.into()]).await?;
    counted.first().map_or(Ok(0), |row| row.get("number"))
}
