//! A worker whose partition another one took over is still at work on it: what the other has parked by then holds
//! back the rest of its key.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::store::{Dialect, Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, Roles, Store, StoreOptions,
    Subscription, Tuning,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(90);
const CREATE: &str = "CREATE TABLE steps (n BIGINT NOT NULL, place BIGINT NOT NULL)";
const STEPS: Migration = Migration::new(1, "steps", Sql::same(CREATE), Sql::same("DROP TABLE steps"));

#[derive(Serialize, Deserialize)]
struct Step {
    n: i64,
}

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "steps";

    fn key(&self) -> Option<String> {
        Some("one".to_owned())
    }
}

struct Take;

impl Handle<Step> for Take {
    async fn handle(&self, step: Step, cx: &mut Cx<'_>) -> Handled {
        let sql = "INSERT INTO steps (n, place) SELECT $1, COUNT(*) FROM steps";
        cx.tx().execute(sql, vec![step.n.into()]).await?;
        Ok(())
    }
}

/// Whether the mark of the batch waits for the other transaction to end.
fn waits(dialect: Dialect) -> &'static str {
    match dialect {
        // What it says of locks is a copy that is not renewed while somebody keeps asking.
        Dialect::Mysql => {
            "SELECT 1 AS one FROM information_schema.processlist \
                WHERE db = DATABASE() AND info LIKE 'INSERT%INTO inbox_messages%'"
        }
        Dialect::Postgres | Dialect::Sqlite => {
            "SELECT 1 AS one FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
    }
}

async fn the_rest_of_the_key_waits(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    store.migrate_up("steps", &[STEPS]).await?;
    let mut messages: Vec<Message> = (0..3).map(|n| Message::of(&Step { n })).collect::<Result<_, _>>()?;
    for message in &mut messages {
        // With a source its id is what it is known by.
        "shop".clone_into(&mut message.source);
    }
    // The other worker is about to park the first message.
    let other = store.begin().await?;
    let park = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, topic, \
            message_key, headers, body, attempts, parked_seq, due_at) \
        VALUES ('take', $1, 'step', 'retrying', {now}, 'steps', 'one', '{}', $2, 0, 0, {now})";
    let first = &messages[0];
    let values = vec![store.dialect().uuid(first.id.0), first.body.clone().into()];
    other.execute(park, values).await?;
    let broker = Broker::open("memory:", &store)?;
    let confirmed = broker.publish(messages).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    let mut subscription = Subscription::new::<Step, _>("take", "steps", Take);
    subscription.ordered = true;
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker,
        subscriptions: vec![subscription],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning::default(),
    });
    wait_until("the batch to meet the other worker's row", LIMIT, || async {
        let waiting = store.query(waits(store.dialect()), vec![]).await.ok()?;
        (!waiting.is_empty()).then_some(())
    })
    .await?;
    other.commit().await?;
    let steps = wait_until("all steps", LIMIT, || async {
        let rows = store.query("SELECT n FROM steps ORDER BY place", vec![]).await.ok()?;
        let steps: Result<Vec<i64>, _> = rows.iter().map(|row| row.get("n")).collect();
        steps.ok().filter(|steps| steps.len() == 3)
    })
    .await?;
    engine.stop(LIMIT).await;
    ensure!(steps == [0, 1, 2], "the steps went {steps:?}");
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_the_key_waits_on_postgres() -> Result<()> {
    the_rest_of_the_key_waits(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_the_key_waits_on_mysql() -> Result<()> {
    the_rest_of_the_key_waits(TestDatabase::mysql().await?).await
}
