//! A queue that takes nothing, and what waits for it, against the messages for the other queues of the same service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use posthaste::outbox;
use posthaste_testkit::servers::PrivateRabbitmq;
use posthaste_testkit::{bare_message, wait_until};
use uuid::Uuid;

use super::figure::{Figure, median_and_worst};
use super::place::Place;
use crate::bench::send_load;

const BROKER_PORT: u16 = 28_100;
const TRANSPORT: &str = "rabbitmq";
const FULL: &str = "torture.full";
/// Rows that are refused.
const REFUSED: usize = 10_000;
/// Orders of a phase, and how many of them are placed per second.
const ORDERS: usize = 400;
const RATE: usize = 20;
/// Until everything that was placed is out.
const LIMIT: Duration = Duration::from_secs(120);
/// How much later than with an empty outbox a message may leave.
const DELAY: f64 = 1.0;

/// Seconds from the commit of a message to its confirmed publication.
struct Delays {
    median: f64,
    worst: f64,
}

/// Measures both kinds of rows.
///
/// # Errors
/// When something does not start or does not come out.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let broker = PrivateRabbitmq::launch(BROKER_PORT).await?;
    let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(FULL.into(), options, arguments).await?;

    let server = place.serve(&["orders"], Some(&broker.url())).await?;
    let empty = trickle(place, server.port, None).await.context("empty outbox")?;
    let pending = trickle(place, server.port, Some(false)).await.context("pending")?;
    let removed = format!("DELETE FROM outbox_messages WHERE topic = '{FULL}'");
    place.store().execute(&removed, Vec::new()).await?;
    let scheduled = trickle(place, server.port, Some(true)).await.context("scheduled")?;
    server.stop().await?;

    let mut figures = vec![
        Figure::seen(TRANSPORT, "empty outbox, median delay", empty.median, "s"),
        Figure::seen(TRANSPORT, "empty outbox, worst delay", empty.worst, "s"),
    ];
    for (kind, delays) in [("pending", pending), ("scheduled", scheduled)] {
        let later = |what: &str, with: f64, without: f64| {
            let what = format!("{REFUSED} refused {kind} rows add to the {what} delay of others");
            Figure::below(TRANSPORT, &what, with - without, DELAY, "s")
        };
        figures.push(later("median", delays.median, empty.median));
        figures.push(later("worst", delays.worst, empty.worst));
    }
    Ok(figures)
}

/// Places orders one after the other, and early among them the rows that are refused, due now or `scheduled`.
async fn trickle(place: &Place, port: u16, scheduled: Option<bool>) -> Result<Delays> {
    let last = place
        .number("SELECT COALESCE(MAX(seq), 0) AS n FROM outbox_messages")
        .await?;
    let bodies: Vec<String> = (0..ORDERS).map(|_| order(Uuid::now_v7())).collect();
    let orders = send_load::post_at(port, "/api/v1/orders", &bodies, 4, RATE);
    let (placed, refused) = tokio::join!(orders, async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        match scheduled {
            Some(scheduled) => append_refused(place, scheduled).await,
            None => Ok(()),
        }
    });
    placed?;
    refused?;
    // Each order is a message, and each outcome two.
    let others = format!("FROM outbox_messages WHERE topic <> '{FULL}' AND seq > {last}");
    let published = format!("SELECT COUNT(*) AS n {others} AND status = 'published'");
    wait_until("the other messages to be published", LIMIT, || async {
        (place.number(&published).await.ok()? == 3 * ORDERS as i64).then_some(())
    })
    .await?;
    let waiting = format!("SELECT COUNT(*) AS n FROM outbox_messages WHERE topic = '{FULL}' AND status = 'pending'");
    let waiting = place.number(&waiting).await?;
    ensure!(
        scheduled.is_none() || waiting as usize > REFUSED / 2,
        "void: the queue took all but {waiting}"
    );
    let rows = place
        .store()
        .query(&format!("SELECT created_at, published_at {others}"), Vec::new())
        .await?;
    let mut delays = Vec::with_capacity(rows.len());
    for row in rows {
        delays.push((row.time("published_at")? - row.time("created_at")?).as_seconds_f64());
    }
    let (median, worst) = median_and_worst(delays);
    Ok(Delays { median, worst })
}

async fn append_refused(place: &Place, scheduled: bool) -> Result<()> {
    let due = scheduled.then(Utc::now);
    let rows = (0..REFUSED).map(|n| (bare_message(FULL, Some(&format!("key {n}"))), due));
    let mut tx = place.store().begin().await?;
    outbox::append_all(&mut tx, "orders", rows.collect()).await?;
    Ok(tx.commit().await?)
}

fn order(id: Uuid) -> String {
    format!(r#"{{"orderId":"{id}","userId":"user-456","totalAmount":"99.99","idempotencyKey":"{id}","items":[]}}"#)
}
