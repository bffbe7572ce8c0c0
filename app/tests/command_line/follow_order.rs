//! One order through the whole program: placed at orders, published, recorded at notifications.

use anyhow::{Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::wait_until;
use serde_json::{Value, json};

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::{api_of, keep_log};

const USER: &str = "550e8400-e29b-41d4-a716-446655440000";

#[tokio::test]
async fn an_order_is_visible_from_end_to_end() -> Result<()> {
    let program = Program::new()?;
    let mut child = program.command(&["--port", "0"], &[]).spawn()?;
    drop(keep_log(&mut child)?);
    let api = api_of(&mut child).await?;
    let api = api.trim_end_matches('/');
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let order = json!({"orderId": "order-101", "userId": USER, "totalAmount": 99.99,
        "idempotencyKey": "unique-key-001", "items": []});
    let reply = client
        .post(format!("{api}/api/v1/orders"))
        .header("Content-Type", "application/json")
        .body(order.to_string())
        .send()
        .await?;
    ensure!(reply.status() == 202, "{reply:?}");

    let event = wait_until("the order among the user's events", LIMIT, || async {
        let url = format!("{api}/api/events?user_id={USER}");
        let text = client.get(url).send().await.ok()?.text().await.ok()?;
        let page: Value = serde_json::from_str(&text).ok()?;
        page["items"].get(0).cloned()
    })
    .await?;
    ensure!(event["event_type"] == "order.processed", "{event}");
    ensure!(event["message"] == "Order order-101 processed", "{event}");

    // The outcome for the outside world is still there: no service of ours took it.
    let file = format!("sqlite:{}", program.folder().join("data/posthaste.db").display());
    let store = Store::open(&file, StoreOptions::default())?;
    let sql = "SELECT body FROM queue_messages WHERE topic = 'order_processed_queue'";
    let outcome = wait_until("the outcome on its queue", LIMIT, || async {
        store.query(sql, vec![]).await.ok()?.into_iter().next()
    })
    .await?;
    let outcome: Value = serde_json::from_slice(&outcome.get::<Vec<u8>>("body")?)?;
    ensure!(
        outcome["orderId"] == "order-101" && outcome["status"] == "PROCESSED",
        "{outcome}"
    );
    store.close().await;
    child.kill().await?;
    Ok(())
}
