//! Many messages of one ordering key behind one that cannot be handled yet: they cost nothing while it waits, keep their
//! order, and leave in batches once it has ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Failure, HandleBatch, Handled, Message, Received,
    RetryPolicy, Roles, Store, StoreOptions, Subscription, Tuning, failpoint,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Shorter than the time between two sweeps.
const LIMIT: Duration = Duration::from_secs(45);
const HOUR: Duration = Duration::from_secs(3600);

const MYSQL: &str =
    "CREATE TABLE IF NOT EXISTS steps (place BIGINT AUTO_INCREMENT PRIMARY KEY, item_key VARCHAR(64), n BIGINT)";
const STEPS: Migration = Migration::new(
    1,
    "steps",
    Sql {
        postgres: "CREATE TABLE steps (place BIGSERIAL PRIMARY KEY, item_key VARCHAR(64), n BIGINT)",
        sqlite: "CREATE TABLE steps (place INTEGER PRIMARY KEY AUTOINCREMENT, item_key TEXT, n INTEGER)",
        mysql: MYSQL,
    },
    Sql::same("DROP TABLE steps"),
);

#[derive(Serialize, Deserialize)]
struct Step {
    key: String,
    n: i64,
}

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "steps";

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

fn steps(key: &str, range: std::ops::Range<i64>) -> Result<Vec<Message>> {
    let step = |n| Ok(Message::of(&Step { key: key.to_owned(), n })?);
    range.map(step).collect()
}

/// What the handler does, and what it saw.
struct Plan {
    /// Step 0 waits until this is set.
    open: AtomicBool,
    /// How long it waits at a time.
    later: Duration,
    /// This step stands for one that kills the process, while it is not negative.
    kills: AtomicI64,
    killed: Notify,
    kills_so_far: AtomicU32,
    /// Sizes of the calls that ended well.
    calls: Mutex<Vec<usize>>,
}

impl Plan {
    fn new(later: Duration) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicBool::new(false),
            later,
            kills: AtomicI64::new(-1),
            killed: Notify::new(),
            kills_so_far: AtomicU32::new(0),
            calls: Mutex::default(),
        })
    }

    fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }
}

struct Take(Arc<Plan>);

impl HandleBatch<Step> for Take {
    async fn handle_batch(&self, steps: Vec<Received<Step>>, cx: &mut Cx<'_>) -> Handled {
        for Received { event, .. } in &steps {
            if event.n == 0 && !self.0.open.load(SeqCst) {
                return Err(Failure::Later(self.0.later));
            }
            if event.key == "stumbles" && cx.attempt() == 1 {
                return Err(std::io::Error::other("the first attempt fails").into());
            }
            if event.n == self.0.kills.load(SeqCst) {
                self.0.kills_so_far.fetch_add(1, SeqCst);
                self.0.killed.notify_one();
                std::future::pending::<()>().await;
            }
            let values = vec![event.key.as_str().into(), event.n.into()];
            cx.tx()
                .execute("INSERT INTO steps (item_key, n) VALUES ($1, $2)", values)
                .await?;
        }
        self.0.calls.lock().unwrap().push(steps.len());
        Ok(())
    }
}

struct Place {
    database: TestDatabase,
    store: Store,
    broker: Broker,
    plan: Arc<Plan>,
}

impl Place {
    async fn open(database: TestDatabase, later: Duration) -> Result<Self> {
        let store = Store::open(database.url(), StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        store.migrate_up("steps", &[STEPS]).await?;
        let broker = Broker::open("memory:", &store)?;
        let plan = Plan::new(later);
        Ok(Self {
            database,
            store,
            broker,
            plan,
        })
    }

    fn start(&self) -> Engine {
        let mut take = Subscription::batch::<Step, _>("take", "steps", Take(self.plan.clone()));
        take.ordered = true;
        take.retry = RetryPolicy {
            attempts: 3,
            immediate: 2,
            ..RetryPolicy::default()
        };
        Engine::start(EngineConfig {
            service: "shop".to_owned(),
            store: self.store.clone(),
            broker: self.broker.clone(),
            subscriptions: vec![take],
            roles: Roles {
                worker: true,
                relay: false,
            },
            tuning: Tuning {
                lease: Duration::from_secs(1),
                ..Tuning::default()
            },
        })
    }

    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let confirmed = self.broker.publish(messages).await;
        ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
        Ok(())
    }

