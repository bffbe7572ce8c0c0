//! Leases: whose they are when a process dies, a clock steps or a transaction stands still.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::store::{Dialect, Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, Roles, Store, StoreOptions,
    Subscription, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, on_each_database, wait_until};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(90);
const NOTES: Migration = Migration::new(
    1,
    "notes",
    Sql::same("CREATE TABLE notes (body VARCHAR(64) NOT NULL)"),
    Sql::same("DROP TABLE notes"),
);

#[derive(Serialize, Deserialize)]
struct Note(String);

impl Event for Note {
    const TYPE: &'static str = "note";
    const TOPIC: &'static str = "notes";
}

struct Keep;

impl Handle<Note> for Keep {
    async fn handle(&self, Note(body): Note, cx: &mut Cx<'_>) -> Handled {
        let sql = "INSERT INTO notes (body) VALUES ($1)";
        cx.tx().execute(sql, vec![body.into()]).await?;
        Ok(())
    }
}

/// Writes down how long its transaction may be silent.
struct AskLimit;

impl Handle<Note> for AskLimit {
    async fn handle(&self, _note: Note, cx: &mut Cx<'_>) -> Handled {
        let ask = limit_of(cx.tx().dialect());
        let rows = cx.tx().query(ask, vec![]).await?;
        let limit: String = rows.first().map_or(Ok(String::new()), |row| row.get("idle"))?;
        let sql = "INSERT INTO notes (body) VALUES ($1)";
        cx.tx().execute(sql, vec![limit.into()]).await?;
        Ok(())
    }
}

fn limit_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "SELECT current_setting('idle_in_transaction_session_timeout') AS idle",
        Dialect::Mysql => "SELECT CONCAT(CAST(@@SESSION.idle_transaction_timeout AS CHAR), 's') AS idle",
        Dialect::Sqlite => "SELECT 'none' AS idle",
    }
}

async fn open(database: &TestDatabase) -> Result<Store> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    store.migrate_up("notes", &[NOTES]).await?;
    Ok(store)
}

fn engine(store: &Store, subscriptions: Vec<Subscription>, roles: Roles, tuning: Tuning) -> Result<Engine> {
    Ok(Engine::start(EngineConfig {
        service: "notes".to_owned(),
        store: store.clone(),
        broker: Broker::open("sql:", store)?,
        subscriptions,
        roles,
        tuning,
    }))
}

const ALL: Roles = Roles {
    worker: true,
    relay: true,
};

async fn append(store: &Store, body: &str) -> Result<()> {
    let mut tx = store.begin().await?;
    outbox::append(&mut tx, "notes", Message::of(&Note(body.to_owned()))?).await?;
    Ok(tx.commit().await?)
}

async fn notes(store: &Store, count: usize) -> Result<Vec<String>> {
    wait_until("the notes", LIMIT, || async {
        let rows = store.query("SELECT body FROM notes", vec![]).await.ok()?;
        let notes: Vec<String> = rows.iter().map(|row| row.get("body")).collect::<Result<_, _>>().ok()?;
        (notes.len() == count).then_some(notes)
    })
    .await
}

async fn number(store: &Store, sql: &str, values: Vec<sea_orm::Value>) -> Result<i64> {
    let rows = store.query(sql, values).await?;
    Ok(rows.first().context("no number")?.get("number")?)
}

