//! Parked messages that cannot be tried now, or whose handler hangs, keep no others waiting.

use std::time::{Duration, Instant};

use anyhow::Result;
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, MessageId, Roles, Store, StoreOptions,
    Subscription, Tuning, Tx,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

/// Less than a round of the poll takes for each page of those that wait.
const LIMIT: Duration = Duration::from_secs(18);
/// As many as a retrier looks at in one go.
const PAGE: i64 = 500;
const MINUTE: i64 = 60_000_000;

const CREATE: &str = "CREATE TABLE steps (item_key VARCHAR(64) NOT NULL)";
const STEPS: Migration = Migration::new(1, "steps", Sql::same(CREATE), Sql::same("DROP TABLE steps"));

#[derive(Serialize, Deserialize)]
struct Step {
    key: String,
}

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "steps";
}

struct Take;

impl Handle<Step> for Take {
    async fn handle(&self, step: Step, cx: &mut Cx<'_>) -> Handled {
        let sql = "INSERT INTO steps (item_key) VALUES ($1)";
        cx.tx().execute(sql, vec![step.key.into()]).await?;
        Ok(())
    }
}

struct Hang;

impl Handle<Step> for Hang {
    async fn handle(&self, _step: Step, _cx: &mut Cx<'_>) -> Handled {
        std::future::pending().await
    }
}

/// A parked row.
struct Row<'a> {
    subscription: &'a str,
    key: &'a str,
    place: i64,
    attempts: i32,
    /// From now, in microseconds.
    due: i64,
}

