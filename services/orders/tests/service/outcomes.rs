//! What the queues around the service hold, as any client of them would see it.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::{RunningService, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

pub const LIMIT: Duration = Duration::from_secs(90);
pub const INCOMING: &str = "order_created_queue";

pub fn order(order_id: &str, key: &str) -> Value {
    json!({"orderId": order_id, "userId": "user-456", "totalAmount": 99.99, "idempotencyKey": key, "items": []})
}

/// Puts bytes into the queue as a client without an envelope does.
pub async fn put_bytes(service: &RunningService, body: &[u8]) -> Result<()> {
    let sql = "INSERT INTO queue_messages (topic, body) VALUES ($1, $2)";
    let values = vec![INCOMING.into(), body.to_vec().into()];
    service.store().execute(sql, values).await?;
    Ok(())
}

pub async fn put(service: &RunningService, body: &str) -> Result<()> {
    put_bytes(service, body.as_bytes()).await
}

/// The same under a message id that nobody has seen.
pub async fn put_with_id(service: &RunningService, body: &str) -> Result<()> {
    let store = service.store();
    let sql = "INSERT INTO queue_messages (topic, message_id, body) VALUES ($1, $2, $3)";
    let id = store.dialect().uuid(Uuid::now_v7());
    let values = vec![INCOMING.into(), id, body.as_bytes().to_vec().into()];
    store.execute(sql, values).await?;
    Ok(())
}

pub async fn count_is(service: &RunningService, table: &str, wanted: i64) -> Result<()> {
    wait_until(&format!("{wanted} rows in {table}"), LIMIT, || async {
        (service.count(table).await.ok()? == wanted).then_some(())
    })
    .await
}

/// Waits until every order that came is worked off and every outcome is on its queue.
pub async fn settled(service: &RunningService) -> Result<()> {
    let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
        + (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) \
        + (SELECT COUNT(*) FROM queue_messages WHERE topic = 'order_created_queue') AS n";
    wait_until("the orders to be worked off", LIMIT, || async {
        let rows = service.store().query(sql, vec![]).await.ok()?;
        (rows.first()?.get::<i64>("n").ok()? == 0).then_some(())
    })
    .await
}

pub async fn outcomes(service: &RunningService, queue: &str) -> Result<Vec<Value>> {
    let sql = "SELECT body FROM queue_messages WHERE topic = $1 ORDER BY seq";
    let rows = service.store().query(sql, vec![queue.into()]).await?;
    rows.iter()
        .map(|row| Ok(serde_json::from_slice(&row.get::<Vec<u8>>("body")?)?))
        .collect()
}

/// Waits for `wanted` outcomes on `queue`.
pub async fn outcome_is(service: &RunningService, queue: &str, wanted: usize) -> Result<Vec<Value>> {
    wait_until(&format!("{wanted} messages on {queue}"), LIMIT, || async {
        let found = outcomes(service, queue).await.ok()?;
        (found.len() == wanted).then_some(found)
    })
    .await
}

pub async fn processed(service: &RunningService) -> Result<Vec<Value>> {
    outcomes(service, "order_processed_queue").await
}

pub async fn failures(service: &RunningService) -> Result<Vec<Value>> {
    outcomes(service, "order_failed_queue").await
}

/// Body and headers of what is on `order_dlq`.
pub async fn dead(service: &RunningService) -> Result<Vec<(Vec<u8>, String)>> {
    let sql = "SELECT body, headers FROM queue_messages WHERE topic = 'order_dlq'";
    let rows = service.store().query(sql, vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("body")?, row.get("headers")?)))
        .collect()
}

/// Waits for the order and answers it.
pub async fn stored(service: &RunningService, order_id: &str) -> Result<Value> {
    let path = format!("/api/v1/orders/{order_id}");
    wait_until(&format!("order {order_id}"), LIMIT, || async {
        let reply = service.get(&path).await.ok()?;
        (reply.status == 200).then_some(reply.body)
    })
    .await
    .context(path)
}
