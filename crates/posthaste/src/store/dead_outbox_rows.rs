//! Rows of `outbox_messages` that can never be sent, to list, replay and discard.

use chrono::{DateTime, Utc};
use sea_orm::Value;

use super::{Dialect, Row, Store, StoreError, Tx, Wake};
use crate::envelope;
use crate::message::{Message, MessageId};

/// A row that was given up, without its body.
#[derive(Clone, Debug)]
pub(crate) struct DeadRow {
    pub seq: i64,
    pub service: String,
    pub id: MessageId,
    pub topic: String,
    pub event_type: String,
    pub key: Option<String>,
    pub correlation_id: Option<String>,
    pub error: String,
    pub created_at: DateTime<Utc>,
    pub failed_at: DateTime<Utc>,
}

/// Which rows are meant; both conditions hold, an empty one holds for all.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeadRows {
    pub service: Option<String>,
    pub ids: Vec<MessageId>,
    /// Only rows behind this one in the list: older, or as old with a lower id.
    pub before: Option<(DateTime<Utc>, MessageId)>,
}

impl DeadRows {
    fn clause(&self, dialect: Dialect) -> (String, Vec<Value>) {
        let mut clause = "status = 'dead'".to_owned();
        let mut values = Vec::new();
        if let Some(service) = &self.service {
            values.push(service.as_str().into());
            clause.push_str(&format!(" AND service = ${}", values.len()));
        }
        if !self.ids.is_empty() {
            values.push(dialect.uuids(self.ids.iter().map(|id| id.0)));
            clause.push_str(&format!(" AND event_id {{in:${}}}", values.len()));
        }
        if let Some((at, id)) = self.before {
            values.extend([dialect.time(at), dialect.uuid(id.0)]);
            let (at, id) = (values.len() - 1, values.len());
            clause.push_str(&format!(
                " AND failed_at <= ${at} AND (failed_at < ${at} OR event_id < ${id})"
            ));
        }
        (clause, values)
    }
}

const COLUMNS: &str =
    "seq, service, event_id, topic, event_type, message_key, correlation_id, error, created_at, failed_at";

/// The newest of `which`, at most `limit`, newest first.
pub(crate) async fn list(store: &Store, which: &DeadRows, limit: u32) -> Result<Vec<DeadRow>, StoreError> {
    let rows = select(store, which, limit, COLUMNS).await?;
    rows.iter().map(read).collect()
}

/// As [`list`], with the messages themselves.
pub(crate) async fn whole(store: &Store, which: &DeadRows, limit: u32) -> Result<Vec<(DeadRow, Message)>, StoreError> {
    let rows = select(store, which, limit, &format!("{COLUMNS}, headers, body")).await?;
    rows.iter()
        .map(|row| Ok((read(row)?, envelope::read(row, "event_id")?)))
        .collect()
}

async fn select(store: &Store, which: &DeadRows, limit: u32, columns: &str) -> Result<Vec<Row>, StoreError> {
    let (clause, mut values) = which.clause(store.dialect());
    values.push(i64::from(limit).into());
    let sql = format!(
        "SELECT {columns} FROM outbox_messages WHERE {clause} ORDER BY failed_at DESC, event_id DESC LIMIT ${}",
        values.len()
    );
    store.query(&sql, values).await
}

/// Where a row stands in the order in which rows died.
pub(crate) type DeadPlace = (DateTime<Utc>, MessageId);

