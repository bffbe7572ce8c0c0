//! The clock of the database was ahead and has been set back: due times that were set before are not kept to the letter.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, MessageId, Roles, Store, StoreOptions,
    Subscription, Tuning,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(90);
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;

#[derive(Serialize, Deserialize)]
struct Step;

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "steps";
}

struct Take;

impl Handle<Step> for Take {
    async fn handle(&self, _step: Step, _cx: &mut Cx<'_>) -> Handled {
        Ok(())
    }
}

/// A row that is due in `due`, set with a delay of `delay`.
async fn insert(store: &Store, key: &str, due: i64, delay: i64) -> Result<()> {
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, topic, message_key, \
            headers, body, attempts, parked_seq, due_at, due_in) \
        VALUES ('take', $1, 'step', 'retrying', {now}, 'steps', $2, '{}', $3, 1, 1, {after:$4}, $5)";
    let body = serde_json::to_vec(&Step)?;
    let id = store.dialect().uuid(MessageId::new().0);
    let values = vec![id, key.into(), body.into(), due.into(), delay.into()];
    store.execute(sql, values).await?;
    Ok(())
}

/// Seconds until the row is due.
async fn due_in(store: &Store, key: &str) -> Result<i64> {
    let sql = "SELECT CASE WHEN due_at <= {after:$2} THEN 1 ELSE 0 END AS soon, \
        CASE WHEN due_at >= {after:$3} THEN 1 ELSE 0 END AS late FROM inbox_messages WHERE message_key = $1";
    let values = vec![key.into(), (40 * SECOND).into(), (3 * HOUR - 60 * SECOND).into()];
    let rows = store.query(sql, values).await?;
    let row = rows.first().context("a row")?;
    Ok(i64::from(row.get::<i32>("late")? - row.get::<i32>("soon")?))
}

async fn leases_are_bounded_and_snoozes_kept(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    // Taken by a worker that died, when the clock was two hours ahead.
    insert(&store, "taken", 2 * HOUR, 35 * SECOND).await?;
    // Asked for again after three hours.
    insert(&store, "snoozed", 3 * HOUR, 3 * HOUR).await?;
    // The same, two hours ahead: not before its time, nor two hours late.
    insert(&store, "snoozed before", 5 * HOUR, 3 * HOUR).await?;
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::open("memory:", &store)?,
        subscriptions: vec![Subscription::new::<Step, _>("take", "steps", Take)],
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning::default(),
    });
    wait_until("the lease to be bounded", LIMIT, || async {
        (due_in(&store, "taken").await.ok()? == -1).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let bounded = "SELECT 1 AS one FROM inbox_messages WHERE message_key = 'snoozed before' AND due_at <= {after:$1}";
    ensure!(
        store.query(bounded, vec![(3 * HOUR).into()]).await?.len() == 1,
        "two hours late"
    );
    for key in ["snoozed", "snoozed before"] {
        ensure!(due_in(&store, key).await? == 1, "{key} is due before its time");
    }
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_bounded_and_snoozes_kept_on_sqlite() -> Result<()> {
    leases_are_bounded_and_snoozes_kept(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_bounded_and_snoozes_kept_on_postgres() -> Result<()> {
    leases_are_bounded_and_snoozes_kept(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_bounded_and_snoozes_kept_on_mysql() -> Result<()> {
    leases_are_bounded_and_snoozes_kept(TestDatabase::mysql().await?).await
}
