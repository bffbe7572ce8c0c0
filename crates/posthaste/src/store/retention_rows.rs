//! Rows that are old enough to go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::{Store, StoreError};

/// Removes published outbox rows older than `age` microseconds among the oldest `page` rows above
/// `after`; answers how many and where the next page begins (`None` at the end of what is old).
pub(crate) async fn outbox(store: &Store, after: i64, age: i64, page: i64) -> Result<(u64, Option<i64>), StoreError> {
    let sql = "SELECT seq, CASE WHEN created_at < {after:$2} THEN 1 ELSE 0 END AS old, \
        CASE WHEN status = 'published' THEN 1 ELSE 0 END AS finished FROM outbox_messages WHERE seq > $1 ORDER BY seq LIMIT $3";
    let rows = store.query(sql, vec![after.into(), (-age).into(), page.into()]).await?;
    let mut gone = Vec::new();
    let mut last = None;
    for row in &rows {
        if row.get::<i32>("old")? == 0 {
            last = None;
            break;
        }
        let seq = row.get("seq")?;
        last = Some(seq);
        if row.get::<i32>("finished")? == 1 {
            gone.push(seq);
        }
    }
    let removed = gone.len() as u64;
    if removed > 0 {
        let list = store.dialect().ints(gone);
        store
            .execute(
                "DELETE FROM outbox_messages WHERE seq {in:$1} AND status = 'published'",
                vec![list],
            )
            .await?;
    }
    Ok((removed, last))
}

/// Removes at most `page` marks that were written longer than `age` microseconds ago; answers how many.
pub(crate) async fn inbox(store: &Store, age: i64, page: i64) -> Result<u64, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT subscription, message_id FROM inbox_messages {index:inbox_finished} \
        WHERE status = 'processed' AND processed_at < {clock:$1} \
        AND subscription NOT IN (SELECT subscription FROM inbox_holds WHERE expires_at > {clock}) ORDER BY processed_at LIMIT $2";
    let mut gone: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for row in store.query(sql, vec![(-age).into(), page.into()]).await? {
        let ids = gone.entry(row.get("subscription")?).or_default();
        ids.push(row.uuid("message_id")?);
    }
    let mut removed = 0;
    for (subscription, ids) in gone {
        removed += ids.len() as u64;
        let sql = "DELETE FROM inbox_messages WHERE subscription = $1 AND message_id {in:$2} AND status = 'processed'";
        store
            .execute(sql, vec![subscription.into(), dialect.uuids(ids)])
            .await?;
    }
    Ok(removed)
}

/// The queues that a service reads or has read.
pub(crate) async fn readers(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let rows = store.query("SELECT DISTINCT queue FROM queue_readers", vec![]).await?;
    rows.iter().map(|row| row.get("queue")).collect()
}

/// Removes those of the oldest `page` rows of `queue` that are older than `age` microseconds; returns their number.
pub(crate) async fn queue(store: &Store, queue: &str, age: i64, page: i64) -> Result<u64, StoreError> {
    let sql = "SELECT seq, CASE WHEN enqueued_at < {after:$2} THEN 1 ELSE 0 END AS old \
        FROM queue_messages {index:queue_by_topic} WHERE topic = $1 ORDER BY seq LIMIT $3";
    let rows = store.query(sql, vec![queue.into(), (-age).into(), page.into()]).await?;
    let mut old = Vec::new();
    for row in &rows {
        if row.get::<i32>("old")? == 0 {
            break;
        }
        old.push(row.get("seq")?);
    }
    if old.is_empty() {
        return Ok(0);
    }
    let sql = "DELETE FROM queue_messages WHERE seq {in:$1} AND topic = $2";
    store.execute(sql, vec![store.dialect().ints(old), queue.into()]).await
}

/// How many of the oldest `most` rows of `queue` are older than `age` microseconds.
pub(crate) async fn count_in_queue(store: &Store, queue: &str, age: i64, most: i64) -> Result<i64, StoreError> {
    let sql = "SELECT COUNT(*) AS number FROM (SELECT enqueued_at FROM queue_messages {index:queue_by_topic} \
        WHERE topic = $1 ORDER BY seq LIMIT $3) AS oldest WHERE enqueued_at < {clock:$2}";
    let rows = store.query(sql, vec![queue.into(), (-age).into(), most.into()]).await?;
    rows.first().map_or(Ok(0), |row| row.get("number"))
}

/// Keeps the marks of `subscription` for `time` from now on.
pub(crate) async fn hold(store: &Store, subscription: &str, time: Duration) -> Result<(), StoreError> {
    let sql = "INSERT INTO inbox_holds (subscription, expires_at) VALUES ($1, {after:$2}) \
        {upsert:subscription} expires_at = {new:expires_at}";
    let time = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    store
        .execute(sql, vec![subscription.into(), time.into()])
        .await
        .map(drop)
}
