//! The tables `orders` and `order_keys`.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use contracts::{Amount, OrderCreated};
use posthaste::store::{Column, Insert, OnConflict, Row};
use posthaste::{Received, Store, StoreError, Tx};
use posthaste_host::KeysetCursor;
use uuid::Uuid;

use crate::order::{Known, Order, Pair, Status};

/// Where in the list a page ended.
pub(crate) type Cursor = KeysetCursor<String>;

/// Which orders to list; all conditions hold.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub user_id: Option<String>,
    pub status: Option<Status>,
    /// Only what comes after this row in the list.
    pub after: Option<Cursor>,
}

const CLAIM: Insert = Insert {
    table: "order_keys",
    columns: &[
        Column::Plain("idempotency_key"),
        Column::Plain("order_id"),
        Column::Plain("message_id"),
        Column::Now("created_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: Some("message_id"),
};

const INSERT: Insert = Insert {
    table: "orders",
    columns: &[
        Column::Plain("order_id"),
        Column::Plain("user_id"),
        Column::Plain("total_amount"),
        Column::Plain("status"),
        Column::Plain("idempotency_key"),
        Column::Json("items"),
        Column::Now("created_at"),
        Column::Now("updated_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: None,
};

const COLUMNS: &str =
    "order_id, user_id, total_amount, status, idempotency_key, items, failure_reason, created_at, updated_at";

/// Claims the keys of `orders`; answers the ids of the messages whose key nobody had claimed. Waits for the
/// transaction that is about to claim one.
pub(crate) async fn claim_keys(tx: &Tx, orders: &[Received<OrderCreated>]) -> Result<HashSet<Uuid>, StoreError> {
    let dialect = tx.dialect();
    let mut sorted: Vec<&Received<OrderCreated>> = orders.iter().collect();
    // Transactions that overlap lock in one order. The sort is stable: of one key the first message wins.
    sorted.sort_by(|a, b| a.event.idempotency_key.cmp(&b.event.idempotency_key));
    let rows = sorted.into_iter().map(|Received { event, message }| {
        vec![
            event.idempotency_key.as_str().into(),
            event.order_id.as_str().into(),
            dialect.uuid(message.id.0),
        ]
    });
    let claimed = CLAIM.run(tx, rows.collect()).await?;
    Ok(claimed.into_iter().collect())
}

/// Stores `orders` whose keys are claimed; an id that exists stays as it is. Answers the key of the row with
/// each id.
pub(crate) async fn insert(tx: &Tx, orders: &[&Received<OrderCreated>]) -> Result<HashMap<String, String>, StoreError> {
    let dialect = tx.dialect();
    let mut sorted: Vec<&OrderCreated> = orders.iter().map(|received| &received.event).collect();
    sorted.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    let rows = sorted.iter().map(|order| {
        vec![
            order.order_id.as_str().into(),
            order.user_id.as_str().into(),
            dialect.decimal(order.total_amount.decimal()),
            Status::Processed.to_string().into(),
            order.idempotency_key.as_str().into(),
            order.items.get().into(),
        ]
    });
    INSERT.run(tx, rows.collect()).await?;
    let ids = dialect.texts(sorted.iter().map(|order| order.order_id.clone()));
    let sql = "SELECT order_id, idempotency_key FROM orders WHERE order_id {in:$1}";
    let rows = tx.query(sql, vec![ids]).await?;
    rows.iter()
        .map(|row| Ok((row.get("order_id")?, row.get("idempotency_key")?)))
        .collect()
}

/// What is known of the id and the key of `pair`.
pub(crate) async fn known(tx: &Tx, pair: &Pair) -> Result<Vec<Known>, StoreError> {
    let sql = "SELECT order_id, idempotency_key, user_id FROM orders WHERE order_id = $1 \
        UNION ALL SELECT order_id, idempotency_key, NULL AS user_id FROM order_keys WHERE idempotency_key = $2";
    let values = vec![pair.order_id.as_str().into(), pair.idempotency_key.as_str().into()];
    let rows = tx.query(sql, values).await?;
    rows.iter()
        .map(|row| {
            let pair = Pair {
                order_id: row.get("order_id")?,
                idempotency_key: row.get("idempotency_key")?,
            };
            let user_id = row.get("user_id")?;
            Ok(Known { pair, user_id })
        })
        .collect()
}

/// Whose the stored orders with the keys of `orders` are, by key.
pub(crate) async fn owners(tx: &Tx, orders: &[&Received<OrderCreated>]) -> Result<HashMap<String, String>, StoreError> {
    if orders.is_empty() {
        return Ok(HashMap::new());
    }
    let keys = orders.iter().map(|received| received.event.idempotency_key.clone());
    let sql = "SELECT idempotency_key, user_id FROM orders WHERE idempotency_key {in:$1}";
    let rows = tx.query(sql, vec![tx.dialect().texts(keys)]).await?;
    rows.iter()
        .map(|row| Ok((row.get("idempotency_key")?, row.get("user_id")?)))
        .collect()
}

/// The newest orders of `filter`, at most `limit`.
pub(crate) async fn list(store: &Store, filter: Filter, limit: u32) -> Result<Vec<Order>, StoreError> {
    let dialect = store.dialect();
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    if let Some(user_id) = filter.user_id {
        values.push(user_id.into());
        conditions.push(format!("user_id = ${}", values.len()));
    }
    if let Some(status) = filter.status {
        values.push(status.to_string().into());
        conditions.push(format!("status = ${}", values.len()));
    }
    if let Some(KeysetCursor { time, id }) = filter.after {
        values.push(dialect.time(time));
        values.push(id.into());
        conditions.push(format!(
            "(created_at, order_id) < (${}, ${})",
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
    let sql = format!("SELECT {COLUMNS} FROM orders{which} ORDER BY created_at DESC, order_id DESC LIMIT ${bound}");
    store.query(&sql, values).await?.iter().map(read).collect()
}

/// The order `order_id`, once it is processed.
pub(crate) async fn find(store: &Store, order_id: &str) -> Result<Option<Order>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM orders WHERE order_id = $1");
    store
        .query(&sql, vec![order_id.into()])
        .await?
        .first()
        .map(read)
        .transpose()
}

fn read(row: &Row) -> Result<Order, StoreError> {
    let time = |column: &str| -> Result<DateTime<Utc>, StoreError> { row.time(column) };
    Ok(Order {
        order_id: row.get("order_id")?,
        user_id: row.get("user_id")?,
        total_amount: Amount::stored(row.decimal("total_amount")?),
        items: row.raw_json("items")?,
        status: row.get("status")?,
        idempotency_key: row.get("idempotency_key")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
        failure_reason: row.get("failure_reason")?,
    })
}
