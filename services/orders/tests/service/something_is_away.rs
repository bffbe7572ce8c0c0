//! Databases and transports go away and come back: nothing is lost, nothing is told twice, no restart is needed.

use crate::outcomes::{LIMIT, count_is, failures, order, outcome_is, processed, put, settled, stored};
use anyhow::{Result, ensure};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres};
use posthaste_testkit::{RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::Value;

on_each_database!(
    no_outcome_is_marked_sent_that_the_transport_did_not_confirm,
    what_a_crash_sends_again_is_one_order_and_one_outcome,
);

async fn no_outcome_is_marked_sent_that_the_transport_did_not_confirm(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    // The transport goes on handing out orders and takes nothing.
    let broken = match service.store().dialect() {
        posthaste::store::Dialect::Sqlite => {
            "CREATE TRIGGER away BEFORE INSERT ON queue_messages WHEN NEW.topic <> 'order_created_queue' \
             BEGIN SELECT RAISE(ABORT, 'away'); END"
        }
        _ => "ALTER TABLE queue_messages ADD CONSTRAINT away CHECK (topic = 'order_created_queue')",
    };
    service.store().execute(broken, vec![]).await?;
    for n in 0..20 {
        put(&service, &order(&format!("o{n}"), &format!("k{n}")).to_string()).await?;
    }
    count_is(&service, "orders", 20).await?;
    count_is(&service, "outbox_messages WHERE status = 'pending'", 40).await?;
    assert_eq!(service.count("outbox_messages WHERE status = 'published'").await?, 0);
    let mended = match service.store().dialect() {
        posthaste::store::Dialect::Sqlite => "DROP TRIGGER away",
        _ => "ALTER TABLE queue_messages DROP CONSTRAINT away",
    };
    service.store().execute(mended, vec![]).await?;
    // A publisher that was refused goes on by itself.
    outcome_is(&service, "order_processed_queue", 20).await?;
    settled(&service).await?;
    assert_eq!(processed(&service).await?.len(), 20);
    service.stop().await
}

async fn what_a_crash_sends_again_is_one_order_and_one_outcome(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    for n in 0..10 {
        let reply = service
            .post("/api/v1/orders", &order(&format!("o{n}"), &format!("k{n}")))
            .await?;
        ensure!(reply.status == 202, "{reply:?}");
    }
    outcome_is(&service, "order_processed_queue", 10).await?;
    settled(&service).await?;
    // As if the process had died after the transport had the orders and before they were marked.
    let unmark =
        "UPDATE outbox_messages SET status = 'pending', published_at = NULL WHERE topic = 'order_created_queue'";
    service.store().execute(unmark, vec![]).await?;
    service.stop().await?;
    let service = RunningService::start(orders::service(), &database).await?;
    settled(&service).await?;
    assert_eq!(service.count("orders").await?, 10);
    assert_eq!(processed(&service).await?.len(), 10);
    assert_eq!(failures(&service).await?, Vec::<Value>::new());
    service.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_database_shows_in_health_and_costs_no_order() -> Result<()> {
    let server = PrivatePostgres::launch(26_600).await?;
    let database = TestDatabase::on(PostgresUrl::parse(server.url())?).await?;
    let service = RunningService::start(orders::service(), &database).await?;
    let healthy = wait_until("a healthy service", LIMIT, || async {
        service.get("/health").await.ok().filter(|reply| reply.status == 200)
    })
    .await?;
    assert_eq!(healthy.body["db"], "connected");
    service.post("/api/v1/orders", &order("before", "before")).await?;
    stored(&service, "before").await?;
    for n in 0..200 {
        put(&service, &order(&format!("o{n}"), &format!("k{n}")).to_string()).await?;
    }
    server.kill9().await?;
    wait_until("/health to say so", LIMIT, || async {
        let reply = service.get("/health").await.ok()?;
        (reply.status == 503 && reply.body["db"] == "disconnected").then_some(())
    })
    .await?;
    let refused = service.post("/api/v1/orders", &order("during", "during")).await?;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    server.start().await?;
    count_is(&service, "orders WHERE order_id LIKE 'o%'", 200).await?;
    settled(&service).await?;
    assert_eq!(
        failures(&service).await?,
        Vec::<Value>::new(),
        "an outage is no failure"
    );
    assert_eq!(service.count("queue_messages WHERE topic = 'order_dlq'").await?, 0);
    let told = processed(&service).await?;
    let ids: std::collections::BTreeSet<&str> = told.iter().filter_map(|one| one["orderId"].as_str()).collect();
    assert_eq!(
        (told.len() as i64, ids.len()),
        (service.count("orders").await?, told.len())
    );
    wait_until("/health to be well again", LIMIT, || async {
        (service.get("/health").await.ok()?.status == 200).then_some(())
    })
    .await?;
    service.stop().await
}