/// The database's clock was ahead when the dead owner wrote them, or is behind now.
async fn leases_of_a_clock_that_was_ahead_are_taken(database: TestDatabase) -> Result<()> {
    let store = open(&database).await?;
    let dead = store.dialect().uuid(Uuid::new_v4());
    let hours: i64 = 2 * 3_600 * 1_000_000;
    let tx = store.begin().await?;
    for scope in ["notes/relay", "notes/worker"] {
        for slot in 0..16i64 {
            let sql = "INSERT INTO leases (scope, slot, owner, epoch, expires_at) VALUES ($1, $2, $3, 7, {after:$4})";
            tx.execute(sql, vec![scope.into(), slot.into(), dead.clone(), hours.into()])
                .await?;
        }
    }
    tx.commit().await?;
    append(&store, "late").await?;
    let keep = Subscription::new::<Note, _>("notes.keep", "notes", Keep);
    let engine = engine(&store, vec![keep], ALL, Tuning::default())?;
    ensure!(notes(&store, 1).await? == ["late"]);
    let sql = "SELECT COUNT(*) AS number FROM leases WHERE slot >= 0 AND (owner = $1 OR epoch < 8)";
    ensure!(number(&store, sql, vec![dead]).await? == 0, "all are taken");
    let sql = "SELECT COUNT(*) AS number FROM leases WHERE slot >= 0 AND inherited = 1";
    ensure!(
        number(&store, sql, vec![]).await? == 32,
        "it is kept that their owner died"
    );
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

/// A lease that its owner renews is never taken for one of a clock that was ahead.
async fn living_owners_keep_their_leases(database: TestDatabase) -> Result<()> {
    let (store, other) = (
        open(&database).await?,
        Store::open(database.url(), StoreOptions::default())?,
    );
    let long = Tuning {
        lease: Duration::from_secs(120),
        ..Tuning::default()
    };
    let held = "SELECT COUNT(*) AS number FROM leases WHERE slot >= 0 AND owner IS NOT NULL AND epoch = 1";
    let first = engine(
        &store,
        vec![],
        Roles {
            worker: false,
            relay: true,
        },
        long,
    )?;
    wait_until("the leases", LIMIT, || async {
        (number(&store, held, vec![]).await.ok()? == 16).then_some(())
    })
    .await?;
    let second = engine(
        &other,
        vec![],
        Roles {
            worker: false,
            relay: true,
        },
        Tuning::default(),
    )?;
    let members = "SELECT COUNT(*) AS number FROM leases WHERE slot < 0";
    wait_until("the second member", LIMIT, || async {
        (number(&store, members, vec![]).await.ok()? == 2).then_some(())
    })
    .await?;
    // Its heartbeat is over then.
    second.stop(LIMIT).await;
    ensure!(
        number(&store, held, vec![]).await? == 16,
        "they were taken from a living owner"
    );
    first.stop(LIMIT).await;
    store.close().await;
    other.close().await;
    database.finish().await
}

/// A handler may be silent for its deadline; what its transaction was allowed does not stay with the connection.
async fn a_transaction_may_be_silent_as_long_as_its_handler_may_take(database: TestDatabase) -> Result<()> {
    let store = open(&database).await?;
    let dialect = store.dialect();
    let of = |name: &str, deadline| {
        let mut ask = Subscription::new::<Note, _>(name, "notes", AskLimit);
        ask.deadline = Duration::from_secs(deadline);
        ask
    };
    for (n, (deadline, expected)) in [(30, "35s"), (600, "605s"), (30, "35s")].into_iter().enumerate() {
        let expected = if dialect == Dialect::Sqlite { "none" } else { expected };
        let engine = engine(&store, vec![of("notes.ask", deadline)], ALL, Tuning::default())?;
        append(&store, "how long?").await?;
        let notes = notes(&store, n + 1).await?;
        ensure!(notes.iter().any(|note| note == expected), "{deadline} s: {notes:?}");
        engine.stop(LIMIT).await;
    }
    // All connections of the pool.
    let open: Vec<_> = futures_util::future::join_all((0..10).map(|_| store.begin())).await;
    for tx in open.into_iter().flatten() {
        let rows = tx.query(limit_of(dialect), vec![]).await?;
        let limit: String = rows.first().context("no limit")?.get("idle")?;
        ensure!(
            limit == if dialect == Dialect::Sqlite { "none" } else { "35s" },
            "{limit}"
        );
        tx.rollback().await?;
    }
    store.close().await;
    database.finish().await
}

/// A process may be stopped or cut off before the commit of any of these. The server has to end it before others would
/// have to wait for more than its leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_writes_leases_may_be_silent_no_longer_than_a_fence_on_postgres() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let store = open(&database).await?;
    for sql in [
        "CREATE TABLE limits (kind TEXT NOT NULL, idle TEXT NOT NULL)",
        "CREATE FUNCTION note_limit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO limits VALUES ( \
            CASE WHEN TG_OP = 'INSERT' THEN 'entered' WHEN NEW.owner IS NULL THEN 'released' \
                WHEN NEW.owner IS DISTINCT FROM OLD.owner THEN 'taken' ELSE 'renewed' END, \
            current_setting('idle_in_transaction_session_timeout')); RETURN NULL; END $$",
        "CREATE TRIGGER note_limit AFTER INSERT OR UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION note_limit()",
    ] {
        store.execute(sql, vec![]).await?;
    }
    let tuning = Tuning {
        lease: Duration::from_secs(2),
        ..Tuning::default()
    };
    let keep = Subscription::new::<Note, _>("notes.keep", "notes", Keep);
    let engine = engine(&store, vec![keep], ALL, tuning)?;
    let kinds = "SELECT COUNT(DISTINCT kind) AS number FROM limits";
    wait_until("leases to be taken and renewed", LIMIT, || async {
        (number(&store, kinds, vec![]).await.ok()? == 3).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    ensure!(number(&store, kinds, vec![]).await? == 4, "no lease was released");
    let rows = store
        .query("SELECT DISTINCT kind, idle FROM limits ORDER BY kind", vec![])
        .await?;
    for row in rows {
        let (kind, idle): (String, String) = (row.get("kind")?, row.get("idle")?);
        ensure!(idle == "5s", "{kind}: {idle}");
    }
    store.close().await;
    database.finish().await
}

async fn a_relay_alone_removes_what_is_old(database: TestDatabase) -> Result<()> {
    let store = open(&database).await?;
    let tuning = Tuning {
        keep_outbox: Duration::ZERO,
        clean_every: Duration::from_millis(100),
        ..Tuning::default()
    };
    append(&store, "old").await?;
    let engine = engine(
        &store,
        vec![],
        Roles {
            worker: false,
            relay: true,
        },
        tuning,
    )?;
    wait_until("the outbox to be clean", LIMIT, || async {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages) + 1 - (SELECT COUNT(*) FROM queue_messages) AS number";
        (number(&store, sql, vec![]).await.ok()? == 0).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

on_each_database!(
    leases_of_a_clock_that_was_ahead_are_taken,
    living_owners_keep_their_leases,
    a_transaction_may_be_silent_as_long_as_its_handler_may_take,
    a_relay_alone_removes_what_is_old,
);