async fn park(tx: &Tx, row: Row<'_>) -> Result<()> {
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, topic, message_key, \
            headers, body, attempts, parked_seq, due_at, first_failed_at) \
        VALUES ($1, $2, 'step', 'retrying', {now}, 'steps', $3, '{}', $4, $5, $6, {after:$7}, \
            CASE WHEN $5 > 0 THEN {now} END)";
    let body = serde_json::to_vec(&Step {
        key: row.key.to_owned(),
    })?;
    let values = vec![
        row.subscription.into(),
        tx.dialect().uuid(MessageId::new().0),
        row.key.into(),
        body.into(),
        row.attempts.into(),
        row.place.into(),
        row.due.into(),
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

struct Place {
    database: TestDatabase,
    store: Store,
}

impl Place {
    async fn open() -> Result<Self> {
        let database = TestDatabase::sqlite()?;
        let store = Store::open(database.url(), StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        store.migrate_up("steps", &[STEPS]).await?;
        Ok(Self { database, store })
    }

    /// Works on what is parked until the row of `key` is handled.
    async fn handles(self, key: &str) -> Result<()> {
        let mut take = Subscription::new::<Step, _>("take", "steps", Take);
        take.ordered = true;
        let mut hang = Subscription::new::<Step, _>("hang", "other steps", Hang);
        hang.deadline = Duration::from_secs(2);
        let engine = Engine::start(EngineConfig {
            service: "shop".to_owned(),
            store: self.store.clone(),
            broker: Broker::open("memory:", &self.store)?,
            subscriptions: vec![take, hang],
            roles: Roles {
                worker: true,
                relay: false,
            },
            tuning: Tuning::default(),
        });
        wait_until("the row that is due", LIMIT, || async {
            let sql = "SELECT 1 AS one FROM steps WHERE item_key = $1";
            let rows = self.store.query(sql, vec![key.into()]).await.ok()?;
            (rows.len() == 1).then_some(())
        })
        .await?;
        engine.stop(LIMIT).await;
        self.store.close().await;
        self.database.finish().await
    }
}

fn row<'a>(key: &'a str, place: i64, attempts: i32, due: i64) -> Row<'a> {
    Row {
        subscription: "take",
        key,
        place,
        attempts,
        due,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_tried_wait_behind_their_first_and_hide_nobody() -> Result<()> {
    let place = Place::open().await?;
    let tx = place.store.begin().await?;
    for n in 0..PAGE {
        let key = format!("k{n}");
        park(&tx, row(&key, n, 1, MINUTE)).await?;
        park(&tx, row(&key, PAGE + n, 1, -MINUTE)).await?;
    }
    park(&tx, row("free", 3 * PAGE, 1, -1)).await?;
    tx.commit().await?;
    place.handles("free").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_queue_behind_one_is_passed_at_once() -> Result<()> {
    let place = Place::open().await?;
    let tx = place.store.begin().await?;
    park(&tx, row("stuck", 0, 1, MINUTE)).await?;
    for n in 1..=20 * PAGE {
        park(&tx, row("stuck", n, 0, -MINUTE)).await?;
    }
    park(&tx, row("free", 30 * PAGE, 0, -1)).await?;
    tx.commit().await?;
    place.handles("free").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_holds_up_no_other_s_retries() -> Result<()> {
    let place = Place::open().await?;
    let tx = place.store.begin().await?;
    for n in 0..100 {
        let hanging = Row {
            subscription: "hang",
            ..row("any", n, 0, -MINUTE)
        };
        park(&tx, hanging).await?;
    }
    park(&tx, row("free", 200, 0, -1)).await?;
    tx.commit().await?;
    place.handles("free").await
}

/// Handles rows of `key` one after another, each found by a look of its own.
async fn handles_one_by_one(store: &Store, rows: std::ops::Range<i64>) -> Result<()> {
    for n in rows {
        let key = format!("free {n}");
        let tx = store.begin().await?;
        park(&tx, row(&key, n, 1, -1)).await?;
        tx.commit().await?;
        wait_until("the row that is due", LIMIT, || async {
            let sql = "SELECT 1 AS one FROM steps WHERE item_key = $1";
            let rows = store.query(sql, vec![key.as_str().into()]).await.ok()?;
            (rows.len() == 1).then_some(())
        })
        .await?;
    }
    Ok(())
}

fn engine(store: &Store, subscriptions: Vec<Subscription>) -> Result<Engine> {
    Ok(Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::open("memory:", store)?,
        subscriptions,
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning {
            lease: Duration::from_secs(1),
            ..Tuning::default()
        },
    }))
}

async fn open_postgres() -> Result<(TestDatabase, Store)> {
    let database = TestDatabase::postgres().await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    store.migrate_up("steps", &[STEPS]).await?;
    Ok((database, store))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_another_session_holds_is_not_asked_for_all_the_time() -> Result<()> {
    const ROUNDS: i64 = 8;
    let (database, store) = open_postgres().await?;
    let tx = store.begin().await?;
    park(&tx, row("held", 1, 1, -MINUTE)).await?;
    tx.commit().await?;
    let other = Store::open(database.url(), StoreOptions::default())?;
    let holder = other.begin().await?;
    holder
        .query("SELECT 1 AS one FROM inbox_messages FOR UPDATE", vec![])
        .await?;
    let take = Subscription::new::<Step, _>("take", "steps", Take);
    let started = Instant::now();
    let engine = engine(&store, vec![take])?;
    // Each is found by the next poll.
    handles_one_by_one(&store, 2..2 + ROUNDS).await?;
    engine.stop(LIMIT).await;
    let most = 50 + 10 * i64::try_from(started.elapsed().as_secs())?;
    store.close().await;
    holder.rollback().await?;
    other.close().await;
    let other = Store::open(database.url(), StoreOptions::default())?;
    // A session tells what it has done when it ends, which is later than the close.
    wait_until("the end of all other sessions", LIMIT, || async {
        let others = "SELECT 1 AS one FROM pg_stat_activity \
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        other.query(others, vec![]).await.ok()?.is_empty().then_some(())
    })
    .await?;
    let sql = "SELECT CAST(xact_rollback AS bigint) AS n FROM pg_stat_database WHERE datname = current_database()";
    let rows = other.query(sql, vec![]).await?;
    let missed: i64 = rows.first().map_or(Ok(0), |row| row.get("n"))?;
    anyhow::ensure!(
        (1..most).contains(&missed),
        "{missed} transactions found nothing to take, of {most} at most"
    );
    other.close().await;
    database.finish().await
}

fn hang(name: &str) -> Subscription {
    let mut hang = Subscription::new::<Step, _>(name, "other steps", Hang);
    hang.deadline = Duration::from_secs(600);
    hang
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handlers_that_hang_leave_a_turn_for_a_third() -> Result<()> {
    let (database, store) = open_postgres().await?;
    let tx = store.begin().await?;
    for subscription in ["hang", "hang too"] {
        for n in 0..20 {
            let hanging = Row {
                subscription,
                ..row("any", n, 0, -MINUTE)
            };
            park(&tx, hanging).await?;
        }
    }
    tx.commit().await?;
    let take = Subscription::new::<Step, _>("take", "steps", Take);
    let engine = engine(&store, vec![hang("hang"), hang("hang too"), take])?;
    wait_until("both to hang", LIMIT, || async {
        let sql = "SELECT subscription FROM inbox_messages WHERE attempts > 0 AND subscription <> 'take'";
        let rows = store.query(sql, vec![]).await.ok()?;
        (rows.len() >= 4).then_some(())
    })
    .await?;
    handles_one_by_one(&store, 100..102).await?;
    drop(engine);
    store.close().await;
    database.finish().await
}

/// Hangs on one key only.
struct HangOn(&'static str);

impl Handle<Step> for HangOn {
    async fn handle(&self, step: Step, cx: &mut Cx<'_>) -> Handled {
        if step.key == self.0 {
            std::future::pending::<()>().await;
        }
        Take.handle(step, cx).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_row_that_hangs_holds_up_no_other_row_of_its_subscription() -> Result<()> {
    let (database, store) = open_postgres().await?;
    let tx = store.begin().await?;
    park(&tx, row("stuck", 1, 0, -MINUTE)).await?;
    tx.commit().await?;
    let mut take = Subscription::new::<Step, _>("take", "steps", HangOn("stuck"));
    take.deadline = Duration::from_secs(600);
    let engine = engine(&store, vec![take])?;
    wait_until("the row to hang", LIMIT, || async {
        let sql = "SELECT 1 AS one FROM inbox_messages WHERE attempts = 1";
        (store.query(sql, vec![]).await.ok()?.len() == 1).then_some(())
    })
    .await?;
    handles_one_by_one(&store, 2..4).await?;
    drop(engine);
    store.close().await;
    database.finish().await
}
