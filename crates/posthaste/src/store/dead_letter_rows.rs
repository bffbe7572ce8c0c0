//! Dead letters: rows of `inbox_messages` that were given up, together with those of `outbox_messages`
//! (`dead_outbox_rows.rs`).
//!
//! They are paged by (last_failed_at, message_id, subscription), the order of the index `inbox_dead`. Ids are looked up in
//! the primary key, one subscription after another: an index by id alone would cost every mark an entry.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::Value;
use uuid::Uuid;

use super::dead_outbox_rows::{self, DeadPlace, DeadRow, DeadRows};
use super::{Dialect, Row, Store, StoreError, Tx, Wake};
use crate::dead_letter::{DeadLetter, Owner, Place, Selection, Summary, Unsent};
use crate::envelope;
use crate::message::MessageId;

/// Rows that one transaction settles, and ids that one statement looks up.
const PAGE: usize = 500;

const BRIEF: &str = "subscription, message_id, event_type, topic, message_key, correlation_id, attempts, error, received_at, \
    first_failed_at, last_failed_at";
const WHOLE: &str = "subscription, message_id, event_type, topic, message_key, headers, body, attempts, error, received_at, \
    first_failed_at, last_failed_at";

/// A statement and its values.
struct Asked {
    sql: String,
    values: Vec<Value>,
}

impl Asked {
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }
}

enum Direction {
    NewestFirst,
    OldestFirst,
}

/// `columns` of dead rows beyond `from` and not newer than `until`, in the order of the index.
fn scan(
    dialect: Dialect,
    columns: &str,
    subscriptions: Option<&[String]>,
    from: Option<&Place>,
    until: Option<DateTime<Utc>>,
    direction: Direction,
    limit: u32,
) -> Asked {
    let mut asked = conditions(dialect, columns, subscriptions, until);
    let (order, beyond) = match direction {
        Direction::NewestFirst => ("DESC", "<"),
        Direction::OldestFirst => ("ASC", ">"),
    };
    if let Some(from) = from {
        let at = asked.bind(dialect.time(from.at));
        let id = asked.bind(dialect.uuid(from.id));
        let owner = asked.bind(from.owner.as_str());
        // The first condition is what bounds the index; databases differ in what they make of a comparison of rows.
        asked.sql.push_str(&format!(
            " AND last_failed_at {beyond}= {at} AND (last_failed_at {beyond} {at} OR message_id {beyond} {id} \
             OR (message_id = {id} AND subscription {beyond} {owner}))"
        ));
    }
    let limit = asked.bind(i64::from(limit));
    asked.sql.push_str(&format!(
        " ORDER BY last_failed_at {order}, message_id {order}, subscription {order} LIMIT {limit}"
    ));
    asked
}

fn conditions(
    dialect: Dialect,
    columns: &str,
    subscriptions: Option<&[String]>,
    until: Option<DateTime<Utc>>,
) -> Asked {
    let mut asked = Asked {
        sql: format!("SELECT {columns} FROM inbox_messages {{index:inbox_dead}} WHERE status = 'dead'"),
        values: Vec::new(),
    };
    if let Some(subscriptions) = subscriptions {
        let list = asked.bind(dialect.texts(subscriptions.iter().cloned()));
        let column = match dialect {
            // With the column itself they would read all of the subscriptions' rows by the primary key, or sort.
            Dialect::Sqlite | Dialect::Mysql => "COALESCE(subscription, '')",
            Dialect::Postgres => "subscription",
        };
        asked.sql.push_str(&format!(" AND {column} {{in:{list}}}"));
    }
    if let Some(until) = until {
        let until = asked.bind(dialect.time(until));
        asked.sql.push_str(&format!(" AND last_failed_at <= {until}"));
    }
    asked
}

/// `columns` of the dead rows of `subscription` with `ids`, by the primary key.
fn lookup(dialect: Dialect, columns: &str, subscription: &str, ids: &[MessageId]) -> Asked {
    Asked {
        sql: format!(
            "SELECT {columns} FROM inbox_messages WHERE subscription = $1 AND message_id {{in:$2}} AND status = 'dead'"
        ),
        values: vec![subscription.into(), dialect.uuids(ids.iter().map(|id| id.0))],
    }
}

