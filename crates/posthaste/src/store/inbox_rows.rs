//! The rows of `inbox_messages`: marks of what was handled, and what was not handled. Those that are still to be handled
//! are in `retry_rows.rs`.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::Value;
use uuid::Uuid;

use crate::envelope;
use crate::identity::{self, Verdict, body_hash};
use crate::message::{Message, MessageId};
use crate::store::identity_rows;
use crate::store::{Column, Dialect, Insert, OnConflict, Store, StoreError, Tx, Wake};

const MARK: Insert = Insert {
    table: "inbox_messages",
    columns: &[
        Column::Plain("subscription"),
        Column::Plain("message_id"),
        Column::Plain("event_type"),
        Column::Plain("status"),
        Column::Plain("correlation_id"),
        Column::Plain("body_hash"),
        Column::Now("received_at"),
        Column::Now("processed_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: Some("message_id"),
};

/// Writes the marks of `messages`; answers the ids that had none before.
pub(crate) async fn mark<'m>(
    tx: &Tx,
    subscription: &str,
    messages: impl Iterator<Item = &'m Message>,
) -> Result<HashSet<Uuid>, StoreError> {
    let dialect = tx.dialect();
    let mut sorted: Vec<&Message> = messages.collect();
    // Two batches that overlap lock their rows in one order.
    sorted.sort_unstable_by_key(|message| message.id);
    if dialect == Dialect::Mysql {
        // It finds out which rows exist by failing on them: better not to try with those that are known.
        let known = known(tx, subscription, &sorted).await?;
        sorted.retain(|message| !known.contains(&message.id.0));
    }
    let rows = sorted.into_iter().map(|message| {
        vec![
            subscription.into(),
            dialect.uuid(message.id.0),
            Value::from(message.event_type.as_str()),
            "processed".into(),
            Value::String(message.correlation_id.clone()),
            Value::Bytes(Some(body_hash(&message.body).to_vec())),
        ]
    });
    Ok(MARK.run(tx, rows.collect()).await?.into_iter().collect())
}

/// Tries within `limit` whether marks can be written, and writes none: where the server is read-only, the table is missing
/// or the user may not, a look that only reads would not tell.
pub(crate) async fn try_writing(store: &Store, limit: Duration) -> Result<(), StoreError> {
    let sql = "DELETE FROM inbox_messages WHERE subscription = '' AND message_id = $1";
    let nobody = vec![store.dialect().uuid(Uuid::nil())];
    let tried = tokio::time::timeout(limit, store.execute(sql, nobody)).await;
    tried.unwrap_or(Err(StoreError::Deadline(limit))).map(drop)
}

/// Takes back marks that `tx` has written.
pub(crate) async fn unmark(
    tx: &Tx,
    subscription: &str,
    ids: impl Iterator<Item = MessageId>,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM inbox_messages WHERE subscription = $1 AND status = 'processed' AND message_id {in:$2}";
    let ids = tx.dialect().uuids(ids.map(|id| id.0));
    tx.execute(sql, vec![subscription.into(), ids]).await.map(drop)
}

/// The ids of those of `messages` that the inbox knows.
pub(crate) async fn known_to(
    store: &Store,
    subscription: &str,
    messages: &[&Message],
) -> Result<HashSet<Uuid>, StoreError> {
    let ids = store.dialect().uuids(messages.iter().map(|message| message.id.0));
    store
        .query(KNOWN, vec![subscription.into(), ids])
        .await?
        .iter()
        .map(|row| row.uuid("message_id"))
        .collect()
}

const KNOWN: &str = "SELECT message_id FROM inbox_messages WHERE subscription = $1 AND message_id {in:$2}";

async fn known(tx: &Tx, subscription: &str, messages: &[&Message]) -> Result<HashSet<Uuid>, StoreError> {
    let ids = tx.dialect().uuids(messages.iter().map(|message| message.id.0));
    tx.query(KNOWN, vec![subscription.into(), ids])
        .await?
        .iter()
        .map(|row| row.uuid("message_id"))
        .collect()
}

/// Which of `keys` have rows that are still to be handled, so that what comes later has to wait behind them.
pub(crate) async fn blocked_keys(
    tx: &Tx,
    subscription: &str,
    keys: &HashSet<String>,
) -> Result<HashSet<String>, StoreError> {
    let mut blocked = HashSet::new();
    if keys.is_empty() {
        return Ok(blocked);
    }
    // A key has few retrying rows. It may have any number of waiting ones, and hardly ever has these alone.
    let sql = "SELECT message_key, 0 AS waits FROM inbox_messages \
            WHERE subscription = $1 AND status = 'retrying' AND message_key {in:$2} \
        UNION ALL SELECT * FROM (SELECT message_key, 1 AS waits FROM inbox_messages \
            WHERE subscription = $1 AND status = 'waiting' ORDER BY message_key LIMIT 1) AS w";
    let mut any_waits = false;
    let list = tx.dialect().texts(keys.iter().cloned());
    for row in tx.query(sql, vec![subscription.into(), list]).await? {
        match row.get::<i32>("waits")? {
            0 => drop(blocked.insert(row.get("message_key")?)),
            _ => any_waits = true,
        }
    }
    let rest: Vec<String> = keys.difference(&blocked).cloned().collect();
    if any_waits && !rest.is_empty() {
        // A waiting row may have become due since the first statement.
        let sql = "SELECT message_key FROM inbox_messages {index:inbox_keys} \
                WHERE subscription = $1 AND status = 'waiting' AND message_key {in:$2} \
            UNION SELECT message_key FROM inbox_messages {index:inbox_keys} \
                WHERE subscription = $1 AND status = 'retrying' AND message_key {in:$2}";
        let list = tx.dialect().texts(rest);
        for row in tx.query(sql, vec![subscription.into(), list]).await? {
            blocked.insert(row.get("message_key")?);
        }
    }
    Ok(blocked)
}

/// How a message that was not handled stays in the inbox.
pub(crate) enum Fate<'a> {
    /// Due after this time. It failed, with its cause, or is to be tried by the retrier first.
    Retrying { after: Duration, error: Option<&'a str> },
    /// As [`Fate::Retrying`], due now; it was handed out before and may have killed its worker: handled alone.
    Suspect,
    /// Behind another row of its key. `suspect`: as [`Fate::Suspect`].
    Waiting { suspect: bool },
    /// Given up, with its cause.
    Dead { error: &'a str },
}

/// Longest error text that is kept; the log line has it in full.
const ERROR_CHARACTERS: usize = 4000;

/// A [`Fate`] as columns.
struct Columns {
    status: &'static str,
    /// Microseconds until it is due; `None`: it is not.
    after: Option<i64>,
    /// As PostgreSQL takes it.
    error: Option<String>,
    /// See `alone_until` in the table.
    alone: Option<i64>,
}

impl Fate<'_> {
    fn columns(&self) -> Columns {
        let text = |error: &str| error.chars().filter(|c| *c != '\0').take(ERROR_CHARACTERS).collect();
        let columns = |status, after, error: Option<&str>, suspect: bool| Columns {
            status,
            after,
            error: error.map(text),
            // No row of a key has a number as low: it holds for this row only.
            alone: suspect.then_some(0),
        };
        match self {
            Self::Retrying { after, error } => columns("retrying", Some(micros(*after)), *error, false),
            Self::Suspect => columns("retrying", Some(0), None, true),
            Self::Waiting { suspect } => columns("waiting", None, None, *suspect),
            Self::Dead { error } => columns("dead", None, Some(error), false),
        }
    }
}

/// A message that became a dead letter because another one with its identity is being retried.
#[must_use = "a dead letter has a copy"]
pub(crate) struct Aside {
    /// Under the id of its own that it has as a dead letter.
    pub message: Message,
    pub error: String,
}

/// What became of a message that was not known to be in the inbox.
#[must_use = "a dead letter has a copy"]
pub(crate) enum Written {
    AsAsked,
    /// The inbox has its identity, and keeps what it has.
    Not,
    Aside(Box<Aside>),
}

/// Writes `message`, of which the inbox knows nothing, as `fate` has it after `attempts` attempts. If
/// the inbox has its identity, what is known stays, except a dead letter that this one corrects.
pub(crate) async fn settle_new(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<Written, StoreError> {
    let written = |new| if new { Written::AsAsked } else { Written::Not };
    if insert(tx, subscription, message, attempts, &fate).await? {
        return Ok(Written::AsAsked);
    }
    let verdicts = identity_rows::admit(tx, subscription, &[message]).await?;
    let verdict = verdicts.get(&message.id).copied().unwrap_or(Verdict::Repeat);
    identity::report(subscription, message, None, verdict);
    match verdict {
        Verdict::Dead => insert(tx, subscription, message, attempts, &fate).await.map(written),
        Verdict::Retried => {
            let aside = keep_aside(tx, subscription, message).await?;
            Ok(aside.map_or(Written::Not, |aside| Written::Aside(Box::new(aside))))
        }
        Verdict::Repeat | Verdict::Handled => Ok(Written::Not),
    }
}

/// Keeps `message` as a dead letter beside the one that has its identity and is being retried; `None` where it is kept
/// already.
pub(crate) async fn keep_aside(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
) -> Result<Option<Aside>, StoreError> {
    let mut aside = message.clone();
    aside.id = identity::set_aside(message.id, &body_hash(&message.body));
    let error = format!(
        "another message with the same identity ({}) and a different body is being retried",
        message.id
    );
    let new = insert(tx, subscription, &aside, 0, &Fate::Dead { error: &error }).await?;
    Ok(new.then_some(Aside { message: aside, error }))
}

async fn insert(
    tx: &mut Tx,
    subscription: &str,
    message: &Message,
    attempts: u32,
    fate: &Fate<'_>,
) -> Result<bool, StoreError> {
    let Columns {
        status,
        after,
        error,
        alone,
    } = fate.columns();
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, correlation_id, received_at, topic, \
            message_key, headers, body, attempts, parked_seq, due_at, due_in, first_failed_at, last_failed_at, error, alone_until, \
            body_hash) \
        {row} $1, $2, $3, $4, $5, {now}, $6, $7, $8, $9, $10, {next_parked:$1,$7}, \
            CASE WHEN {int:$11} IS NULL THEN NULL ELSE {after:$11} END, {int:$11}, \
            CASE WHEN $12 = 1 THEN {now} END, CASE WHEN $12 = 1 THEN {now} END, $13, {int:$14}, $15 {end_row}";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(message.id.0),
        Value::from(message.event_type.as_str()),
        status.into(),
        Value::String(message.correlation_id.clone()),
        Value::from(message.topic.as_str()),
        Value::String(message.key.clone()),
        Value::from(envelope::encode(message)),
        Value::Bytes(Some(message.body.clone())),
        Value::from(attempts.cast_signed()),
        Value::BigInt(after),
        Value::from(i32::from(error.is_some())),
        Value::String(error),
        Value::BigInt(alone),
        Value::Bytes(Some(body_hash(&message.body).to_vec())),
    ];
    let inserted = match tx.dialect() {
        // Its count of rows does not tell a new one from one that was there; a duplicate undoes only itself.
        Dialect::Mysql => match tx.execute(sql, values).await {
            Err(StoreError::Duplicate(_)) => 0,
            done => done?,
        },
        Dialect::Postgres | Dialect::Sqlite => tx.execute(&format!("{sql} {{ignore:subscription}}"), values).await?,
    };
    tx.wake_after_commit(Wake::PARKED);
    Ok(inserted == 1)
}

