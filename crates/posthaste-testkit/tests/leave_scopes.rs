//! A process that ends in good order leaves no lease behind that its successor would have to wait for.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::{Broker, CORE_MIGRATIONS, Engine, EngineConfig, Roles, Store, StoreOptions, Tuning};
use posthaste_testkit::TestDatabase;

/// Joining begins a renewal at once, so one is under way at most of the stops.
const LEASE: Duration = Duration::from_secs(10);
/// Only for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 60;

async fn start_and_stop(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    for round in 0..ROUNDS {
        let engines: Vec<Engine> = ["one", "two", "three"]
            .into_iter()
            .map(|service| {
                Ok(Engine::start(EngineConfig {
                    service: service.to_owned(),
                    store: store.clone(),
                    broker: Broker::open("sql:", &store)?,
                    subscriptions: Vec::new(),
                    roles: Roles {
                        worker: true,
                        relay: true,
                    },
                    tuning: Tuning {
                        lease: LEASE,
                        ..Tuning::default()
                    },
                }))
            })
            .collect::<Result<_>>()?;
        // Another phase of the renewals in each round.
        tokio::time::timeout(Duration::from_millis(round % 15), std::future::pending::<()>())
            .await
            .ok();
        for engine in engines {
            engine.stop(LIMIT).await;
        }
        let rows = store
            .query("SELECT scope, slot FROM leases WHERE owner IS NOT NULL", vec![])
            .await?;
        ensure!(rows.is_empty(), "round {round}: {} leases are still held", rows.len());
    }
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_sqlite() -> Result<()> {
    start_and_stop(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_postgres() -> Result<()> {
    start_and_stop(TestDatabase::postgres().await?).await
}
