//! What a process held when it died or stood still, and how its successor comes to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::store::Dialect;
use posthaste::{Store, StoreOptions};
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::json;
use uuid::Uuid;

use crate::process::Posthaste;

/// Below the 60 s after which the server used to end a silent transaction.
const LIMIT: Duration = Duration::from_secs(45);
const START: Duration = Duration::from_secs(60);

async fn post_event(base: &str) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let body = json!({"user_id": id, "event_type": "take.over", "message": "still there?", "event_id": id});
    let answer = reqwest::Client::new()
        .post(format!("{base}/api/events"))
        .json(&body)
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    Ok(id)
}

async fn number(store: &Store, sql: &str, values: Vec<sea_orm::Value>) -> Result<i64> {
    let rows = store.query(sql, values).await?;
    Ok(rows.first().context("no number")?.get("number")?)
}

/// The leases are far from running out, so only the proof that their owner is dead can have ended them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_process_that_was_killed_end_with_it_on_sqlite() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    let first = Posthaste::start(folder.path(), database.url()).await?;
    let held = "SELECT COUNT(*) AS number FROM leases WHERE slot >= 0 AND owner IS NOT NULL";
    wait_until("the leases", START, || async {
        (number(&store, held, vec![]).await.ok()? == 8 * 16).then_some(())
    })
    .await?;
    let second = Posthaste::start(folder.path(), database.url()).await?;
    let two = "SELECT COUNT(DISTINCT owner) AS number FROM leases WHERE slot >= 0";
    wait_until("both to have some", START, || async {
        (number(&store, two, vec![]).await.ok()? == 2).then_some(())
    })
    .await?;
    let survivor = "SELECT COUNT(*) AS number FROM leases WHERE slot < 0 AND expires_at > {now}";
    ensure!(number(&store, survivor, vec![]).await? > 0);
    // A living one beside it keeps its own.
    ensure!(
        number(&store, two, vec![]).await? == 2,
        "nobody took a living process for dead"
    );
    first.kill9().await?;
    // As if they had been renewed for the length of almost three leases.
    let sql = "UPDATE leases SET expires_at = {after:$1} WHERE expires_at > {now}";
    let ahead: i64 = 27_000_000;
    store.execute(sql, vec![ahead.into()]).await?;
    let sql = "SELECT {after:$1} AS at";
    let rows = store.query(sql, vec![ahead.into()]).await?;
    let ends: String = rows.first().context("no time")?.get("at")?;
    wait_until("one owner of all", LIMIT, || async {
        (number(
            &store,
            "SELECT COUNT(DISTINCT owner) AS number FROM leases WHERE slot >= 0",
            vec![],
        )
        .await
        .ok()?
            == 1)
            .then_some(())
    })
    .await?;
    let early = number(
        &store,
        "SELECT CASE WHEN {now} < $1 THEN 1 ELSE 0 END AS number",
        vec![ends.into()],
    )
    .await?;
    ensure!(early == 1, "the leases had run out by themselves");
    let id = post_event(&second.base).await?;
    second.answers(&format!("/api/events/{id}"), 200).await?;
    store.close().await;
    second.terminate().await?;
    database.finish().await
}

/// A worker is stopped between its fence and its commit, where it holds locks on its leases.
async fn one_stands_still(database: TestDatabase) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("DATABASE_URL", database.url())];
    let start = |roles| Posthaste::spawn(folder.path(), &["notifications", "--role", roles], &settings);
    let api = start("api,relay")?;
    api.answers("/readyz", 200).await?;
    let id = post_event(&api.base).await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    wait_until("the message in its queue", START, || async {
        let queued = "SELECT COUNT(*) AS number FROM queue_messages";
        (number(&store, queued, vec![]).await.ok()? == 1).then_some(())
    })
    .await?;
    // Its deletion is what follows the fence.
    let lock = store.begin().await?;
    lock.query("SELECT seq FROM queue_messages FOR UPDATE", vec![]).await?;
    let worker = start("worker")?;
    let waiting = match store.dialect() {
        Dialect::Postgres => {
            "SELECT COUNT(*) AS number FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM queue_messages%'"
        }
        Dialect::Sqlite | Dialect::Mysql => {
            "SELECT COUNT(*) AS number FROM information_schema.processlist WHERE db = DATABASE() \
             AND command IN ('Execute', 'Query') AND info LIKE 'DELETE FROM queue_messages%'"
        }
    };
    wait_until("the worker to wait behind its fence", START, || async {
        (number(&store, waiting, vec![]).await.ok()? == 1).then_some(())
    })
    .await?;
    let owner =
        "SELECT DISTINCT owner FROM leases WHERE scope = 'notifications/worker' AND slot >= 0 AND owner IS NOT NULL";
    let owners = store.query(owner, vec![]).await?;
    let frozen = owners.first().context("no owner")?.uuid("owner")?;
    worker.stand_still().await?;
    lock.rollback().await?;
    let successor = start("worker")?;
    successor.answers("/readyz", 200).await?;
    // An epoch may be higher: a lease may have lapsed before.
    let taken = "SELECT COUNT(*) AS number FROM leases WHERE scope = 'notifications/worker' AND slot >= 0 \
        AND epoch >= 2 AND owner <> $1";
    wait_until("the take-over", LIMIT, || async {
        let frozen = store.dialect().uuid(frozen);
        (number(&store, taken, vec![frozen]).await.ok()? == 16).then_some(())
    })
    .await?;
    wait_until("the event", LIMIT, || async {
        let stored = "SELECT COUNT(*) AS number FROM processed_events";
        (number(&store, stored, vec![]).await.ok()? == 1).then_some(())
    })
    .await?;
    ensure!(!id.is_nil());
    store.close().await;
    worker.kill9().await?;
    successor.terminate().await?;
    api.terminate().await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_takes_over_from_one_that_stands_still_on_postgres() -> Result<()> {
    one_stands_still(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_takes_over_from_one_that_stands_still_on_mysql() -> Result<()> {
    one_stands_still(TestDatabase::mysql().await?).await
}
