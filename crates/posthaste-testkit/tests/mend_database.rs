//! While a table that a handler needs is missing no attempt of a message counts; once it is there all are handled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, RetryPolicy, Roles, Store,
    StoreOptions, Subscription, Tuning,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(90);
const MESSAGES: i64 = 20;
const KEYS: i64 = 4;

const STEPS: Migration = Migration {
    version: 1,
    name: "steps",
    up: Sql {
        postgres: "CREATE TABLE steps (seq BIGSERIAL PRIMARY KEY, item_key TEXT, n BIGINT)",
        mysql: "CREATE TABLE steps (seq BIGINT AUTO_INCREMENT PRIMARY KEY, item_key TEXT, n BIGINT)",
        sqlite: "CREATE TABLE steps (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_key TEXT, n INTEGER)",
    },
    down: Sql::same("DROP TABLE steps"),
};

#[derive(Serialize, Deserialize)]
struct Step {
    key: String,
    n: i64,
}

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "steps";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

struct Take(Arc<AtomicU32>);

impl Handle<Step> for Take {
    async fn handle(&self, step: Step, cx: &mut Cx<'_>) -> Handled {
        self.0.fetch_add(1, SeqCst);
        let sql = "INSERT INTO steps (item_key, n) VALUES ($1, $2)";
        cx.tx().execute(sql, vec![step.key.into(), step.n.into()]).await?;
        Ok(())
    }
}

async fn number(store: &Store, sql: &str) -> Result<i64> {
    Ok(store.query(sql, vec![]).await?[0].get("n")?)
}

async fn nothing_dies_of_a_missing_table(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    store.migrate_up("steps", &[STEPS]).await?;
    store.execute("ALTER TABLE steps RENAME TO steps_away", vec![]).await?;
    let calls = Arc::new(AtomicU32::new(0));
    let mut take = Subscription::new::<Step, _>("take", "steps", Take(calls.clone()));
    take.ordered = true;
    // One attempt that counts is one too many.
    take.retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    let broker = Broker::open("sql:", &store)?;
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: broker.clone(),
        subscriptions: vec![take],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning::default(),
    });
    let messages = (0..MESSAGES).map(|n| {
        let key = format!("k{}", n % KEYS);
        Message::of(&Step { key, n })
    });
    let confirmed = broker.publish(messages.collect::<Result<_, _>>()?).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    wait_until("several attempts", LIMIT, || async {
        (calls.load(SeqCst) > 4).then_some(())
    })
    .await?;
    let sql = "SELECT COUNT(*) AS n FROM inbox_messages WHERE status IN ('dead', 'processed')";
    ensure!(number(&store, sql).await? == 0, "a message has ended");
    wait_until("a row that waits, with its cause and no attempt", LIMIT, || async {
        let sql = "SELECT error FROM inbox_messages WHERE status = 'retrying' AND attempts = 0 AND error IS NOT NULL";
        let rows = store.query(sql, vec![]).await.ok()?;
        let error: String = rows.first()?.get("error").ok()?;
        error.contains("steps").then_some(())
    })
    .await?;
    store.execute("ALTER TABLE steps_away RENAME TO steps", vec![]).await?;
    wait_until("all messages", LIMIT, || async {
        let handled = number(&store, "SELECT COUNT(*) AS n FROM steps").await.ok()?;
        (handled >= MESSAGES).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let mut handled: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in store
        .query("SELECT item_key, n FROM steps ORDER BY seq", vec![])
        .await?
    {
        handled.entry(row.get("item_key")?).or_default().push(row.get("n")?);
    }
    let expected: BTreeMap<String, Vec<i64>> = (0..KEYS)
        .map(|key| (format!("k{key}"), (key..MESSAGES).step_by(KEYS as usize).collect()))
        .collect();
    ensure!(handled == expected, "{handled:?}");
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> Result<()> {
    nothing_dies_of_a_missing_table(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> Result<()> {
    nothing_dies_of_a_missing_table(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() -> Result<()> {
    nothing_dies_of_a_missing_table(TestDatabase::mysql().await?).await
}
