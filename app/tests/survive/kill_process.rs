//! kill -9 of posthaste itself.

use anyhow::Result;
use posthaste_testkit::TestDatabase;

use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

async fn five_kills(database: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut running = Posthaste::start(folder.path(), database).await?;
    let load = Load::start(&running.base, 8);
    for _ in 0..5 {
        load.acknowledge(300).await?;
        running.kill9().await?;
        running = Posthaste::start(folder.path(), database).await?;
        load.redirect(&running.base);
    }
    load.acknowledge(300).await?;
    let seen = load.finish().await;
    expect_all_processed(database, &seen).await?;
    running.terminate().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_lose_and_double_nothing_on_sqlite() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    five_kills(database.url()).await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_lose_and_double_nothing_on_postgres() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    five_kills(database.url()).await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_lose_and_double_nothing_on_mysql() -> Result<()> {
    let database = TestDatabase::mysql().await?;
    five_kills(database.url()).await?;
    database.finish().await
}
