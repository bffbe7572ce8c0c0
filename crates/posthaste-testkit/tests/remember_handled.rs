//! What is older than the inbox remembers is not applied in silence.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::broker::memory::MemoryBroker;
use posthaste::dead_letter::{self, Selection};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, Roles, Store, StoreOptions,
    Subscription, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct Counted;

impl Event for Counted {
    const TYPE: &'static str = "counted";
    const TOPIC: &'static str = "counted";
}

struct Count;

impl Handle<Counted> for Count {
    async fn handle(&self, _event: Counted, _cx: &mut Cx<'_>) -> Handled {
        Ok(())
    }
}

struct Counter {
    store: Store,
    broker: Broker,
    engine: Engine,
}

impl Counter {
    async fn start(database: &TestDatabase, take_old: bool) -> Result<Self> {
        let store = Store::open(database.url(), StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        // As a foreign broker: what it hands out may come again.
        let broker = Broker::Memory(MemoryBroker::default());
        let mut subscription = Subscription::new::<Counted, _>("count", "counted", Count);
        subscription.take_old = take_old;
        let engine = Engine::start(EngineConfig {
            service: "counter".to_owned(),
            store: store.clone(),
            broker: broker.clone(),
            subscriptions: vec![subscription],
            roles: Roles {
                worker: true,
                relay: true,
            },
            tuning: Tuning {
                keep_inbox: HOUR,
                ..Tuning::default()
            },
        });
        Ok(Self { store, broker, engine })
    }

    async fn publish(&self, message: &Message) -> Result<()> {
        for confirmed in self.broker.publish(vec![message.clone()]).await {
            confirmed?;
        }
        Ok(())
    }

    /// Waits for the row of `message` and returns its status.
    async fn settled(&self, message: &Message) -> Result<String> {
        wait_until("a settled message", LIMIT, || async {
            let sql = "SELECT status FROM inbox_messages WHERE message_id = $1";
            let id = self.store.dialect().uuid(message.id.0);
            let rows = self.store.query(sql, vec![id]).await.ok()?;
            rows.first()?.get::<String>("status").ok()
        })
        .await
    }
}

fn made(ago: Duration) -> Result<Message> {
    let mut message = Message::of(&Counted)?;
    // Its id is its identity: an id without a source counts together with the bytes.
    message.source = "elsewhere".to_owned();
    message.time -= chrono::Duration::from_std(ago)?;
    Ok(message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_message_beyond_the_memory_is_set_aside() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let counter = Counter::start(&database, false).await?;
    let (old, young) = (made(2 * HOUR)?, made(HOUR / 2)?);
    counter.publish(&old).await?;
    counter.publish(&young).await?;
    ensure!(counter.settled(&young).await? == "processed");
    ensure!(counter.settled(&old).await? == "dead", "applied in silence");
    let letters = dead_letter::list(&counter.store, &Selection::default(), 10).await?;
    ensure!(
        letters[0].error.contains("older than the inbox remembers"),
        "{}",
        letters[0].error
    );
    // Somebody has made sure that it was not handled.
    ensure!(dead_letter::replay(&counter.store, &Selection::default()).await? == 1);
    wait_until("the replayed message", LIMIT, || async {
        let status = counter.settled(&old).await.ok()?;
        (status == "processed").then_some(())
    })
    .await?;
    // Known ones are repeats, however old.
    counter.publish(&old).await?;
    let last = made(Duration::ZERO)?;
    counter.publish(&last).await?;
    ensure!(counter.settled(&last).await? == "processed");
    ensure!(
        counter.settled(&old).await? == "processed",
        "a repeat became a dead letter"
    );
    counter.engine.stop(LIMIT).await;
    counter.store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_may_take_it_all_the_same() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let counter = Counter::start(&database, true).await?;
    let old = made(2 * HOUR)?;
    counter.publish(&old).await?;
    ensure!(counter.settled(&old).await? == "processed");
    counter.engine.stop(LIMIT).await;
    counter.store.close().await;
    database.finish().await
}

/// Scheduled, or while the transport was away: it was never sent before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_waited_in_the_outbox_is_new() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let old = made(48 * HOUR)?;
    let mut tx = store.begin().await?;
    outbox::append_all(&mut tx, "counter", vec![(old.clone(), None)]).await?;
    tx.commit().await?;
    let changed = store
        .execute(
            "UPDATE outbox_messages SET created_at = {after:$1}",
            vec![(-48 * 3_600_000_000i64).into()],
        )
        .await?;
    ensure!(changed == 1);
    let counter = Counter::start(&database, false).await?;
    ensure!(counter.settled(&old).await? == "processed", "set aside");
    counter.engine.stop(LIMIT).await;
    store.close().await;
    counter.store.close().await;
    database.finish().await.context("finish")
}

/// A group that has lost its offsets reads all of a topic again, while retention removes what recognises the repeats.
async fn marks_stay_while_old_messages_are_read(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let old = made(48 * HOUR)?;
    let ten_days = -10 * 24 * 3_600_000_000i64;
    for subscription in ["count", "another"] {
        let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, processed_at) \
            VALUES ($1, $2, 'counted', 'processed', {now}, {after:$3})";
        let id = store.dialect().uuid(old.id.0);
        store
            .execute(sql, vec![subscription.into(), id, ten_days.into()])
            .await?;
    }
    let broker = Broker::Memory(MemoryBroker::default());
    let start = |roles: Roles, subscriptions: Vec<Subscription>| {
        Engine::start(EngineConfig {
            service: "counter".to_owned(),
            store: store.clone(),
            broker: broker.clone(),
            subscriptions,
            roles,
            tuning: Tuning {
                keep_inbox: 5 * 24 * HOUR,
                clean_every: Duration::from_millis(50),
                ..Tuning::default()
            },
        })
    };
    let hold = "INSERT INTO inbox_holds (subscription, expires_at) VALUES ('count', {after:$1})";
    store.execute(hold, vec![3_600_000_000i64.into()]).await?;
    let worker = Roles {
        worker: true,
        relay: false,
    };
    let engine = start(worker, vec![Subscription::new::<Counted, _>("count", "counted", Count)]);
    let left = || async {
        let rows = store
            .query("SELECT subscription FROM inbox_messages ORDER BY subscription", vec![])
            .await
            .ok()?;
        rows.iter()
            .map(|row| row.get::<String>("subscription").ok())
            .collect::<Option<Vec<_>>>()
    };
    wait_until("the other subscription's mark to go", LIMIT, || async {
        left().await.filter(|left| !left.contains(&"another".to_owned()))
    })
    .await?;
    ensure!(
        left().await.context("marks")? == ["count"],
        "the mark that is needed is gone"
    );
    // Reading old messages renews the hold.
    store.execute("DELETE FROM inbox_holds", vec![]).await?;
    for confirmed in broker.publish(vec![made(30 * HOUR)?]).await {
        confirmed?;
    }
    wait_until("a hold", LIMIT, || async {
        let rows = store.query("SELECT subscription FROM inbox_holds", vec![]).await.ok()?;
        (rows.first()?.get::<String>("subscription").ok()? == "count").then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_stay_on_sqlite() -> Result<()> {
    marks_stay_while_old_messages_are_read(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_stay_on_postgres() -> Result<()> {
    marks_stay_while_old_messages_are_read(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_stay_on_mysql() -> Result<()> {
    marks_stay_while_old_messages_are_read(TestDatabase::mysql().await?).await
}