    async fn count(&self, what: &str) -> Result<i64> {
        let rows = self
            .store
            .query(&format!("SELECT COUNT(*) AS n FROM {what}"), vec![])
            .await?;
        Ok(rows.first().context("a row")?.get("n")?)
    }

    async fn count_is(&self, what: &str, n: i64) -> Result<()> {
        wait_until(&format!("{n} {what}"), LIMIT, || async {
            (self.count(what).await.ok()? == n).then_some(())
        })
        .await
    }

    async fn taken(&self, key: &str) -> Result<Vec<i64>> {
        let sql = "SELECT n FROM steps WHERE item_key = $1 ORDER BY place";
        let rows = self.store.query(sql, vec![key.into()]).await?;
        Ok(rows.iter().map(|row| row.get("n")).collect::<Result<_, _>>()?)
    }

    /// Makes `count` messages of the key `hot` wait behind the first one.
    async fn pile_up(&self, count: i64) -> Result<()> {
        self.publish(steps("hot", 0..1)?).await?;
        self.count_is("inbox_messages WHERE status = 'retrying'", 1).await?;
        self.publish(steps("hot", 1..count + 1)?).await?;
        self.count_is("inbox_messages WHERE status IN ('retrying', 'waiting')", count + 1)
            .await
    }

    /// Lets the time pass that the rows of a dead process need to be due.
    async fn let_time_pass(&self) -> Result<()> {
        let sql = "UPDATE inbox_messages SET due_at = {now} WHERE status = 'retrying'";
        self.store.execute(sql, vec![]).await?;
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        self.store.close().await;
        self.database.finish().await
    }
}