/// Settles the row that the retrier took with `claimed` attempts; `attempts` is what counts from now on. `false`: another
/// worker has taken the row since, and nothing was done.
pub(crate) async fn settle_taken(
    tx: &mut Tx,
    subscription: &str,
    id: Uuid,
    claimed: u32,
    attempts: u32,
    fate: Fate<'_>,
) -> Result<bool, StoreError> {
    let Columns {
        status, after, error, ..
    } = fate.columns();
    // Where rows behind it were taken along, no attempt was counted; none of them has killed the process.
    let sql = "UPDATE inbox_messages SET status = $4, attempts = $5, due_in = {int:$6}, error = $7, last_failed_at = {now}, \
            due_at = CASE WHEN {int:$6} IS NULL THEN NULL ELSE {after:$6} END, \
            first_failed_at = COALESCE(first_failed_at, {now}), \
            alone_until = CASE WHEN {int:$3} = 0 THEN NULL ELSE alone_until END \
        WHERE subscription = $1 AND message_id = $2 AND attempts = $3 AND status = 'retrying'";
    let values = vec![
        subscription.into(),
        tx.dialect().uuid(id),
        claimed.cast_signed().into(),
        status.into(),
        attempts.cast_signed().into(),
        Value::BigInt(after),
        Value::String(error),
    ];
    let changed = tx.execute(sql, values).await?;
    tx.wake_after_commit(Wake::PARKED);
    Ok(changed == 1)
}

/// Ten years at most: what lies further ahead than a database's times go would be refused, or never due.
pub(super) fn micros(time: Duration) -> i64 {
    const MOST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    time.min(MOST).as_micros() as i64
}
