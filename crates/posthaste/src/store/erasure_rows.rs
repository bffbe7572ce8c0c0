//! Bodies of messages that are blanked.

use super::{Store, StoreError};

/// What stands for a body that was blanked.
const BLANK: &str = "{}";

/// The lowest and the highest number in the outbox.
pub(crate) async fn outbox_range(store: &Store) -> Result<Option<(i64, i64)>, StoreError> {
    let sql = "SELECT MIN(seq) AS lowest, MAX(seq) AS highest FROM outbox_messages";
    let rows = store.query(sql, vec![]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let ends = (row.get::<Option<i64>>("lowest")?, row.get::<Option<i64>>("highest")?);
    Ok(ends.0.zip(ends.1))
}

/// The numbers from `from` to `to` of `topic` with `key`, and whether some are not sent yet.
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
        .query(sql, vec![from.into(), to.into(), key.into(), topics])
        .await?
    {
        match row.get::<String>("status")?.as_str() {
            "pending" => waits = true,
            _ => sent.push(row.get("seq")?),
        }
    }
    Ok((sent, waits))
}

pub(crate) async fn blank_outbox(store: &Store, numbers: Vec<i64>) -> Result<u64, StoreError> {
    let numbers = store.dialect().ints(numbers);
    let sql = "UPDATE outbox_messages SET body = $2 WHERE seq {in:$1} AND status <> 'pending'";
    store
        .execute(sql, vec![numbers, BLANK.as_bytes().to_vec().into()])
        .await
}

/// Dead letters of `topics` with `key`. There are few, and none is looked at twice.
pub(crate) async fn blank_dead(store: &Store, topics: &[&str], key: &str) -> Result<u64, StoreError> {
    let topics = store.dialect().texts(topics.iter().map(|&topic| topic.to_owned()));
    let sql = "UPDATE inbox_messages SET body = $3 WHERE status = 'dead' AND message_key = $1 AND topic {in:$2}";
    store
        .execute(sql, vec![key.into(), topics, BLANK.as_bytes().to_vec().into()])
        .await
}