async fn a_key_leaves_in_batches_and_in_order(database: TestDatabase) -> Result<()> {
    const BEHIND: i64 = 1200;
    let place = Place::open(database, Duration::from_millis(100)).await?;
    let engine = place.start();
    place.pile_up(BEHIND).await?;
    place.plan.open.store(true, SeqCst);
    place.count_is("steps", BEHIND + 1).await?;
    engine.stop(LIMIT).await;
    ensure!(place.taken("hot").await?.into_iter().eq(0..=BEHIND), "out of order");
    let calls = place.plan.calls();
    ensure!(calls.len() < 20, "{} calls: {calls:?}", calls.len());
    place.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_leaves_in_batches_and_in_order_on_sqlite() -> Result<()> {
    a_key_leaves_in_batches_and_in_order(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_leaves_in_batches_and_in_order_on_postgres() -> Result<()> {
    a_key_leaves_in_batches_and_in_order(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_leaves_in_batches_and_in_order_on_mysql() -> Result<()> {
    a_key_leaves_in_batches_and_in_order(TestDatabase::mysql().await?).await
}

/// The message that kills its worker is given up with its own attempts; of those that were taken with it none is lost,
/// done twice or out of order.
async fn what_kills_a_batch_is_found(database: TestDatabase) -> Result<()> {
    const BEHIND: i64 = 30;
    const KILLER: i64 = 20;
    let place = Place::open(database, HOUR).await?;
    let engine = place.start();
    place.pile_up(BEHIND).await?;
    engine.stop(LIMIT).await;
    place.plan.open.store(true, SeqCst);
    place.plan.kills.store(KILLER, SeqCst);
    loop {
        place.let_time_pass().await?;
        let engine = place.start();
        tokio::select! {
            () = place.plan.killed.notified() => drop(engine),
            done = place.count_is("inbox_messages WHERE status IN ('retrying', 'waiting')", 0) => {
                done?;
                engine.stop(LIMIT).await;
                break;
            }
        }
    }
    let expected = (0..=BEHIND).filter(|n| *n != KILLER);
    let taken = place.taken("hot").await?;
    ensure!(taken.iter().copied().eq(expected), "{taken:?}");
    ensure!(
        place.count("inbox_messages WHERE status = 'dead'").await? == 1,
        "one is dead"
    );
    // Once in the batch, and each of its three attempts.
    let kills = place.plan.kills_so_far.load(SeqCst);
    ensure!(kills == 4, "it took {kills} crashes");
    let charged = place
        .count("inbox_messages WHERE status = 'processed' AND attempts > 1")
        .await?;
    ensure!(charged == 0, "{charged} others lost an attempt");
    place.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kills_a_batch_is_found_on_sqlite() -> Result<()> {
    what_kills_a_batch_is_found(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kills_a_batch_is_found_on_postgres() -> Result<()> {
    what_kills_a_batch_is_found(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kills_a_batch_is_found_on_mysql() -> Result<()> {
    what_kills_a_batch_is_found(TestDatabase::mysql().await?).await
}

/// A probe that stops once at `point`.
struct Hold {
    reached: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Hold {
    fn at(point: &'static str) -> Self {
        let hold = Self {
            reached: Arc::default(),
            go_on: Arc::default(),
        };
        let (reached, go_on) = (hold.reached.clone(), hold.go_on.clone());
        let done = Arc::new(AtomicBool::new(false));
        failpoint::install(Some(Arc::new(move |hit| {
            if hit != point || done.swap(true, SeqCst) {
                return Box::pin(std::future::ready(())) as Pin<Box<dyn Future<Output = ()> + Send>>;
            }
            let (reached, go_on) = (reached.clone(), go_on.clone());
            Box::pin(async move {
                reached.notify_one();
                go_on.notified().await;
            })
        })));
        hold
    }

    async fn reached(&self) -> Result<()> {
        Ok(tokio::time::timeout(LIMIT, self.reached.notified()).await?)
    }
}

/// The head ends after the consumer has looked for it and before the consumer commits.
async fn a_head_that_ends_before_the_row_behind_it_is_there(database: TestDatabase) -> Result<()> {
    let place = Place::open(database, Duration::from_millis(100)).await?;
    let engine = place.start();
    place.pile_up(0).await?;
    let hold = Hold::at("consumer.committing");
    place.publish(steps("hot", 1..2)?).await?;
    hold.reached().await?;
    place.plan.open.store(true, SeqCst);
    place.count_is("steps", 1).await?;
    hold.go_on.notify_one();
    place.count_is("steps", 2).await?;
    ensure!(place.taken("hot").await? == [0, 1], "out of order");
    engine.stop(LIMIT).await;
    failpoint::install(None);
    place.finish().await
}

#[tokio::test]
async fn a_head_that_ends_before_the_row_behind_it_is_there_on_postgres() -> Result<()> {
    a_head_that_ends_before_the_row_behind_it_is_there(TestDatabase::postgres().await?).await
}

#[tokio::test]
async fn a_head_that_ends_before_the_row_behind_it_is_there_on_mysql() -> Result<()> {
    a_head_that_ends_before_the_row_behind_it_is_there(TestDatabase::mysql().await?).await
}

/// The consumer commits a row behind the head after the retrier has looked for one and before the retrier commits.
async fn a_row_that_comes_while_its_head_commits(database: TestDatabase) -> Result<()> {
    let place = Place::open(database, Duration::from_millis(100)).await?;
    let engine = place.start();
    place.pile_up(0).await?;
    let hold = Hold::at("retrier.handled");
    place.plan.open.store(true, SeqCst);
    hold.reached().await?;
    let passed = Hold::at("consumer.acknowledged");
    place.publish(steps("hot", 1..2)?).await?;
    passed.reached().await?;
    ensure!(
        place.count("inbox_messages WHERE status = 'waiting'").await? == 1,
        "nothing waits"
    );
    passed.go_on.notify_one();
    hold.go_on.notify_one();
    place.count_is("steps", 2).await?;
    ensure!(place.taken("hot").await? == [0, 1], "out of order");
    engine.stop(LIMIT).await;
    failpoint::install(None);
    place.finish().await
}

#[tokio::test]
async fn a_row_that_comes_while_its_head_commits_on_postgres() -> Result<()> {
    a_row_that_comes_while_its_head_commits(TestDatabase::postgres().await?).await
}

#[tokio::test]
async fn a_row_that_comes_while_its_head_commits_on_mysql() -> Result<()> {
    a_row_that_comes_while_its_head_commits(TestDatabase::mysql().await?).await
}

/// As after a crash between a commit and the last look behind it.
async fn what_waits_for_nothing_is_found_at_the_start(database: TestDatabase) -> Result<()> {
    let place = Place::open(database, HOUR).await?;
    let engine = place.start();
    place.pile_up(3).await?;
    engine.stop(LIMIT).await;
    let sql = "UPDATE inbox_messages SET status = 'processed', processed_at = {now}, parked_seq = NULL WHERE status = 'retrying'";
    ensure!(place.store.execute(sql, vec![]).await? == 1, "no head");
    let engine = place.start();
    place.count_is("steps", 3).await?;
    ensure!(place.taken("hot").await? == [1, 2, 3], "out of order");
    engine.stop(LIMIT).await;
    place.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_nothing_is_found_at_the_start_on_sqlite() -> Result<()> {
    what_waits_for_nothing_is_found_at_the_start(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_nothing_is_found_at_the_start_on_postgres() -> Result<()> {
    what_waits_for_nothing_is_found_at_the_start(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_nothing_is_found_at_the_start_on_mysql() -> Result<()> {
    what_waits_for_nothing_is_found_at_the_start(TestDatabase::mysql().await?).await
}

/// Updated rows, rows read by sequential scans, index entries read: of the inbox, so far.
async fn work(url: &str) -> Result<[i64; 3]> {
    let store = Store::open(url, StoreOptions::default())?;
    // A session tells what it has done when it ends, which is later than the close.
    wait_until("the end of all other sessions", LIMIT, || async {
        let others = "SELECT 1 AS one FROM pg_stat_activity \
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        store.query(others, vec![]).await.ok()?.is_empty().then_some(())
    })
    .await?;
    let sql = "SELECT CAST(n_tup_upd AS bigint) AS updated, CAST(seq_tup_read AS bigint) AS scanned, \
        (SELECT CAST(SUM(idx_tup_read) AS bigint) FROM pg_stat_user_indexes WHERE relname = 'inbox_messages') AS entries \
        FROM pg_stat_user_tables WHERE relname = 'inbox_messages'";
    let rows = store.query(sql, vec![]).await?;
    let row = rows.first().context("a row")?;
    let work = [row.get("updated")?, row.get("scanned")?, row.get("entries")?];
    store.close().await;
    Ok(work)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_behind_a_head_that_waits_are_not_touched() -> Result<()> {
    const BEHIND: i64 = 3000;
    let place = Place::open(TestDatabase::postgres().await?, HOUR).await?;
    let engine = place.start();
    place.pile_up(BEHIND).await?;
    engine.stop(LIMIT).await;
    place.store.execute("ANALYZE inbox_messages", vec![]).await?;
    place.store.close().await;
    let url = place.database.url().to_owned();
    let [updated, scanned, entries] = work(&url).await?;
    ensure!(updated < 50, "{updated} rows were updated while {BEHIND} came in");

    let store = Store::open(&url, StoreOptions::default())?;
    let broker = Broker::open("memory:", &store)?;
    let place = Place { store, broker, ..place };
    let engine = place.start();
    for n in 1..=20 {
        place.publish(steps("other", n..n + 1)?).await?;
        place.publish(steps("stumbles", n..n + 1)?).await?;
        place.publish(steps("hot", BEHIND + n..BEHIND + n + 1)?).await?;
        place.count_is("steps", 2 * n).await?;
    }
    engine.stop(LIMIT).await;
    place.store.close().await;
    let now = work(&url).await?;
    let [updated, scanned, entries] = [now[0] - updated, now[1] - scanned, now[2] - entries];
    // Some for each that stumbles.
    ensure!(updated < 200, "{updated} rows were updated");
    // Reading what waits for each of the messages would be forty times as many.
    ensure!(
        scanned + entries < 5 * BEHIND,
        "{scanned} rows scanned, {entries} index entries read"
    );
    place.finish().await
}
