//! Finished rows that are old enough to go.

use std::collections::BTreeMap;

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
        WHERE status = 'processed' AND processed_at < {clock:$1} ORDER BY processed_at LIMIT $2";
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
