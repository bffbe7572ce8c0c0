//! Orders at a steady rate, while other sessions hold transactions open that also append to the outbox.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use contracts::{MessageSent, OrderCreated, SentMessage};
use posthaste::message::now;
use posthaste::{Message, MessageId, Store, StoreOptions, outbox};
use posthaste_testkit::wait_until;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::figure::Figure;
use super::place::Place;
use crate::bench::send_load;

const TRANSPORT: &str = "sql:";
const RATE: usize = 120;
const SPAN: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 32;
/// Sessions with one long transaction after the other.
const SESSIONS: usize = 8;
/// A transaction is open for so many milliseconds.
const SHORTEST: u128 = 30;
const LONGEST: u128 = 200;
/// Seconds, of 99 of 100 orders.
const DELAY: f64 = 1.0;
const LIMIT: Duration = Duration::from_secs(120);

/// Measures the delays and checks that each order has one row and one outcome, and that order per key holds.
///
/// # Errors
/// When that check fails or the machine is too busy for the load.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let server = place.serve(&["orders", "messages"], None).await?;
    let ids: Vec<Uuid> = (0..RATE * SPAN.as_secs() as usize).map(|_| Uuid::now_v7()).collect();
    let bodies: Vec<String> = ids.iter().copied().map(order).collect();
    let mut sessions = JoinSet::new();
    let end = Instant::now() + SPAN;
    for number in 0..SESSIONS {
        let store = Store::open(place.url(), StoreOptions::default())?;
        sessions.spawn(append_slowly(store, format!("session-{number}"), end));
    }
    send_load::post_at(server.port, "/api/v1/orders", &bodies, CONNECTIONS, RATE).await?;
    let mut appended = 0;
    while let Some(done) = sessions.join_next().await {
        appended += done.context("a session panicked")??;
    }
    let all = (ids.len() + appended) as i64;
    let outcomes = "SELECT COUNT(*) AS n FROM outbox_messages WHERE topic = 'order_processed_queue'";
    let sent = format!("{outcomes} AND status = 'published'");
    wait_until("all outcomes", LIMIT, || async {
        let stored = place.number("SELECT COUNT(*) AS n FROM messages").await.ok()?;
        (place.number(&sent).await.ok()? >= all && stored >= appended as i64).then_some(())
    })
    .await?;
    check(place, all, appended).await?;
    let delays = delays(place, &ids).await?;
    server.stop().await?;
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
    let what = |part: &str| format!("{RATE} orders/s beside {SESSIONS} long transactions, order to outcome, {part}");
    Ok(vec![
        Figure::seen(
            TRANSPORT,
            "orders and messages of long transactions",
            appended as f64,
            "of each",
        ),
        Figure::seen(TRANSPORT, &what("p50"), at(0.5), "s"),
        Figure::below(TRANSPORT, &what("p99"), at(0.99), DELAY, "s"),
        Figure::seen(TRANSPORT, &what("worst"), at(1.0), "s"),
    ])
}

fn order(id: Uuid) -> String {
    format!(r#"{{"orderId":"{id}","userId":"user-456","totalAmount":"99.99","idempotencyKey":"{id}","items":[]}}"#)
}

/// Transactions that append an order and a message of `sender` and stay open; how many there were.
async fn append_slowly(store: Store, sender: String, end: Instant) -> Result<usize> {
    let mut number = 0;
    while Instant::now() < end {
        let order: OrderCreated = serde_json::from_str(&order(Uuid::now_v7()))?;
        let id = MessageId::new();
        let sent = SentMessage {
            message_id: id.0,
            content: number.to_string(),
            sender: sender.clone(),
            timestamp: now(),
            metadata: None,
        };
        let mut message = Message::of(&MessageSent::new(id, sent, None, "messages"))?;
        message.id = id;
        let mut tx = store.begin().await?;
        outbox::append(&mut tx, "messages", message).await?;
        outbox::append(&mut tx, "orders", Message::of(&order)?).await?;
        let open = SHORTEST + id.0.as_u128() % (LONGEST - SHORTEST);
        tokio::time::sleep(Duration::from_millis(open as u64)).await;
        tx.commit().await?;
        number += 1;
    }
    store.close().await;
    Ok(number)
}

/// One row and one outcome for each order, and the messages of each sender in their order.
async fn check(place: &Place, orders: i64, messages: usize) -> Result<()> {
    let counts = place
        .row(
            "SELECT (SELECT COUNT(*) FROM orders) AS stored, \
             (SELECT COUNT(*) FROM outbox_messages WHERE topic = 'order_processed_queue') AS told, \
             (SELECT COUNT(DISTINCT aggregate_id) FROM outbox_messages WHERE topic = 'order_processed_queue') AS orders, \
             (SELECT COUNT(*) FROM outbox_messages WHERE topic = 'order_failed_queue') AS failed, \
             (SELECT COUNT(*) FROM inbox_messages WHERE status <> 'processed') AS left_over",
        )
        .await?;
    for (column, expected) in [
        ("stored", orders),
        ("told", orders),
        ("orders", orders),
        ("failed", 0),
        ("left_over", 0),
    ] {
        let count: i64 = counts.get(column)?;
        ensure!(count == expected, "{column}: {count} instead of {expected}");
    }
    // Ids of rows grow with time; those of one batch in its order.
    let rows = place
        .store()
        .query("SELECT sender, content FROM messages ORDER BY id", Vec::new())
        .await?;
    ensure!(rows.len() == messages, "{} rows of {messages} messages", rows.len());
    let mut next = BTreeMap::<String, usize>::new();
    for row in rows {
        let number: usize = row.get::<String>("content")?.parse()?;
        let sender: String = row.get("sender")?;
        let expected = next.entry(sender).or_default();
        ensure!(number == *expected, "message {number} came in the place of {expected}");
        *expected += 1;
    }
    Ok(())
}

/// Seconds from each of the orders with `ids` being appended to its outcome being published, ascending.
async fn delays(place: &Place, ids: &[Uuid]) -> Result<Vec<f64>> {
    let rows = place
        .store()
        .query(
            "SELECT placed.aggregate_id AS id, placed.created_at AS placed, told.published_at AS told \
             FROM outbox_messages AS placed JOIN outbox_messages AS told ON told.aggregate_id = placed.aggregate_id \
             WHERE placed.topic = 'order_created_queue' AND told.topic = 'order_processed_queue'",
            Vec::new(),
        )
        .await?;
    let ids: std::collections::BTreeSet<String> = ids.iter().map(Uuid::to_string).collect();
    let mut delays = Vec::with_capacity(ids.len());
    for row in rows {
        if ids.contains(&row.get::<String>("id")?) {
            delays.push((row.time("told")? - row.time("placed")?).as_seconds_f64());
        }
    }
    ensure!(
        delays.len() == ids.len(),
        "void: {} delays of {} orders",
        delays.len(),
        ids.len()
    );
    delays.sort_unstable_by(f64::total_cmp);
    Ok(delays)
}
