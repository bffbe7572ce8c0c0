//! Large messages are read and handled in pages of so many bytes, not of so many rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, HandleBatch, Handled, Message, Received, Roles, Store,
    StoreOptions, Subscription, Tuning,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(240);
const PAGE: usize = 16 << 20;
const LARGE: usize = 2 << 20;

#[derive(Serialize, Deserialize)]
struct Picture {
    n: usize,
    pixels: String,
}

impl Event for Picture {
    const TYPE: &'static str = "picture";
    const TOPIC: &'static str = "pictures";
}

/// The numbers and bytes of each batch.
type Batches = Arc<Mutex<Vec<(Vec<usize>, usize)>>>;

struct Look(Batches);

impl HandleBatch<Picture> for Look {
    async fn handle_batch(&self, events: Vec<Received<Picture>>, _cx: &mut Cx<'_>) -> Handled {
        let numbers = events.iter().map(|received| received.event.n).collect();
        let bytes = events.iter().map(|received| received.message.body.len()).sum();
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batches.push((numbers, bytes));
        Ok(())
    }
}

async fn batches_fit_into_memory(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let broker = Broker::open("sql:", &store)?;
    // Large ones, small ones, and both among each other.
    let bytes = |n: usize| match n {
        0..30 => LARGE,
        30..200 => 10,
        _ if n.is_multiple_of(10) => LARGE,
        _ => 1_000,
    };
    let count = 300;
    for first in (0..count).step_by(10) {
        let messages = (first..first + 10).map(|n| {
            let pixels = "x".repeat(bytes(n));
            Message::of(&Picture { n, pixels })
        });
        let confirmed = broker.publish(messages.collect::<Result<_, _>>()?).await;
        ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    }
    let batches = Batches::default();
    let mut look = Subscription::batch::<Picture, _>("look", "pictures", Look(batches.clone()));
    look.batch = 500;
    look.concurrency = 1;
    let engine = Engine::start(EngineConfig {
        service: "gallery".to_owned(),
        store: store.clone(),
        broker,
        subscriptions: vec![look],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning::default(),
    });
    wait_until("all pictures", LIMIT, || async {
        let sql = "SELECT COUNT(*) AS n FROM queue_messages";
        let left: i64 = store.query(sql, vec![]).await.ok()?[0].get("n").ok()?;
        (left == 0).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let batches = batches.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let largest = batches.iter().map(|(_, bytes)| *bytes).max();
    ensure!(
        largest.is_some_and(|bytes| bytes <= PAGE),
        "{largest:?} bytes at a time"
    );
    ensure!(
        batches.iter().any(|(numbers, _)| numbers.len() > 100),
        "small ones come together"
    );
    let mut seen: Vec<usize> = batches.into_iter().flat_map(|(numbers, _)| numbers).collect();
    seen.sort_unstable();
    // The calls of a batch that is tried again count twice.
    seen.dedup();
    ensure!(seen == (0..count).collect::<Vec<_>>(), "{seen:?}");
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> Result<()> {
    batches_fit_into_memory(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> Result<()> {
    batches_fit_into_memory(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() -> Result<()> {
    batches_fit_into_memory(TestDatabase::mysql().await?).await
}
