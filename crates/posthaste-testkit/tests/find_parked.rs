//! A process that only works, over a broker of its own, finds what others have put into the inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::dead_letter::{self, Selection};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Failure, Handle, Handled, Message, Roles, Store,
    StoreOptions, Subscription, Tuning,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(90);

#[derive(Serialize, Deserialize)]
struct Asked;

impl Event for Asked {
    const TYPE: &'static str = "asked";
    const TOPIC: &'static str = "asked";
}

/// Refuses until somebody has mended what was wrong.
struct Answer {
    mended: Arc<AtomicBool>,
}

impl Handle<Asked> for Answer {
    async fn handle(&self, _asked: Asked, _cx: &mut Cx<'_>) -> Handled {
        if self.mended.load(SeqCst) {
            return Ok(());
        }
        Err(Failure::Reject("not mended".to_owned()))
    }
}

async fn has(store: &Store, status: &str) -> Result<()> {
    wait_until(&format!("a message that is {status}"), LIMIT, || async {
        let sql = "SELECT 1 AS one FROM inbox_messages WHERE status = $1";
        let rows = store.query(sql, vec![status.into()]).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await
}

async fn a_replay_by_another_process_is_seen(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let broker = Broker::open("memory:", &store)?;
    let mended = Arc::new(AtomicBool::new(false));
    let answer = Answer { mended: mended.clone() };
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: broker.clone(),
        subscriptions: vec![Subscription::new::<Asked, _>("answer", "asked", answer)],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning {
            lease: Duration::from_secs(1),
            ..Tuning::default()
        },
    });
    let confirmed = broker.publish(vec![Message::of(&Asked)?]).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    // With a store of its own, as another process has one: its signals do not come here.
    let other = Store::open(database.url(), StoreOptions::default())?;
    has(&other, "dead").await?;
    mended.store(true, SeqCst);
    ensure!(
        dead_letter::replay(&other, &Selection::default()).await? == 1,
        "nothing replayed"
    );
    has(&other, "processed").await?;
    engine.stop(LIMIT).await;
    other.close().await;
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_another_process_is_seen_on_sqlite() -> Result<()> {
    a_replay_by_another_process_is_seen(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_another_process_is_seen_on_postgres() -> Result<()> {
    a_replay_by_another_process_is_seen(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_another_process_is_seen_on_mysql() -> Result<()> {
    a_replay_by_another_process_is_seen(TestDatabase::mysql().await?).await
}
