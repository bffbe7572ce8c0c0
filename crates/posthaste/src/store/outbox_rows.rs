//! The rows of `outbox_messages`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::Value;

use crate::PARTITIONS;
use crate::envelope;
use crate::message::{LEFT_OUTBOX, Message};
use crate::store::{Column, Insert, OnConflict, Row, SNAPSHOT, Snapshot, Store, StoreError, Tx, Wake, page_bytes};

const INSERT: Insert = Insert {
    table: "outbox_messages",
    columns: &[
        Column::Plain("event_id"),
        Column::Plain("service"),
        Column::Plain("topic"),
        Column::Plain("event_type"),
        Column::Plain("aggregate_type"),
        Column::Plain("aggregate_id"),
        Column::Plain("partition_no"),
        Column::Plain("message_key"),
        Column::Plain("headers"),
        Column::Plain("body"),
        Column::Plain("correlation_id"),
        Column::Plain("causation_id"),
        Column::Plain("due_at"),
    ],
    on_conflict: OnConflict::Fail,
    returning: None,
};

pub(crate) async fn append(
    tx: &mut Tx,
    service: &str,
    messages: Vec<(Message, Option<DateTime<Utc>>)>,
) -> Result<(), StoreError> {
    if messages.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let rows = messages.into_iter().map(|(mut message, due)| {
        if message.source.is_empty() {
            message.source = service.to_owned();
        }
        message.fit_columns();
        let (aggregate_type, aggregate_id) = message.aggregate().unzip();
        vec![
            dialect.uuid(message.id.0),
            service.into(),
            Value::from(message.topic.as_str()),
            Value::from(message.event_type.as_str()),
            Value::String(aggregate_type.map(str::to_owned)),
            Value::String(aggregate_id.map(str::to_owned)),
            i32::from(message.partition(PARTITIONS)).into(),
            Value::String(message.key.clone()),
            Value::from(envelope::encode(&message)),
            Value::Bytes(Some(message.body)),
            Value::String(message.correlation_id),
            Value::String(message.causation_id),
            dialect.time_or_null(due),
        ]
    });
    let rows = rows.collect();
    INSERT.run(tx, rows).await?;
    tx.wake_after_commit(Wake::OUTBOX);
    Ok(())
}

/// Where the transport keeps messages together, so that one may take nothing while the others go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub topic: String,
    /// Ordered topics have as many queues as partitions.
    pub partition: Option<i64>,
}

impl Destination {
    pub fn of(message: &Message) -> Self {
        Self {
            topic: message.topic.clone(),
            partition: message.ordered.then(|| i64::from(message.partition(PARTITIONS))),
        }
    }
}

/// What is not read, because it waits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub destinations: Vec<Destination>,
    /// Topics with a key of theirs, or with `None` for those of their messages that have none.
    pub keys: Vec<(String, Option<String>)>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.keys.is_empty()
    }
}

/// A pending row on its way to the transport.
pub(crate) struct Pending {
    pub seq: i64,
    pub message: Message,
    pub age: f64,
}

/// The highest number of all, as of the same snapshot.
const HIGHEST: &str = "(SELECT MAX(seq) FROM outbox_messages) AS highest";

/// The columns of a page; the fifth value is [`page_bytes::inline`].
fn columns() -> String {
    let body = page_bytes::columns(5);
    format!("seq, event_id, topic, event_type, message_key, headers, {body}, {{age:created_at}} AS age")
}

/// What fits of a page of `limit` rows that were `found`, and whether there may be more behind it.
async fn read_page(store: &Store, limit: i64, found: &[Row]) -> Result<(Vec<Pending>, bool), StoreError> {
    let fitting = page_bytes::fitting(store, "outbox_messages", limit, found).await?;
    let full = i64::try_from(found.len()) == Ok(limit) || fitting.len() < found.len();
    let rows = fitting
        .iter()
        .map(|(row, large)| read(row, large.as_ref().unwrap_or(row)));
    Ok((rows.collect::<Result<_, _>>()?, full))
}

/// Rows read in one snapshot (see `floor.rs`).
pub(crate) struct Page {
    pub rows: Vec<Pending>,
    pub snapshot: Snapshot,
    /// More may lie behind these.
    pub full: bool,
    /// The highest number that any row had, whoever's: one that is committed after this read has a greater one, unless its
    /// transaction was open then.
    pub highest: i64,
}

/// The oldest pending rows of `service` in `partitions` with a number above `after`, at most `limit` and as many bytes
/// as a page may have, none of `waiting`.
pub(crate) async fn pending(
    store: &Store,
    service: &str,
    partitions: &[i64],
    waiting: &Waiting,
    after: i64,
    limit: i64,
) -> Result<Page, StoreError> {
    let sql = format!(
        "SELECT {}, {SNAPSHOT}, {HIGHEST} FROM outbox_messages {{index:outbox_pending}} \
         WHERE service = $1 AND status = 'pending' AND due_at IS NULL \
         AND seq > $2 AND partition_no {{in:$3}} {} ORDER BY seq LIMIT $4",
        columns(),
        none_of(waiting, 6)
    );
    let partitions = store.dialect().ints(partitions.iter().copied());
    let inline = page_bytes::inline(limit);
    let mut values = vec![service.into(), after.into(), partitions, limit.into(), inline.into()];
    values.extend(values_of(store, waiting));
    let (found, rows, full) = loop {
        let found = store.query(&sql, values.clone()).await?;
        let (rows, full) = read_page(store, limit, &found).await?;
        // All of them may be gone by the time their bodies are read.
        if !rows.is_empty() || found.is_empty() {
            break (found, rows, full);
        }
    };
    let (snapshot, highest) = match found.last() {
        Some(row) => (Snapshot::of(row)?, row.get("highest")?),
        None => (Snapshot::default(), 0),
    };
    Ok(Page {
        rows,
        snapshot,
        full,
        highest,
    })
}

