//! Bodies of messages that are blanked.

use sea_orm::Value;

use super::{Store, StoreError};

/// What stands for a body that was blanked.
const BLANK: &str = "{}";

/// The lowest and the highest number in the outbox; zeros where it is empty, so that [`outbox_numbers`] is asked in any case.
pub(crate) async fn outbox_range(store: &Store) -> Result<Option<(i64, i64)>, StoreError> {
    let sql = "SELECT COALESCE(MIN(seq), 0) AS lowest, COALESCE(MAX(seq), 0) AS highest FROM outbox_messages";
    let rows = store.query(sql, vec![]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some((row.get("lowest")?, row.get("highest")?)))
}

/// The numbers from `from` to `to` of `topics` with `key`, and whether some messages wait: those that are not sent yet, and
/// those that this database is still to handle. What is to be handled may be given up, and is a dead letter then.
pub(crate) async fn outbox_numbers(
    store: &Store,
    topics: &[&str],
    key: &str,
    from: i64,
    to: i64,
) -> Result<(Vec<i64>, bool), StoreError> {
    let topics = store.dialect().texts(topics.iter().map(|&topic| topic.to_owned()));
    let sql = "SELECT seq, status FROM outbox_messages \
        WHERE seq BETWEEN $1 AND $2 AND message_key = $3 AND topic {in:$4}";
    let (mut sent, mut waits) = (Vec::new(), false);
    for row in store
        .query(sql, vec![from.into(), to.into(), key.into(), topics.clone()])
        .await?
    {
        match row.get::<String>("status")?.as_str() {
            "pending" => waits = true,
            _ => sent.push(row.get("seq")?),
        }
    }
    let waits = waits || is_to_handle(store, topics, key).await?;
    Ok((sent, waits))
}

/// Whether messages of `topics` with `key` are to be handled again, or wait behind one that is.
async fn is_to_handle(store: &Store, topics: Value, key: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS one FROM inbox_messages \
        WHERE status IN ('retrying', 'waiting') AND message_key = $1 AND topic {in:$2} LIMIT 1";
    let rows = store.query(sql, vec![key.into(), topics]).await?;
    Ok(!rows.is_empty())
}

pub(crate) async fn blank_outbox(store: &Store, numbers: Vec<i64>) -> Result<u64, StoreError> {
    let numbers = store.dialect().ints(numbers);
    let sql = "UPDATE outbox_messages SET body = $2 WHERE seq {in:$1} AND status <> 'pending'";
    store
        .execute(sql, vec![numbers, BLANK.as_bytes().to_vec().into()])
        .await
}

/// Dead letters of `topics` with `key`. There are few.
pub(crate) async fn blank_dead(store: &Store, topics: &[&str], key: &str) -> Result<u64, StoreError> {
    let topics = store.dialect().texts(topics.iter().map(|&topic| topic.to_owned()));
    let sql = "UPDATE inbox_messages SET body = $3 WHERE status = 'dead' AND message_key = $1 AND topic {in:$2}";
    store
        .execute(sql, vec![key.into(), topics, BLANK.as_bytes().to_vec().into()])
        .await
}