/// The subscriptions that have rows of any kind: one entry of the primary key is read for each.
async fn subscriptions(store: &Store) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT subscription FROM inbox_messages WHERE subscription > $1 ORDER BY subscription LIMIT 1";
    let mut found: Vec<String> = Vec::new();
    loop {
        let last = found.last().map_or("", String::as_str);
        match store.query(sql, vec![last.into()]).await?.first() {
            Some(row) => found.push(row.get("subscription")?),
            None => return Ok(found),
        }
    }
}

/// The subscriptions of `selection`.
async fn chosen(store: &Store, selection: &Selection) -> Result<Vec<String>, StoreError> {
    match &selection.subscriptions {
        Some(chosen) => Ok(chosen.clone()),
        None => subscriptions(store).await,
    }
}

/// `columns` of the dead rows with the ids of `selection`.
async fn look_up(store: &Store, columns: &str, selection: &Selection) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for subscription in chosen(store, selection).await? {
        for ids in selection.ids.chunks(PAGE) {
            let Asked { sql, values } = lookup(store.dialect(), columns, &subscription, ids);
            rows.extend(store.query(&sql, values).await?);
        }
    }
    Ok(rows)
}

pub(crate) async fn page(
    store: &Store,
    selection: &Selection,
    before: Option<&Place>,
    limit: u32,
) -> Result<Vec<Summary>, StoreError> {
    let subscriptions = selection.subscriptions.as_deref();
    let asked = scan(
        store.dialect(),
        BRIEF,
        subscriptions,
        before,
        None,
        Direction::NewestFirst,
        limit,
    );
    let rows = store.query(&asked.sql, asked.values).await?;
    let mut page: Vec<Summary> = rows.iter().map(read_brief).collect::<Result<_, _>>()?;
    for which in outboxes(selection, before) {
        let rows = dead_outbox_rows::list(store, &which, limit).await?;
        page.extend(rows.into_iter().map(unsent));
    }
    page.sort_by_cached_key(|letter| {
        let place = Place::of(letter);
        Reverse((place.at, place.id, place.owner))
    });
    page.truncate(limit as usize);
    Ok(page)
}

/// The rows of outboxes that `selection` means.
fn outboxes(selection: &Selection, before: Option<&Place>) -> Vec<DeadRows> {
    let services: Vec<Option<String>> = match &selection.outboxes {
        None => vec![None],
        Some(services) => services.iter().cloned().map(Some).collect(),
    };
    let which = |service| DeadRows {
        service,
        ids: selection.ids.clone(),
        before: before.map(|place| (place.at, MessageId(place.id))),
    };
    services.into_iter().map(which).collect()
}

fn unsent(row: DeadRow) -> Summary {
    Summary {
        owner: Owner::Outbox(row.service),
        id: row.id,
        event_type: row.event_type,
        topic: row.topic,
        key: row.key,
        correlation_id: row.correlation_id,
        attempts: 0,
        error: row.error,
        received_at: row.created_at,
        first_failed_at: None,
        last_failed_at: row.failed_at,
    }
}

