//! The table `processed_events`.

use chrono::{DateTime, Utc};
use contracts::Details;
use posthaste::store::{Column, Insert, OnConflict, Row};
use posthaste::{Store, StoreError, Tx};
use posthaste_host::KeysetCursor;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// An event to record.
pub(crate) struct NewEvent {
    /// The id of the message that brought it.
    pub id: Uuid,
    pub user_id: Uuid,
    pub event_type: String,
    pub message: String,
    pub payload: Option<Details>,
    /// When the message was made.
    pub created_at: DateTime<Utc>,
}

/// An event that was recorded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessedEvent {
    /// The id of the message that brought it.
    pub id: Uuid,
    /// Whom it is about.
    pub user_id: Uuid,
    /// The producer's name for what happened.
    #[schema(example = "user_registered")]
    pub event_type: String,
    /// What was told.
    #[schema(example = "Welcome!")]
    pub message: String,
    /// Details.
    #[schema(value_type = Option<Object>)]
    pub payload: Option<Details>,
    /// `PROCESSED`.
    pub status: String,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// When it was recorded.
    pub processed_at: DateTime<Utc>,
}

/// Which events to list; all conditions hold.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub user_id: Option<Uuid>,
    pub event_type: Option<String>,
    /// Only what comes after this row in the list.
    pub after: Option<KeysetCursor>,
}

// An id that exists is a message that came before: its row stays as it is.
const INSERT: Insert = Insert {
    table: "processed_events",
    columns: &[
        Column::Plain("id"),
        Column::Plain("user_id"),
        Column::Plain("event_type"),
        Column::Plain("message"),
        Column::Json("payload"),
        Column::Plain("created_at"),
        Column::Now("processed_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: None,
};

const COLUMNS: &str = "id, user_id, event_type, message, payload, status, created_at, processed_at";

/// Records `events` in as few statements as they fit in.
pub(crate) async fn insert(tx: &Tx, events: Vec<NewEvent>) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let row = |event: NewEvent| {
        let payload = event.payload.map(|details| details.text().to_owned());
        vec![
            dialect.uuid(event.id),
            dialect.uuid(event.user_id),
            event.event_type.into(),
            event.message.into(),
            payload.into(),
            dialect.time(event.created_at),
        ]
    };
    INSERT.run(tx, events.into_iter().map(row).collect()).await?;
    Ok(())
}

/// Takes away what was told about `users`, whoever told it: messages and details may name anybody. That something was told
/// stays, with its type and its time.
pub(crate) async fn forget_details(tx: &Tx, users: Vec<Uuid>) -> Result<(), StoreError> {
    let sql = "UPDATE processed_events SET payload = NULL, message = '' WHERE user_id {in:$1} \
        AND (payload IS NOT NULL OR message <> '')";
    tx.execute(sql, vec![tx.dialect().uuids(users)]).await.map(drop)
}

/// The newest events of `filter`, at most `limit`.
pub(crate) async fn list(store: &Store, filter: Filter, limit: u32) -> Result<Vec<ProcessedEvent>, StoreError> {
    let dialect = store.dialect();
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    if let Some(user_id) = filter.user_id {
        values.push(dialect.uuid(user_id));
        conditions.push(format!("user_id = ${}", values.len()));
    }
    if let Some(event_type) = filter.event_type {
        values.push(event_type.into());
        conditions.push(format!("event_type = ${}", values.len()));
    }
    if let Some(KeysetCursor { time, id }) = filter.after {
        values.push(dialect.time(time));
        values.push(dialect.uuid(id));
        conditions.push(format!("(created_at, id) < (${}, ${})", values.len() - 1, values.len()));
    }
    let which = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    values.push(i64::from(limit).into());
    let bound = values.len();
    let sql = format!("SELECT {COLUMNS} FROM processed_events{which} ORDER BY created_at DESC, id DESC LIMIT ${bound}");
    store.query(&sql, values).await?.iter().map(read).collect()
}

/// The event `id`, once it is recorded.
pub(crate) async fn find(store: &Store, id: Uuid) -> Result<Option<ProcessedEvent>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM processed_events WHERE id = $1");
    store
        .query(&sql, vec![store.dialect().uuid(id)])
        .await?
        .first()
        .map(read)
        .transpose()
}

fn read(row: &Row) -> Result<ProcessedEvent, StoreError> {
    Ok(ProcessedEvent {
        id: row.uuid("id")?,
        user_id: row.uuid("user_id")?,
        event_type: row.get("event_type")?,
        message: row.get("message")?,
        payload: row.json_exact("payload")?,
        status: row.get("status")?,
        created_at: row.time("created_at")?,
        processed_at: row.time("processed_at")?,
    })
}
