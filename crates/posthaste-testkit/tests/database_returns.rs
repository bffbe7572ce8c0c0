//! A database that comes back is used at once, whatever the connections in the pool have become.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use posthaste::{Store, StoreOptions};
use posthaste_testkit::servers::PrivatePostgres;
use posthaste_testkit::wait_until;

const LIMIT: Duration = Duration::from_secs(90);
/// One caller a second looks whether it is back; the rest is for a busy machine. Less than the 5 s that a single caller who
/// waits for a connection could keep the others out.
const AGAIN: Duration = Duration::from_millis(4500);

async fn write(store: &Store) -> Result<()> {
    let tx = store.begin().await?;
    Ok(tx.rollback().await?)
}

/// As many connections as the pool takes.
async fn fill(store: &Store) -> Result<()> {
    for open in join_all((0..10).map(|_| store.begin())).await {
        open?.rollback().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_pays_for_connections_that_died() -> Result<()> {
    let server = PrivatePostgres::launch(27_540).await?;
    let store = Store::open(server.url(), StoreOptions::default())?;
    fill(&store).await?;
    server.restart().await?;
    write(&store).await?;
    fill(&store).await?;
    server.restart().await?;
    store.query("SELECT 1", vec![]).await?;
    store.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_go_on_soon_after_a_long_absence() -> Result<()> {
    let server = PrivatePostgres::launch(27_560).await?;
    let store = Store::open(server.url(), StoreOptions::default())?;
    fill(&store).await?;
    server.stop_immediate().await?;
    // Long enough for the pauses between attempts to connect to grow.
    let away = Instant::now();
    wait_until("a long absence", LIMIT, || async {
        let refused = write(&store).await.is_err();
        (refused && away.elapsed() > Duration::from_secs(8)).then_some(())
    })
    .await?;
    server.start().await?;
    let back = Instant::now();
    wait_until("a write", LIMIT, || async { write(&store).await.ok() }).await?;
    ensure!(back.elapsed() < AGAIN, "{:?} after it came back", back.elapsed());
    for _ in 0..20 {
        write(&store).await?;
    }
    store.close().await;
    Ok(())
}
