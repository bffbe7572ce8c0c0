//! `/health` tells what waits, what cannot be written and what is not read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_host::{Config, RoleSet, RunningHost};
use posthaste_testkit::{TestDatabase, servers, wait_until};
use reqwest::Method;
use serde_json::Value;

use crate::ledger_service::{config, get, once_ok, send, start};

/// A subscription that fails is given half a minute.
const LIMIT: Duration = Duration::from_secs(120);

const NOTHING: RoleSet = RoleSet {
    api: false,
    worker: false,
    relay: false,
};

fn with(settings: &[(&str, &str)], roles: RoleSet) -> Result<Config> {
    let mut config = config(settings)?;
    config.migrate = true;
    config.roles = roles;
    Ok(config)
}

/// Waits until the check `name` of `/health` is there, or is gone; the whole answer.
async fn health(host: &RunningHost, name: &str, there: bool) -> Result<Value> {
    wait_until(&format!("{name}: {there}"), LIMIT, || async {
        let (status, _, body) = get(host, "/health").await.ok()?;
        let health: Value = serde_json::from_str(&body).ok()?;
        (status == 200 && health["checks"][name].is_object() == there).then_some(health)
    })
    .await
}

async fn rows_that_no_process_takes(database: TestDatabase) -> Result<()> {
    let url = [("DATABASE_URL", database.url())];
    let api = start(&with(&url, RoleSet { api: true, ..NOTHING })?).await?;
    let enforced = [
        url[0],
        ("POSTHASTE_AUTH", "enforced"),
        ("ACCOUNTS_URL", "http://127.0.0.1:9"),
    ];
    let other = start(&with(&enforced, RoleSet { api: true, ..NOTHING })?).await?;
    for n in 0..3 {
        let (status, _, body) = send(&api, Method::POST, &format!("/book/{n}")).await?;
        ensure!(status == 202, "{body}");
    }
    let seen = health(&api, "outbox:ledger", true).await?;
    let check = &seen["checks"]["outbox:ledger"];
    ensure!(seen["status"] == "degraded", "{seen}");
    ensure!(check["status"] == "down" && check["rows"] == 3, "{seen}");
    ensure!(check["since"].is_string() && check["why"].is_string(), "{seen}");
    let seen = health(&other, "outbox", true).await?;
    ensure!(seen["checks"]["outbox"]["why"].is_null(), "{seen}");
    ensure!(seen["checks"]["outbox"]["since"].is_string(), "{seen}");
    ensure!(!seen["checks"].to_string().contains("ledger"), "no names: {seen}");
    let (_, _, verbose) = get(&other, "/health?verbose").await?;
    ensure!(
        verbose.contains("[-]outbox failed") && !verbose.contains("ledger"),
        "{verbose}"
    );

    let relay = start(&with(&url, RoleSet { relay: true, ..NOTHING })?).await?;
    let seen = health(&api, "queue:ledger:bookings", true).await?;
    ensure!(seen["checks"]["queue:ledger:bookings"]["rows"] == 3, "{seen}");
    health(&api, "outbox:ledger", false).await?;
    let worker = start(&with(
        &url,
        RoleSet {
            worker: true,
            ..NOTHING
        },
    )?)
    .await?;
    let seen = health(&api, "queue:ledger:bookings", false).await?;
    ensure!(seen["status"] == "ok", "{seen}");
    for host in [api, other, relay, worker] {
        host.stop().await;
    }
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_process_takes_show_on_sqlite() -> Result<()> {
    rows_that_no_process_takes(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_process_takes_show_on_postgres() -> Result<()> {
    rows_that_no_process_takes(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_process_takes_show_on_mysql() -> Result<()> {
    rows_that_no_process_takes(TestDatabase::mysql().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_another_process_has_locked_shows() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let host = start(&config(&[("DATABASE_URL", database.url())])?).await?;
    let other = Store::open(database.url(), StoreOptions::default())?;
    let lock = other.begin().await?;
    wait_until("the cause", LIMIT, || async {
        let seen = health(&host, "database-writes", true).await.ok()?;
        let why = seen["checks"]["database-writes"]["why"].as_str()?;
        why.contains("the write lock of the SQLite file is held by another process")
            .then_some(())
    })
    .await?;
    lock.rollback().await?;
    health(&host, "database-writes", false).await?;
    other.close().await;
    host.stop().await;
    Ok(())
}

/// A process that only answers requests has no loops that would find out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_became_read_only_shows() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let api = with(&[("DATABASE_URL", database.url())], RoleSet { api: true, ..NOTHING })?;
    let host = start(&api).await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    let name = database.url().rsplit('/').next().context("no name")?;
    let name = name.split('?').next().unwrap_or(name);
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    store.execute(&read_only, vec![]).await?;
    let cut = "SELECT pg_terminate_backend(pid) AS cut FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    store.query(cut, vec![]).await?;
    let seen = health(&host, "database-writes", true).await?;
    ensure!(seen["checks"]["database"]["status"] == "ok", "it can be read: {seen}");
    store.close().await;
    host.stop().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_a_stranger_reads_alone_shows() -> Result<()> {
    let vhost = servers::TestVhost::create().await?;
    let database = TestDatabase::sqlite()?;
    let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", vhost.url())];
    // Declares the queue.
    let relay = start(&with(
        &settings,
        RoleSet {
            relay: true,
            api: true,
            ..NOTHING
        },
    )?)
    .await?;
    let (status, _, body) = send(&relay, Method::POST, "/book/a").await?;
    ensure!(status == 202, "{body}");
    let stranger = lapin::Connection::connect(vhost.url(), lapin::ConnectionProperties::default()).await?;
    let alone = lapin::options::BasicConsumeOptions {
        exclusive: true,
        ..Default::default()
    };
    let reader = wait_until("the stranger to read", LIMIT, || async {
        let channel = stranger.create_channel().await.ok()?;
        let asked = channel.basic_consume("bookings".into(), "".into(), alone, Default::default());
        Some((asked.await.ok()?, channel))
    })
    .await?;

    let worker = start(&with(
        &settings,
        RoleSet {
            worker: true,
            ..NOTHING
        },
    )?)
    .await?;
    let seen = health(&worker, "subscription:ledger.book", true).await?;
    ensure!(seen["mq"] == "connected" && seen["status"] == "degraded", "{seen}");
    ensure!(seen["checks"]["subscription:ledger.book"]["why"].is_string(), "{seen}");
    let (status, _, body) = get(&worker, "/readyz").await?;
    ensure!(status == 503, "a worker that does not read is not ready: {body}");
    let (_, _, metrics) = get(&worker, "/metrics").await?;
    let gauge = r#"posthaste_consumer_reading{subscription="ledger.book"}"#;
    ensure!(metrics.contains(&format!("{gauge} 0")), "{metrics}");
    once_ok("/readyz", || get(&relay, "/readyz")).await?;

    drop(reader);
    stranger.close(200, "OK".into()).await?;
    health(&worker, "subscription:ledger.book", false).await?;
    once_ok("/readyz", || get(&worker, "/readyz")).await?;
    let (_, _, metrics) = get(&worker, "/metrics").await?;
    ensure!(metrics.contains(&format!("{gauge} 1")), "{metrics}");
    worker.stop().await;
    relay.stop().await;
    Ok(())
}
