//! Start, answers about itself, roles, stop.

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_host::RoleSet;
use posthaste_testkit::{TestDatabase, wait_until};
use reqwest::Method;

use crate::ledger_service::{LIMIT, config, get, once_ok, send, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_about_itself() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let host = start(&config(&[("DATABASE_URL", database.url())])?).await?;

    let body = once_ok("/health", || get(&host, "/health")).await?;
    let health: serde_json::Value = serde_json::from_str(&body)?;
    for (field, expected) in [
        ("status", "ok"),
        ("service", "ledger"),
        ("version", "0.1.0"),
        ("db", "connected"),
        ("mq", "connected"),
    ] {
        ensure!(health[field] == expected, "{field} in {body}");
    }
    for check in ["database", "broker", "migrations"] {
        ensure!(health["checks"][check]["status"] == "ok", "{check} in {body}");
    }

    let body = once_ok("/readyz", || get(&host, "/readyz?verbose")).await?;
    ensure!(body.contains("[+]database ok\n[+]migrations ok\n"), "{body}");
    let (status, _, body) = get(&host, "/livez").await?;
    ensure!(status == 200, "{body}");

    let (status, kind, body) = get(&host, "/metrics").await?;
    ensure!(status == 200 && kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    for metric in [
        "posthaste_build_info{",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "db_client_connections{",
        "posthaste_db_up{",
        "db_client_operation_duration_seconds_bucket{",
    ] {
        ensure!(body.contains(metric), "{metric} is missing in\n{body}");
    }
    // As promtool has it; the texts stand in telemetry/describe_metrics.rs.
    for line in body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').context("a kind")?;
        ensure!(body.contains(&format!("# HELP {name} ")), "{name} has no help text");
        ensure!(kind == "histogram" || !name.ends_with("_count"), "{name} is a {kind}");
    }
    host.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_can_run_in_hosts_of_their_own() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let mut api = config(&[("DATABASE_URL", database.url())])?;
    let mut workers = api.clone();
    api.roles = RoleSet {
        api: true,
        worker: false,
        relay: false,
    };
    workers.roles = RoleSet {
        api: false,
        worker: true,
        relay: true,
    };
    let (api, workers) = (start(&api).await?, start(&workers).await?);

    let (status, _, body) = send(&workers, Method::POST, "/book/a").await?;
    ensure!(status == 404, "a worker has no routes of the service: {status} {body}");
    once_ok("/readyz", || get(&workers, "/readyz")).await?;
    let (status, _, body) = send(&api, Method::POST, "/book/a").await?;
    ensure!(status == 202, "{status} {body}");

    let store = Store::open(database.url(), StoreOptions::default())?;
    wait_until("the booking", LIMIT, || async {
        let rows = store.query("SELECT what FROM ledger", vec![]).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await?;
    store.close().await;
    tokio::join!(api.stop(), workers.stop());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_host_answers_no_more_and_starts_again() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let config = config(&[("DATABASE_URL", database.url()), ("METRICS_ENABLED", "false")])?;
    let host = start(&config).await?;
    let (status, ..) = get(&host, "/metrics").await?;
    ensure!(status == 404, "metrics are off, yet /metrics says {status}");
    let addr = host.addr;
    tokio::time::timeout(LIMIT, host.stop()).await?;
    ensure!(tokio::net::TcpStream::connect(addr).await.is_err(), "it still listens");

    let again = start(&config).await?;
    let (status, _, body) = send(&again, Method::POST, "/book/b/").await?;
    ensure!(status == 202, "{status} {body}");
    again.stop().await;
    Ok(())
}
