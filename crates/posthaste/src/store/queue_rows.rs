//! The rows of `queue_messages`.

use sea_orm::Value;

use crate::PARTITIONS;
use crate::broker::Delivery;
use crate::envelope;
use crate::floor::Floor;
use crate::identity::Given;
use crate::message::{Message, MessageId};
use crate::store::{Column, Insert, OnConflict, Row, SNAPSHOT, Snapshot, Store, StoreError, Tx, Wake, page_bytes};

const INSERT: Insert = Insert {
    table: "queue_messages",
    columns: &[
        Column::Plain("topic"),
        Column::Plain("partition_no"),
        Column::Plain("message_id"),
        Column::Plain("event_type"),
        Column::Plain("message_key"),
        Column::Plain("headers"),
        Column::Plain("body"),
    ],
    on_conflict: OnConflict::Fail,
    returning: None,
};

pub(crate) async fn insert(tx: &mut Tx, messages: Vec<Message>) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let rows = messages.into_iter().map(|message| {
        vec![
            Value::from(message.topic.as_str()),
            i32::from(message.partition(PARTITIONS)).into(),
            dialect.uuid(message.id.0),
            Value::from(message.event_type.as_str()),
            Value::String(message.key.clone()),
            Value::from(envelope::encode(&message)),
            Value::Bytes(Some(message.body)),
        ]
    });
    let rows = rows.collect();
    INSERT.run(tx, rows).await?;
    tx.wake_after_commit(Wake::QUEUE);
    Ok(())
}

/// The oldest rows of `queue` in `slots` above `floor`, at most `max` and as many bytes as a page may have, each with its
/// slot.
pub(crate) async fn read(
    store: &Store,
    queue: &str,
    slots: &[i64],
    floor: &mut Floor,
    max: usize,
) -> Result<Vec<(i64, Delivery)>, StoreError> {
    let sql = format!(
        "SELECT seq, partition_no, message_id, topic, event_type, message_key, headers, {}, {SNAPSHOT} \
         FROM queue_messages {{index:queue_by_topic}} WHERE topic = $1 AND seq > $2 AND partition_no {{in:$3}} ORDER BY seq LIMIT $4",
        page_bytes::columns(5)
    );
    let slots = store.dialect().ints(slots.iter().copied());
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    loop {
        let inline = page_bytes::inline(limit);
        let values = vec![
            queue.into(),
            floor.at().into(),
            slots.clone(),
            limit.into(),
            inline.into(),
        ];
        let found = store.query(&sql, values).await?;
        let rows = page_bytes::fitting(store, "queue_messages", limit, &found).await?;
        if rows.is_empty() && !found.is_empty() {
            continue;
        }
        let deliveries = rows
            .iter()
            .map(|(row, large)| delivery(row, large.as_ref().unwrap_or(row)));
        let deliveries: Vec<(i64, Delivery)> = deliveries.collect::<Result<_, _>>()?;
        if let (Some((row, _)), Some((_, last))) = (rows.last(), deliveries.last()) {
            let snapshot = Snapshot::of(row)?;
            if floor.moved_to(&snapshot) {
                continue;
            }
            floor.read_to(last.tag, snapshot);
        }
        return Ok(deliveries);
    }
}

/// The body is in `with_body`.
fn delivery(row: &Row, with_body: &Row) -> Result<(i64, Delivery), StoreError> {
    // A row written by hand may have neither id nor headers, and in SQLite anything in any column: a row that cannot
    // be read would keep all those behind it waiting.
    let id = row.uuid("message_id").ok().map(MessageId);
    let text = |column: &str| row.get::<Option<String>>(column).ok().flatten();
    let headers = text("headers");
    // The id of a row counts as an event's together with the source, which every publisher of ours writes.
    let given = id
        .filter(|id| !id.0.is_nil())
        .map_or(Given::Nothing, |id| Given::Unique(id.0));
    let message = envelope::decode(
        id.unwrap_or_default(),
        row.get("topic")?,
        text("event_type"),
        text("message_key"),
        headers.as_deref(),
        body(with_body),
    );
    let delivery = Delivery {
        tag: row.get("seq")?,
        given,
        message,
        redelivered: false,
    };
    Ok((i64::from(row.get::<i32>("partition_no")?), delivery))
}

/// The body; a number that SQLite was given for one as it was written.
fn body(row: &Row) -> Vec<u8> {
    let bytes = row.get::<Vec<u8>>("body");
    let integer = || row.get::<i64>("body").map(|number| number.to_string().into_bytes());
    let float = || row.get::<f64>("body").map(|number| number.to_string().into_bytes());
    bytes.or_else(|_| integer()).or_else(|_| float()).unwrap_or_default()
}

/// Deletes `seqs` inside `tx`; returns the transaction's bound (see [`Tx::execute_bounded`]).
pub(crate) async fn delete(tx: &Tx, seqs: &[i64]) -> Result<i64, StoreError> {
    let seqs = tx.dialect().ints(seqs.iter().copied());
    tx.execute_bounded("DELETE FROM queue_messages WHERE seq {in:$1}", vec![seqs])
        .await
}
