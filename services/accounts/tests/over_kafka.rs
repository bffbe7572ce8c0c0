//! A sign-up over a real Kafka, from the form to the mail.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::PrivateKafka;
use posthaste_testkit::{RunningService, TestDatabase, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_up_over_kafka_ends_with_a_mail() -> Result<()> {
    let kafka = PrivateKafka::launch(27_720).await?;
    let (database, mail) = (TestDatabase::sqlite()?, tempfile::tempdir()?);
    let servers = kafka.servers();
    let folder = mail.path().to_str().context("a path")?;
    let settings = [("KAFKA_BOOTSTRAP_SERVERS", servers.as_str()), ("MAIL_DIR", folder)];
    let service = RunningService::start_with(accounts::service(), &database, &settings).await?;
    let body = json!({"email": "ann@example.com", "first_name": "Ann", "last_name": "Lee", "password": "plumber otter vivid canal"});
    let reply = service.post("/signup", &body).await?;
    ensure!(reply.status == 201, "{reply:?}");
    wait_until("the mail", LIMIT, || async {
        let entry = std::fs::read_dir(mail.path()).ok()?.next()?.ok()?;
        entry.path().extension().is_some_and(|kind| kind == "eml").then_some(())
    })
    .await?;
    ensure!(service.count("inbox_messages WHERE status = 'dead'").await? == 0);
    service.stop().await
}
