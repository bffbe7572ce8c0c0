//! Accept while anything can take the event, say so when nothing can, heal without a restart.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres, TestVhost};
use posthaste_testkit::{RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::{Value, json};

on_each_database!(while_the_transport_is_away_the_outbox_takes_the_event,);

const LIMIT: Duration = Duration::from_secs(90);

fn event(message: &str) -> Value {
    json!({"user_id": "550e8400-e29b-41d4-a716-446655440000", "event_type": "t", "message": message})
}

async fn recorded(service: &RunningService, id: &Value) -> Result<()> {
    let path = format!("/api/events/{}", id.as_str().context("no event_id")?);
    wait_until("the event to be recorded", LIMIT, || async {
        (service.get(&path).await.ok()?.status == 200).then_some(())
    })
    .await
}

async fn while_the_transport_is_away_the_outbox_takes_the_event(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let store = service.store();
    // Without its table the sql: transport can neither take nor hand out anything.
    store
        .execute("ALTER TABLE queue_messages RENAME TO queue_messages_away", vec![])
        .await?;
    let waiting = service
        .post("/api/events", &event("while the transport is away"))
        .await?;
    assert_eq!(waiting.status, 202, "{waiting:?}");
    assert_eq!(service.count("outbox_messages").await?, 1);

    store
        .execute("ALTER TABLE outbox_messages RENAME TO outbox_messages_away", vec![])
        .await?;
    let refused = service.post("/api/events", &event("nothing can take this")).await?;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(!refused.text.contains("messages"), "no database's text: {refused:?}");

    store
        .execute("ALTER TABLE outbox_messages_away RENAME TO outbox_messages", vec![])
        .await?;
    store
        .execute("ALTER TABLE queue_messages_away RENAME TO queue_messages", vec![])
        .await?;
    recorded(&service, &waiting.body["event_id"]).await?;
    assert_eq!(service.count("processed_events").await?, 1);
    service.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_went_away_is_told_and_used_again() -> Result<()> {
    let server = PrivatePostgres::launch(26_400).await?;
    let database = TestDatabase::on(PostgresUrl::parse(server.url())?).await?;
    let service = RunningService::start(notifications::service(), &database).await?;
    let before = service.post("/api/events", &event("before")).await?;
    recorded(&service, &before.body["event_id"]).await?;

    server.kill9().await?;
    for reply in [
        service.post("/api/events", &event("during")).await?,
        service.get("/api/events").await?,
    ] {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }
    server.start().await?;
    let after = wait_until("an event to be taken", LIMIT, || async {
        let reply = service.post("/api/events", &event("after")).await.ok()?;
        (reply.status == 202).then_some(reply)
    })
    .await?;
    recorded(&service, &after.body["event_id"]).await?;
    service.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_away_the_transport_takes_an_event_with_a_key_once() -> Result<()> {
    let server = PrivatePostgres::launch(26_420).await?;
    let database = TestDatabase::on(PostgresUrl::parse(server.url())?).await?;
    let vhost = TestVhost::create().await?;
    let service =
        RunningService::start_with(notifications::service(), &database, &[("BROKER_URL", vhost.url())]).await?;
    let key = [("Idempotency-Key", "k")];
    let before = service
        .post_with("/api/events", &event("before"), &[("Idempotency-Key", "other")])
        .await?;
    recorded(&service, &before.body["event_id"]).await?;

    server.kill9().await?;
    let first = service.post_with("/api/events", &event("during"), &key).await?;
    let again = service.post_with("/api/events", &event("during"), &key).await?;
    assert_eq!((first.status, again.status), (202, 202), "{first:?} {again:?}");
    assert_eq!(first.body, again.body, "one event");
    // That its key was used nobody can tell; it is not lost for that.
    let another = service.post_with("/api/events", &event("another"), &key).await?;
    assert_eq!(another.status, 202, "{another:?}");
    server.start().await?;

    recorded(&service, &first.body["event_id"]).await?;
    recorded(&service, &another.body["event_id"]).await?;
    // With the database back it still is the same event.
    let back = wait_until("a repeat to be taken", LIMIT, || async {
        let reply = service.post_with("/api/events", &event("during"), &key).await.ok()?;
        (reply.status == 202).then_some(reply)
    })
    .await?;
    assert_eq!(back.body, first.body);
    let last = service.post("/api/events", &event("last")).await?;
    recorded(&service, &last.body["event_id"]).await?;
    assert_eq!(service.count("processed_events").await?, 4);
    service.stop().await
}
