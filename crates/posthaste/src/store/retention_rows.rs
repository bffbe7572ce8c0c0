//! Finished rows that are old enough to go.

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

/// Removes marks of `subscription` older than `age` microseconds among `page` rows above `after` in
/// the order of ids, which is the order of time for ids that posthaste made; answers how many and
/// where the next page begins (`None` after the last one).
pub(crate) async fn inbox(
    store: &Store,
    subscription: &str,
    after: Uuid,
    age: i64,
    page: i64,
) -> Result<(u64, Option<Uuid>), StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT message_id, CASE WHEN status = 'processed' AND received_at < {after:$3} THEN 1 ELSE 0 END AS old \
        FROM inbox_messages WHERE subscription = $1 AND message_id > $2 ORDER BY message_id LIMIT $4";
    let rows = store
        .query(
            sql,
            vec![subscription.into(), dialect.uuid(after), (-age).into(), page.into()],
        )
        .await?;
    let mut gone = Vec::new();
    let mut last = None;
    for row in &rows {
        let id = row.uuid("message_id")?;
        last = Some(id);
        if row.get::<i32>("old")? == 1 {
            gone.push(id);
        }
    }
    let removed = gone.len() as u64;
    if removed > 0 {
        let sql = "DELETE FROM inbox_messages WHERE subscription = $1 AND message_id {in:$2} AND status = 'processed'";
        store
            .execute(sql, vec![subscription.into(), dialect.uuids(gone)])
            .await?;
    }
    Ok((removed, last))
}
