//! Two processes on one database: shared work, and take-over when one dies.

use anyhow::Result;
use posthaste_testkit::TestDatabase;

use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

async fn one_dies(database: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = Posthaste::start(folder.path(), database).await?;
    let second = Posthaste::start(folder.path(), database).await?;
    let load = Load::start(&first.base, 4);
    load.acknowledge(200).await?;
    load.redirect(&second.base);
    first.kill9().await?;
    load.acknowledge(200).await?;
    let seen = load.finish().await;
    // What the dead one held comes to the second when its leases have run out.
    expect_all_processed(database, &seen).await?;
    second.terminate().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_takes_over_on_sqlite() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    one_dies(database.url()).await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_takes_over_on_postgres() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    one_dies(database.url()).await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_takes_over_on_mysql() -> Result<()> {
    let database = TestDatabase::mysql().await?;
    one_dies(database.url()).await?;
    database.finish().await
}