/// The oldest of `services` behind `after` that died until `until`, at most `limit`: number and place of each.
pub(crate) async fn oldest(
    store: &Store,
    services: Option<&[String]>,
    after: Option<DeadPlace>,
    until: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<(i64, DeadPlace)>, StoreError> {
    let dialect = store.dialect();
    let mut sql =
        "SELECT seq, failed_at, event_id FROM outbox_messages WHERE status = 'dead' AND failed_at <= $1".to_owned();
    let mut values = vec![dialect.time(until), i64::from(limit).into()];
    if let Some((at, id)) = after {
        values.extend([dialect.time(at), dialect.uuid(id.0)]);
        sql.push_str(" AND failed_at >= $3 AND (failed_at > $3 OR event_id > $4)");
    }
    if let Some(services) = services {
        values.push(dialect.texts(services.iter().cloned()));
        sql.push_str(&format!(" AND service {{in:${}}}", values.len()));
    }
    sql.push_str(" ORDER BY failed_at, event_id LIMIT $2");
    let rows = store.query(&sql, values).await?;
    rows.iter()
        .map(|row| {
            let id = MessageId(row.uuid("event_id")?);
            Ok((row.get("seq")?, (row.time("failed_at")?, id)))
        })
        .collect()
}

/// How many of `services` died until `until`.
pub(crate) async fn count(
    store: &Store,
    services: Option<&[String]>,
    until: Option<DateTime<Utc>>,
) -> Result<u64, StoreError> {
    let dialect = store.dialect();
    let mut sql = "SELECT COUNT(*) AS number FROM outbox_messages WHERE status = 'dead'".to_owned();
    let mut values = Vec::new();
    if let Some(until) = until {
        values.push(dialect.time(until));
        sql.push_str(" AND failed_at <= $1");
    }
    if let Some(services) = services {
        values.push(dialect.texts(services.iter().cloned()));
        sql.push_str(&format!(" AND service {{in:${}}}", values.len()));
    }
    let rows = store.query(&sql, values).await?;
    let number: i64 = rows.first().map_or(Ok(0), |row| row.get("number"))?;
    Ok(number.cast_unsigned())
}

fn read(row: &Row) -> Result<DeadRow, StoreError> {
    Ok(DeadRow {
        seq: row.get("seq")?,
        service: row.get("service")?,
        id: MessageId(row.uuid("event_id")?),
        topic: row.get("topic")?,
        event_type: row.get("event_type")?,
        key: row.get("message_key")?,
        correlation_id: row.get("correlation_id")?,
        error: row.get::<Option<String>>("error")?.unwrap_or_default(),
        created_at: row.time("created_at")?,
        failed_at: row.time("failed_at")?,
    })
}

/// How many there are for each topic, of `most` in all.
pub(crate) async fn count_by_topic(store: &Store, most: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "SELECT topic, COUNT(*) AS number FROM \
        (SELECT topic FROM outbox_messages WHERE status = 'dead' LIMIT $1) AS counted GROUP BY topic";
    let rows = store.query(sql, vec![most.into()]).await?;
    rows.iter()
        .map(|row| Ok((row.get("topic")?, row.get("number")?)))
        .collect()
}

/// Gives up the pending row `seq` for `error` inside `tx`.
pub(crate) async fn mark_dead(tx: &Tx, seq: i64, error: &str) -> Result<(), StoreError> {
    // No due time any more: on MySQL the index of pending rows then finds the dead ones of a service in order.
    let sql = "UPDATE outbox_messages SET status = 'dead', error = $2, failed_at = {now}, due_at = NULL \
        WHERE seq = $1 AND status = 'pending'";
    tx.execute(sql, vec![seq.into(), error.into()]).await.map(drop)
}

/// Hands the dead rows `seqs` to the relay again; returns how many there were. They are due now, in their order, and keep
/// no order with what their keys have sent since.
pub(crate) async fn replay(tx: &mut Tx, seqs: &[i64]) -> Result<u64, StoreError> {
    let list = || tx.dialect().ints(seqs.iter().copied());
    // Whoever replays it wants it handled, however late.
    let expiring = "SELECT seq, headers FROM outbox_messages WHERE seq {in:$1} AND status = 'dead' AND headers LIKE '%expirytime%'";
    for row in tx.query(expiring, vec![list()]).await? {
        let headers = envelope::without_expiry(&row.get::<String>("headers")?);
        let sql = "UPDATE outbox_messages SET headers = $1 WHERE seq = $2";
        tx.execute(sql, vec![headers.into(), row.get::<i64>("seq")?.into()])
            .await?;
    }
    // With a due time, because the low-water mark has passed them.
    let sql = "UPDATE outbox_messages SET status = 'pending', error = NULL, failed_at = NULL, due_at = {clock} \
        WHERE seq {in:$1} AND status = 'dead'";
    let count = tx.execute(sql, vec![list()]).await?;
    tx.wake_after_commit(Wake::OUTBOX);
    Ok(count)
}

/// Removes the dead rows `seqs`; returns how many there were.
pub(crate) async fn discard(tx: &Tx, seqs: &[i64]) -> Result<u64, StoreError> {
    let seqs = tx.dialect().ints(seqs.iter().copied());
    let sql = "DELETE FROM outbox_messages WHERE seq {in:$1} AND status = 'dead'";
    tx.execute(sql, vec![seqs]).await
}
