//! The real binary with servers that take TLS connections: it checks whom it speaks to, and goes on as ever.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "survive/process.rs"]
mod process;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::servers::{PrivatePostgres, PrivateRabbitmq, PrivateRedis, TestCertificate};
use posthaste_testkit::wait_until;
use process::Posthaste;
use serde_json::json;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_believed_by_their_certificate_alone() -> Result<()> {
    let certificate = TestCertificate::make().await?;
    let (postgres, rabbitmq, redis) = tokio::try_join!(
        PrivatePostgres::launch(25_900),
        PrivateRabbitmq::launch(25_950),
        PrivateRedis::launch(26_900),
    )?;
    let (database, broker, cache) = (
        postgres.encrypt(&certificate).await?,
        rabbitmq.encrypt(&certificate).await?,
        redis.encrypt(&certificate).await?,
    );
    let authority = certificate.authority();
    let authority = authority.to_str().context("a path that is no text")?;
    let settings = [
        ("DATABASE_URL", database.as_str()),
        ("BROKER_URL", broker.as_str()),
        ("REDIS_URL", cache.as_str()),
        ("SSL_CERT_FILE", authority),
    ];
    let folder = tempfile::tempdir()?;

    let trusting = Posthaste::spawn(folder.path(), &[], &settings)?;
    let well = "broker ok, cache ok, database ok, migrations ok";
    trusting
        .answers_when("/health", 200, |health| checks(health).as_deref() == Some(well))
        .await?;
    let id = Uuid::now_v7();
    let event = json!({"user_id": id, "event_type": "encrypted", "message": "nobody else reads this", "event_id": id});
    let answer = reqwest::Client::new()
        .post(format!("{}/api/events", trusting.base))
        .json(&event)
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let store = Store::open(&database, StoreOptions::default())?;
    wait_until("the event to be processed", LIMIT, || async {
        let sql = "SELECT 1 AS one FROM processed_events WHERE id = $1";
        let rows = store.query(sql, vec![store.dialect().uuid(id)]).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await?;
    let open = "SELECT pid FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'postgres' AND NOT ssl";
    ensure!(
        store.query(open, vec![]).await?.is_empty(),
        "a connection is not encrypted"
    );
    store.close().await;
    trusting.terminate().await?;

    // One that does not know the authority believes neither broker nor cache.
    let doubting = Posthaste::spawn(folder.path(), &[], &settings[..3])?;
    // The URL of the database names its authority. The first answers may come before everything was tried.
    let doubtful = "broker down, cache down, database ok, migrations ok";
    doubting
        .answers_when("/health", 503, |health| checks(health).as_deref() == Some(doubtful))
        .await?;
    doubting.terminate().await
}

/// What `/health` says of each part.
fn checks(health: &str) -> Option<String> {
    let health: serde_json::Value = serde_json::from_str(health).ok()?;
    let checks = health["checks"].as_object()?;
    let said: Vec<String> = checks
        .iter()
        .map(|(name, check)| format!("{name} {}", check["status"].as_str().unwrap_or_default()))
        .collect();
    Some(said.join(", "))
}
