//! A database that goes away costs an honest answer, no message and no restart.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres};
use posthaste_testkit::{RunningService, TestDatabase, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);
const SEND: &str = "/api/v1/messages/send";

async fn stored(service: &RunningService, reply: &Value) -> Result<()> {
    let id = reply["data"]["message_id"].as_str().context("no message_id")?;
    let path = format!("/api/v1/messages/{id}");
    wait_until("the message to be stored", LIMIT, || async {
        (service.get(&path).await.ok()?.status == 200).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_went_away_is_told_and_used_again() -> Result<()> {
    let server = PrivatePostgres::launch(26_500).await?;
    let database = TestDatabase::on(PostgresUrl::parse(server.url())?).await?;
    let service = RunningService::start(messages::service(), &database).await?;
    let message = json!({"content": "Hello", "sender": "ann"});
    stored(&service, &service.post(SEND, &message).await?.body).await?;

    server.kill9().await?;
    for reply in [
        service.post(SEND, &message).await?,
        service.post_with(SEND, &message, &[("Idempotency-Key", "k")]).await?,
        service.get("/api/v1/messages/").await?,
    ] {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }
    server.start().await?;
    let after = wait_until("a message to be taken", LIMIT, || async {
        let reply = service
            .post_with(SEND, &message, &[("Idempotency-Key", "k")])
            .await
            .ok()?;
        (reply.status == 200).then_some(reply)
    })
    .await?;
    assert_eq!(
        after.header("idempotent-replayed"),
        None,
        "the refused one has left nothing"
    );
    stored(&service, &after.body).await?;
    assert_eq!(service.count("messages").await?, 2);
    service.stop().await
}
