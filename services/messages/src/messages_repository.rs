//! The table `messages`.

use chrono::{DateTime, Utc};
use contracts::{Details, SentMessage};
use posthaste::store::{Column, Insert, OnConflict, Row};
use posthaste::{Store, StoreError, Tx};
use posthaste_host::KeysetCursor;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A message that has arrived.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredMessage {
    /// Identity of the row.
    pub id: Uuid,
    /// Identity of the message.
    pub message_id: Uuid,
    /// Its text.
    #[schema(example = "Hello, world!")]
    pub content: String,
    /// Who sent it.
    #[schema(example = "ann")]
    pub sender: String,
    /// When it was sent.
    pub timestamp: DateTime<Utc>,
    /// Details.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Details>,
    /// When it was stored.
    pub processed_at: DateTime<Utc>,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
}

// A message that another event brought before is stored already; its row stays as it is.
const INSERT: Insert = Insert {
    table: "messages",
    columns: &[
        Column::Plain("id"),
        Column::Plain("message_id"),
        Column::Plain("content"),
        Column::Plain("sender"),
        Column::Plain("timestamp"),
        Column::Json("metadata"),
        Column::Now("processed_at"),
        Column::Now("created_at"),
        Column::Now("updated_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: None,
};

const COLUMNS: &str = "id, message_id, content, sender, timestamp, metadata, processed_at, created_at, updated_at";

/// Stores `messages` in as few statements as they fit in.
pub(crate) async fn insert(tx: &Tx, messages: Vec<SentMessage>) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let row = |message: SentMessage| {
        let metadata = message.metadata.map(|details| details.text().to_owned());
        vec![
            dialect.uuid(Uuid::now_v7()),
            dialect.uuid(message.message_id),
            message.content.into(),
            message.sender.into(),
            dialect.time(message.timestamp),
            metadata.into(),
        ]
    };
    INSERT.run(tx, messages.into_iter().map(row).collect()).await?;
    Ok(())
}

/// The newest messages (of `sender`, if one is named) that come after `after`, at most `limit`.
pub(crate) async fn list(
    store: &Store,
    sender: Option<String>,
    after: Option<KeysetCursor>,
    limit: u32,
) -> Result<Vec<StoredMessage>, StoreError> {
    let dialect = store.dialect();
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    if let Some(sender) = sender {
        values.push(sender.into());
        conditions.push(format!("sender = ${}", values.len()));
    }
    if let Some(KeysetCursor { time, id }) = after {
        values.push(dialect.time(time));
        values.push(dialect.uuid(id));
        conditions.push(format!(
            "(timestamp, message_id) < (${}, ${})",
            values.len() - 1,
            values.len()
        ));
    }
    let which = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    values.push(i64::from(limit).into());
    let bound = values.len();
    let sql = format!("SELECT {COLUMNS} FROM messages{which} ORDER BY timestamp DESC, message_id DESC LIMIT ${bound}");
    store.query(&sql, values).await?.iter().map(read).collect()
}

/// The message `message_id`, once it is stored.
pub(crate) async fn find(store: &Store, message_id: Uuid) -> Result<Option<StoredMessage>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE message_id = $1");
    store
        .query(&sql, vec![store.dialect().uuid(message_id)])
        .await?
        .first()
        .map(read)
        .transpose()
}

fn read(row: &Row) -> Result<StoredMessage, StoreError> {
    Ok(StoredMessage {
        id: row.uuid("id")?,
        message_id: row.uuid("message_id")?,
        content: row.get("content")?,
        sender: row.get("sender")?,
        timestamp: row.time("timestamp")?,
        metadata: row.json_exact("metadata")?,
        processed_at: row.time("processed_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