/// By topic: its partitions, or `None` for the topic itself.
fn by_topic(held: &[Destination]) -> BTreeMap<&str, Option<Vec<i64>>> {
    let mut topics = BTreeMap::new();
    for Destination { topic, partition } in held {
        let partitions = topics.entry(topic.as_str()).or_insert_with(|| Some(Vec::new()));
        match (partition, &mut *partitions) {
            (Some(partition), Some(list)) => list.push(*partition),
            (Some(_), None) => {}
            (None, all) => *all = None,
        }
    }
    topics
}

/// The condition that a row is none of `waiting`, whose values begin with the `n`th: what is held back is not read again
/// and again.
fn none_of(waiting: &Waiting, mut n: usize) -> String {
    let mut condition = String::new();
    for partitions in by_topic(&waiting.destinations).values() {
        match partitions {
            None => condition.push_str(&format!("AND topic <> ${n} ")),
            Some(_) => {
                condition.push_str(&format!("AND NOT (topic = ${n} AND partition_no {{in:${}}}) ", n + 1));
                n += 1;
            }
        }
        n += 1;
    }
    for (_, key) in &waiting.keys {
        match key {
            None => condition.push_str(&format!("AND (topic <> ${n} OR message_key IS NOT NULL) ")),
            Some(_) => {
                let other_key = format!("message_key IS NULL OR message_key <> ${}", n + 1);
                condition.push_str(&format!("AND (topic <> ${n} OR {other_key}) "));
                n += 1;
            }
        }
        n += 1;
    }
    condition
}

fn values_of(store: &Store, waiting: &Waiting) -> Vec<Value> {
    let mut values = Vec::new();
    for (topic, partitions) in by_topic(&waiting.destinations) {
        values.push(topic.into());
        values.extend(partitions.map(|list| store.dialect().ints(list)));
    }
    for (topic, key) in &waiting.keys {
        values.push(topic.as_str().into());
        values.extend(key.as_deref().map(Value::from));
    }
    values
}

/// The scheduled rows of `service` in `partitions` that are due, at most `limit` behind the first `skipped`, none of
/// `waiting`; and whether there may be more.
pub(crate) async fn due(
    store: &Store,
    service: &str,
    partitions: &[i64],
    waiting: &Waiting,
    skipped: u64,
    limit: i64,
) -> Result<(Vec<Pending>, bool), StoreError> {
    let sql = format!(
        "SELECT {} FROM outbox_messages {{index:outbox_pending}} WHERE status = 'pending' AND due_at <= {{clock}} AND service = $1 \
         AND partition_no {{in:$2}} {} ORDER BY due_at, seq LIMIT $3 OFFSET $4",
        columns(),
        none_of(waiting, 6)
    );
    let partitions = store.dialect().ints(partitions.iter().copied());
    let mut values = vec![
        service.into(),
        partitions,
        limit.into(),
        skipped.cast_signed().into(),
        page_bytes::inline(limit).into(),
    ];
    values.extend(values_of(store, waiting));
    let found = store.query(&sql, values).await?;
    read_page(store, limit, &found).await
}

/// How long until the next scheduled row of `service` in `partitions` is due, negative once it is, none of `waiting`;
/// `None` when there is none.
pub(crate) async fn next_due(
    store: &Store,
    service: &str,
    partitions: &[i64],
    waiting: &Waiting,
) -> Result<Option<f64>, StoreError> {
    let sql = format!(
        "SELECT -({{age:MIN(due_at)}}) AS wait FROM outbox_messages \
         WHERE status = 'pending' AND due_at IS NOT NULL AND service = $1 AND partition_no {{in:$2}} {}",
        none_of(waiting, 3)
    );
    let mut values = vec![service.into(), store.dialect().ints(partitions.iter().copied())];
    values.extend(values_of(store, waiting));
    let rows = store.query(&sql, values).await?;
    rows.first().map_or(Ok(None), |row| row.get("wait"))
}

/// From this age on a message says when it left: it was scheduled, or the transport was away.
const LATE: f64 = 24.0 * 3600.0;

/// The body is in `with_body`.
fn read(row: &Row, with_body: &Row) -> Result<Pending, StoreError> {
    let mut message = envelope::read_with(row, "event_id", with_body)?;
    let age = row.get("age")?;
    if age > LATE {
        let left = crate::message::now().to_rfc3339();
        message.headers.insert(LEFT_OUTBOX.to_owned(), left);
    }
    Ok(Pending {
        seq: row.get("seq")?,
        message,
        age,
    })
}

/// Marks `seqs` published inside `tx`; returns the transaction's bound (see [`Tx::execute_bounded`]).
pub(crate) async fn mark_published(tx: &Tx, seqs: impl IntoIterator<Item = i64>) -> Result<i64, StoreError> {
    let sql = "UPDATE outbox_messages SET status = 'published', published_at = {now} \
        WHERE seq {in:$1} AND status = 'pending'";
    let seqs = tx.dialect().ints(seqs);
    tx.execute_bounded(sql, vec![seqs]).await
}
