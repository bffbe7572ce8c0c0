//! Two transactions that wait for each other: the database ends one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::store::{Migration, Sql, StoreError};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, Roles, Store, StoreOptions,
    Subscription, Tuning, Tx,
};
use posthaste_testkit::{TestDatabase, wait_until};
use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

const LIMIT: Duration = Duration::from_secs(90);

const CREATE: &str = "CREATE TABLE tallies (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)";

const TALLIES: Migration = Migration::new(1, "tallies", Sql::same(CREATE), Sql::same("DROP TABLE tallies"));

async fn open(database: &TestDatabase) -> Result<Store> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    store.migrate_up("tallies", &[TALLIES]).await?;
    store
        .execute("INSERT INTO tallies (id, n) VALUES (1, 0), (2, 0)", vec![])
        .await?;
    Ok(store)
}

async fn count_up(tx: &Tx, id: i64) -> Result<u64, StoreError> {
    tx.execute("UPDATE tallies SET n = n + 1 WHERE id = $1", vec![id.into()])
        .await
}

async fn tallies(store: &Store) -> Result<Vec<i64>> {
    let rows = store.query("SELECT n FROM tallies ORDER BY id", vec![]).await?;
    Ok(rows.iter().map(|row| row.get("n")).collect::<Result<_, _>>()?)
}

#[derive(Debug, Serialize, Deserialize)]
struct Swap;

impl Event for Swap {
    const TYPE: &'static str = "swap";
    const TOPIC: &'static str = "swap";
}

/// Counts both tallies up; the first time it waits in between until the other one is there, too.
struct CountUp {
    order: [i64; 2],
    first: AtomicBool,
    meet: Arc<Barrier>,
    calls: Arc<AtomicU32>,
}

impl Handle<Swap> for CountUp {
    async fn handle(&self, _event: Swap, cx: &mut Cx<'_>) -> Handled {
        self.calls.fetch_add(1, SeqCst);
        count_up(cx.tx(), self.order[0]).await?;
        if self.first.swap(false, SeqCst) {
            self.meet.wait().await;
        }
        count_up(cx.tx(), self.order[1]).await?;
        Ok(())
    }
}

async fn both_effects_happen_once(database: TestDatabase) -> Result<()> {
    let store = open(&database).await?;
    let broker = Broker::open("sql:", &store)?;
    let (meet, calls) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let subscription = |name: &str, order| {
        let handler = CountUp {
            order,
            first: AtomicBool::new(true),
            meet: meet.clone(),
            calls: calls.clone(),
        };
        let mut subscription = Subscription::new::<Swap, _>(name, name, handler);
        // The first one may wait for the other.
        subscription.deadline = LIMIT;
        subscription
    };
    let engine = Engine::start(EngineConfig {
        service: "collide".to_owned(),
        store: store.clone(),
        broker: broker.clone(),
        subscriptions: vec![subscription("up", [1, 2]), subscription("down", [2, 1])],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning::default(),
    });
    let mut messages = vec![Message::of(&Swap)?, Message::of(&Swap)?];
    for (message, topic) in messages.iter_mut().zip(["up", "down"]) {
        message.topic = topic.to_owned();
    }
    let confirmed = broker.publish(messages).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    wait_until("both marks", LIMIT, || async {
        let sql = "SELECT 1 AS one FROM inbox_messages WHERE status = 'processed'";
        (store.query(sql, vec![]).await.ok()?.len() == 2).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    ensure!(tallies(&store).await? == [2, 2], "{:?}", tallies(&store).await?);
    ensure!(calls.load(SeqCst) > 2, "there was no collision");
    let parked = store
        .query("SELECT 1 AS one FROM inbox_messages WHERE attempts > 0", vec![])
        .await?;
    ensure!(parked.is_empty(), "a collision counted as an attempt");
    store.close().await;
    database.finish().await
}

/// The transaction of two that the database has ended, with what its statement answered.
async fn victim(store: &Store, through_db: bool) -> Result<Tx> {
    let (one, other) = (store.begin().await?, store.begin().await?);
    count_up(&one, 1).await?;
    count_up(&other, 2).await?;
    let close = async |tx: Tx, id: i64| -> Result<Option<Tx>> {
        let failed = if through_db {
            let sql = format!("UPDATE tallies SET n = n + 1 WHERE id = {id}");
            tx.db().execute_unprepared(&sql).await.is_err()
        } else {
            matches!(count_up(&tx, id).await, Err(StoreError::Collision(_)))
        };
        if failed {
            return Ok(Some(tx));
        }
        tx.commit().await?;
        Ok(None)
    };
    let (one, other) = tokio::join!(close(one, 2), close(other, 1));
    one?.or(other?).ok_or_else(|| anyhow::anyhow!("there was no deadlock"))
}

/// Whoever overlooks the error cannot commit the rest of a transaction that is no more.
async fn nothing_follows_a_collision(database: TestDatabase) -> Result<()> {
    let store = open(&database).await?;
    let tx = victim(&store, false).await?;
    ensure!(count_up(&tx, 1).await.is_err(), "a statement after the end");
    ensure!(tx.commit().await.is_err(), "a commit after the end");
    ensure!(tallies(&store).await? == [1, 1], "{:?}", tallies(&store).await?);
    let tx = victim(&store, true).await?;
    ensure!(tx.commit().await.is_err(), "a commit after the end");
    ensure!(tallies(&store).await? == [2, 2], "{:?}", tallies(&store).await?);
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_effects_happen_once_on_postgres() -> Result<()> {
    both_effects_happen_once(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_effects_happen_once_on_mysql() -> Result<()> {
    both_effects_happen_once(TestDatabase::mysql().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_a_collision_on_postgres() -> Result<()> {
    nothing_follows_a_collision(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_a_collision_on_mysql() -> Result<()> {
    nothing_follows_a_collision(TestDatabase::mysql().await?).await
}