/// What of `selection` could never be sent, with the messages, at most `limit`.
pub(crate) async fn list_unsent(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<Unsent>, StoreError> {
    let mut found = Vec::new();
    for which in outboxes(selection, None) {
        let rows = dead_outbox_rows::whole(store, &which, limit).await?;
        found.extend(rows.into_iter().map(|(row, message)| Unsent {
            service: row.service,
            message,
            error: row.error,
            created_at: row.created_at,
            failed_at: row.failed_at,
        }));
    }
    found.truncate(limit as usize);
    Ok(found)
}

pub(crate) async fn list(store: &Store, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let rows = if selection.ids.is_empty() {
        let subscriptions = selection.subscriptions.as_deref();
        let asked = scan(
            store.dialect(),
            WHOLE,
            subscriptions,
            None,
            None,
            Direction::NewestFirst,
            limit,
        );
        store.query(&asked.sql, asked.values).await?
    } else {
        look_up(store, WHOLE, selection).await?
    };
    rows.iter().take(limit as usize).map(read).collect()
}

fn read(row: &Row) -> Result<DeadLetter, StoreError> {
    let time = |column: &str| -> Result<Option<DateTime<Utc>>, StoreError> { row.time_or_null(column) };
    Ok(DeadLetter {
        subscription: row.get("subscription")?,
        message: envelope::read(row, "message_id")?,
        attempts: row.get::<i32>("attempts")?.cast_unsigned(),
        error: row.get::<Option<String>>("error")?.unwrap_or_default(),
        received_at: row.time("received_at")?,
        first_failed_at: time("first_failed_at")?,
        last_failed_at: time("last_failed_at")?,
    })
}

fn read_brief(row: &Row) -> Result<Summary, StoreError> {
    Ok(Summary {
        owner: Owner::Subscription(row.get("subscription")?),
        id: MessageId(row.uuid("message_id")?),
        event_type: row.get("event_type")?,
        topic: row.get::<Option<String>>("topic")?.unwrap_or_default(),
        key: row.get("message_key")?,
        correlation_id: row.get("correlation_id")?,
        attempts: row.get::<i32>("attempts")?.cast_unsigned(),
        error: row.get::<Option<String>>("error")?.unwrap_or_default(),
        received_at: row.time("received_at")?,
        first_failed_at: row.time_or_null("first_failed_at")?,
        last_failed_at: row.time("last_failed_at")?,
    })
}

pub(crate) async fn count(store: &Store, selection: &Selection) -> Result<u64, StoreError> {
    if !selection.ids.is_empty() {
        let inbox = look_up(store, "message_id", selection).await?.len();
        return Ok((inbox + unsent_numbers(store, selection).await?.len()) as u64);
    }
    count_until(store, selection, None).await
}

async fn count_until(store: &Store, selection: &Selection, until: Option<DateTime<Utc>>) -> Result<u64, StoreError> {
    let subscriptions = selection.subscriptions.as_deref();
    let asked = conditions(store.dialect(), "COUNT(*) AS number", subscriptions, until);
    let rows = store.query(&asked.sql, asked.values).await?;
    let inbox: i64 = rows.first().map_or(Ok(0), |row| row.get("number"))?;
    let outbox = dead_outbox_rows::count(store, selection.outboxes.as_deref(), until).await?;
    Ok(inbox.cast_unsigned() + outbox)
}

/// How many died longer than `age` ago.
pub(crate) async fn count_older_than(store: &Store, age: Duration) -> Result<u64, StoreError> {
    let until = ago(store, age).await?;
    count_until(store, &Selection::default(), Some(until)).await
}

/// The numbers of the outbox rows with the ids of `selection`.
async fn unsent_numbers(store: &Store, selection: &Selection) -> Result<Vec<i64>, StoreError> {
    let mut numbers = Vec::new();
    for which in outboxes(selection, None) {
        for ids in selection.ids.chunks(PAGE) {
            let which = DeadRows {
                ids: ids.to_vec(),
                ..which.clone()
            };
            let rows = dead_outbox_rows::list(store, &which, PAGE as u32).await?;
            numbers.extend(rows.into_iter().map(|row| row.seq));
        }
    }
    Ok(numbers)
}

/// The time `age` ago by the clock of the database.
async fn ago(store: &Store, age: Duration) -> Result<DateTime<Utc>, StoreError> {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let rows = store.query("SELECT {after:$1} AS at", vec![(-age).into()]).await?;
    rows.first().map_or(Ok(DateTime::UNIX_EPOCH), |row| row.time("at"))
}

/// Dead rows by their primary keys.
#[derive(Default)]
pub(crate) struct Keys {
    /// Message ids by subscription.
    inbox: BTreeMap<String, Vec<Uuid>>,
    outbox: Vec<i64>,
}

/// The dead letters of a selection, page by page.
pub(crate) enum Pages {
    /// Those with known ids, the last page first.
    Known(Vec<Keys>),
    /// All others, oldest first.
    Scan(Scan),
}

/// The dead letters of subscriptions, then those of outboxes, up to a time: what dies again does not come again.
pub(crate) struct Scan {
    selection: Selection,
    until: DateTime<Utc>,
    inbox: Option<Place>,
    inbox_ended: bool,
    outbox: Option<DeadPlace>,
}

impl Pages {
    pub async fn of(store: &Store, selection: &Selection) -> Result<Self, StoreError> {
        if selection.ids.is_empty() {
            let until = ago(store, Duration::ZERO).await?;
            return Ok(Self::up_to(selection.clone(), until));
        }
        let rows = look_up(store, "subscription, message_id", selection).await?;
        let mut pages: Vec<Keys> = rows.chunks(PAGE).map(keys).collect::<Result<_, _>>()?;
        for seqs in unsent_numbers(store, selection).await?.chunks(PAGE) {
            pages.push(Keys {
                outbox: seqs.to_vec(),
                ..Keys::default()
            });
        }
        Ok(Self::Known(pages))
    }

    /// What died longer than `age` ago.
    pub async fn older_than(store: &Store, age: Duration) -> Result<Self, StoreError> {
        let until = ago(store, age).await?;
        Ok(Self::up_to(Selection::default(), until))
    }

    fn up_to(selection: Selection, until: DateTime<Utc>) -> Self {
        Self::Scan(Scan {
            selection,
            until,
            inbox: None,
            inbox_ended: false,
            outbox: None,
        })
    }

    pub async fn next(&mut self, store: &Store) -> Result<Option<Keys>, StoreError> {
        match self {
            Self::Known(pages) => Ok(pages.pop()),
            Self::Scan(scan) => scan.next(store).await,
        }
    }
}

impl Scan {
    async fn next(&mut self, store: &Store) -> Result<Option<Keys>, StoreError> {
        if !self.inbox_ended {
            let subscriptions = self.selection.subscriptions.as_deref();
            let asked = scan(
                store.dialect(),
                "subscription, message_id, last_failed_at",
                subscriptions,
                self.inbox.as_ref(),
                Some(self.until),
                Direction::OldestFirst,
                PAGE as u32,
            );
            let rows = store.query(&asked.sql, asked.values).await?;
            if let Some(last) = rows.last() {
                self.inbox = Some(Place {
                    at: last.time("last_failed_at")?,
                    id: last.uuid("message_id")?,
                    owner: last.get("subscription")?,
                });
                return keys(&rows).map(Some);
            }
            self.inbox_ended = true;
        }
        let services = self.selection.outboxes.as_deref();
        let found = dead_outbox_rows::oldest(store, services, self.outbox, self.until, PAGE as u32).await?;
        let Some((_, last)) = found.last() else {
            return Ok(None);
        };
        self.outbox = Some(*last);
        Ok(Some(Keys {
            outbox: found.into_iter().map(|(seq, _)| seq).collect(),
            ..Keys::default()
        }))
    }
}

fn keys(rows: &[Row]) -> Result<Keys, StoreError> {
    let mut keys = Keys::default();
    for row in rows {
        let ids = keys.inbox.entry(row.get("subscription")?).or_default();
        ids.push(row.uuid("message_id")?);
    }
    Ok(keys)
}

/// Makes the rows due now, with all attempts ahead of them. One behind another row of its key waits from the retrier's
/// look on.
pub(crate) async fn replay(tx: &mut Tx, keys: &Keys) -> Result<u64, StoreError> {
    const OF: &str = "WHERE subscription = $1 AND message_id {in:$2} AND status = 'dead'";
    let mut count = 0;
    for (subscription, ids) in &keys.inbox {
        let values = || {
            vec![
                Value::from(subscription.as_str()),
                tx.dialect().uuids(ids.iter().copied()),
            ]
        };
        // Whoever replays it wants it handled, however late.
        let sql = format!("SELECT message_id, headers FROM inbox_messages {OF} AND headers LIKE '%expirytime%'");
        for row in tx.query(&sql, values()).await? {
            let headers = envelope::without_expiry(&row.get::<String>("headers")?);
            let sql = "UPDATE inbox_messages SET headers = $1 WHERE subscription = $2 AND message_id = $3";
            let id = tx.dialect().uuid(row.uuid("message_id")?);
            tx.execute(sql, vec![headers.into(), subscription.as_str().into(), id])
                .await?;
        }
        let sql =
            format!("UPDATE inbox_messages SET status = 'retrying', attempts = 0, due_at = {{now}}, due_in = 0 {OF}");
        count += tx.execute(&sql, values()).await?;
    }
    tx.wake_after_commit(Wake::PARKED);
    if !keys.outbox.is_empty() {
        count += dead_outbox_rows::replay(tx, &keys.outbox).await?;
    }
    Ok(count)
}

pub(crate) async fn discard(tx: &Tx, keys: &Keys) -> Result<u64, StoreError> {
    let mut count = 0;
    for (subscription, ids) in &keys.inbox {
        // Kept as a mark, so that a late duplicate of what was thrown away does not come to life.
        let sql = "UPDATE inbox_messages SET status = 'processed', processed_at = {now}, due_at = NULL, parked_seq = NULL, \
             body = NULL, headers = NULL WHERE subscription = $1 AND message_id {in:$2} AND status = 'dead'";
        let ids = tx.dialect().uuids(ids.iter().copied());
        count += tx.execute(sql, vec![subscription.as_str().into(), ids]).await?;
    }
    if !keys.outbox.is_empty() {
        count += dead_outbox_rows::discard(tx, &keys.outbox).await?;
    }
    Ok(count)
}

/// The plans of the statements above for `selection`, a line for each step.
#[cfg(feature = "explore")]
pub(crate) async fn explain(store: &Store, selection: &Selection) -> Result<Vec<String>, StoreError> {
    let dialect = store.dialect();
    let subscriptions = selection.subscriptions.as_deref();
    let mut statements = Vec::new();
    for subscription in chosen(store, selection).await? {
        if !selection.ids.is_empty() {
            statements.push(lookup(dialect, WHOLE, &subscription, &selection.ids));
        }
    }
    if selection.ids.is_empty() {
        let from = Place::before(crate::message::now());
        let from = Some(&from);
        statements.push(scan(
            dialect,
            BRIEF,
            subscriptions,
            from,
            None,
            Direction::NewestFirst,
            50,
        ));
        let until = Some(crate::message::now());
        statements.push(scan(
            dialect,
            BRIEF,
            subscriptions,
            from,
            until,
            Direction::OldestFirst,
            500,
        ));
    }
    let mut plans = Vec::new();
    for Asked { sql, values } in statements {
        let (explain, columns): (&str, &[&str]) = match dialect {
            Dialect::Postgres => ("EXPLAIN", &["QUERY PLAN"]),
            Dialect::Sqlite => ("EXPLAIN QUERY PLAN", &["detail"]),
            Dialect::Mysql => ("EXPLAIN", &["type", "key", "Extra"]),
        };
        for row in store.query(&format!("{explain} {sql}"), values).await? {
            let texts = columns.iter().map(|column| row.get::<Option<String>>(column));
            let texts: Vec<String> = texts
                .map(|text| Ok(text?.unwrap_or_default()))
                .collect::<Result<_, StoreError>>()?;
            plans.push(texts.join(" "));
        }
    }
    Ok(plans)
}

/// How many of the newest `most` dead letters each queue has.
pub(crate) async fn count_by_queue(store: &Store, most: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "SELECT topic, COUNT(*) AS number FROM (SELECT COALESCE(topic, '') AS topic FROM inbox_messages {index:inbox_dead} \
        WHERE status = 'dead' ORDER BY last_failed_at DESC LIMIT $1) AS newest GROUP BY topic";
    store
        .query(sql, vec![most.into()])
        .await?
        .iter()
        .map(|row| Ok((row.get("topic")?, row.get("number")?)))
        .collect()
}
