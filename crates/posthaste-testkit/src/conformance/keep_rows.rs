//! What a store has to do.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::idempotency::{self, Outcome, StoredResponse};
use posthaste::store::{Column, Insert, Migration, OnConflict, Sql, StoreError};
use posthaste::{CORE_MIGRATIONS, Store, StoreOptions};
use uuid::Uuid;

use super::suite::LIMIT;
use crate::wait_until;

const TABLE: Migration = Migration {
    version: 1,
    name: "things",
    up: Sql {
        postgres: "CREATE TABLE things (id UUID PRIMARY KEY, n BIGINT, at TIMESTAMPTZ, doc JSONB, body BYTEA)",
        sqlite: "CREATE TABLE things (id TEXT PRIMARY KEY, n INTEGER, at TEXT, doc TEXT, body BLOB)",
        mysql: "CREATE TABLE IF NOT EXISTS things (id CHAR(36) PRIMARY KEY, n BIGINT, at DATETIME(6), doc LONGTEXT, \
            body LONGBLOB)",
    },
    down: Sql {
        postgres: "DROP TABLE things",
        sqlite: "DROP TABLE things",
        mysql: "DROP TABLE IF EXISTS things",
    },
};

const INSERT: Insert = Insert {
    table: "things",
    columns: &[
        Column::Plain("id"),
        Column::Plain("n"),
        Column::Now("at"),
        Column::Json("doc"),
        Column::Plain("body"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: Some("id"),
};

async fn count(store: &Store) -> Result<i64> {
    Ok(store.query("SELECT COUNT(*) AS n FROM things", vec![]).await?[0].get("n")?)
}

/// Migrations, multi-row inserts, types, rollback, errors.
///
/// # Errors
/// When one of them is not as it has to be.
pub async fn store_basics(url: &str) -> Result<()> {
    let store = Store::open(url, StoreOptions::default())?;
    let other = Store::open(url, StoreOptions::default())?;
    let (one, two) = tokio::join!(
        store.migrate_up("core", CORE_MIGRATIONS),
        other.migrate_up("core", CORE_MIGRATIONS)
    );
    ensure!(
        one?.len() + two?.len() == CORE_MIGRATIONS.len(),
        "two processes migrate once between them"
    );
    store.migrate_up("things", &[TABLE]).await?;
    ensure!(
        store.migration_state("things", &[TABLE]).await?[0].applied_at.is_some(),
        "not recorded"
    );

    let dialect = store.dialect();
    let row = |id: Uuid, n: i64| -> Vec<sea_orm::Value> {
        vec![
            dialect.uuid(id),
            n.into(),
            r#"{"a":[1,null]}"#.into(),
            vec![0u8, 255].into(),
        ]
    };
    let ids: Vec<Uuid> = (0..1234).map(|_| Uuid::now_v7()).collect();
    for size in [1, 8, 63, 500, 1234] {
        let tx = store.begin().await?;
        let rows = ids[..size].iter().map(|id| row(*id, 7)).collect();
        let new = INSERT.run(&tx, rows).await?.len();
        tx.commit().await?;
        ensure!(count(&store).await? == size as i64, "{size} rows");
        ensure!(new <= size, "{new} of {size} new");
    }
    let read = store
        .query("SELECT * FROM things WHERE id = $1", vec![dialect.uuid(ids[0])])
        .await?;
    ensure!(read[0].uuid("id")? == ids[0], "uuid");
    ensure!(
        read[0].json("doc")? == Some(serde_json::json!({"a": [1, null]})),
        "json"
    );
    ensure!(read[0].get::<Vec<u8>>("body")? == [0, 255], "bytes");
    let age = posthaste::message::now() - read[0].time("at")?;
    ensure!(age.abs() < chrono::Duration::seconds(60), "clock {age}");

    let tx = store.begin().await?;
    tx.execute("DELETE FROM things", vec![]).await?;
    drop(tx);
    ensure!(count(&store).await? == 1234, "a dropped transaction rolls back");
    let duplicate = store
        .execute("INSERT INTO things (id) VALUES ($1)", vec![dialect.uuid(ids[0])])
        .await;
    ensure!(matches!(duplicate, Err(StoreError::Duplicate(_))), "{duplicate:?}");
    let no_table = store
        .query("SELECT thing FROM nowhere", vec![])
        .await
        .map(|rows| rows.len());
    ensure!(matches!(no_table, Err(StoreError::Environment(_))), "{no_table:?}");
    let wrong = store.query("SELECT FROM WHERE", vec![]).await.map(|rows| rows.len());
    ensure!(matches!(wrong, Err(StoreError::Statement(_))), "{wrong:?}");
    ensure!(
        store.migrate_down("things", &[TABLE]).await? == Some(1),
        "not taken back"
    );
    Ok(())
}

/// Callers that hang up in the middle leave no open transaction behind (sqlx #4385).
///
/// # Errors
/// When a later write is invisible to others.
pub async fn hung_up_callers_leave_nothing_open(url: &str) -> Result<()> {
    let store = Store::open(
        url,
        StoreOptions {
            connections: 4,
            ..StoreOptions::default()
        },
    )?;
    store.migrate_up("things", &[TABLE]).await?;
    for n in 0..200u64 {
        let work = async {
            let tx = store.begin().await?;
            tx.execute(
                "INSERT INTO things (id) VALUES ($1)",
                vec![store.dialect().uuid(Uuid::now_v7())],
            )
            .await?;
            tx.commit().await
        };
        // Hung up after a different time in each round: some before, some in, some after the begin.
        drop(tokio::time::timeout(Duration::from_micros(n * 7), work).await);
    }
    let other = Store::open(url, StoreOptions::default())?;
    let before = wait_until("a count", LIMIT, || async { count(&other).await.ok() }).await?;
    for _ in 0..20 {
        store
            .execute(
                "INSERT INTO things (id) VALUES ($1)",
                vec![store.dialect().uuid(Uuid::now_v7())],
            )
            .await?;
    }
    wait_until("the later rows", LIMIT, || async {
        count(&other).await.ok().filter(|now| *now >= before + 20)
    })
    .await
    .map(drop)
}

/// Keys that differ in the case of a letter or in a blank at the end are different keys.
///
/// # Errors
/// When two of them are taken for one.
pub async fn keys_are_compared_byte_by_byte(url: &str) -> Result<()> {
    let store = Store::open(url, StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    for key in ["key", "Key", "key ", "ke\u{301}y", "k\u{e9}y"] {
        let answer = move || StoredResponse {
            status: 200,
            body: key.as_bytes().to_vec(),
        };
        let first = idempotency::run(&store, "scope", key, b"", |_| Box::pin(async move { Ok(answer()) }));
        let first: Result<Outcome, StoreError> = first.await;
        ensure!(first? == Outcome::First(answer()), "{key:?} is taken for another");
        let again = idempotency::run(&store, "scope", key, b"", |_| Box::pin(async move { Ok(answer()) }));
        let again: Result<Outcome, StoreError> = again.await;
        ensure!(again? == Outcome::Replayed(answer()), "{key:?} is not recognised");
    }
    Ok(())
}

/// A request that was refused has left its key free by the time it is answered: a repeat, at whatever process, is the
/// first one.
///
/// # Errors
/// When the repeat meets the lock of the refused one.
pub async fn a_refused_request_leaves_its_key_free(url: &str) -> Result<()> {
    let store = Store::open(url, StoreOptions::default())?;
    let other = Store::open(url, StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    for n in 0..100 {
        let key = format!("refused {n}");
        let refused = idempotency::run(&store, "scope", &key, b"", |tx| {
            Box::pin(async move {
                tx.query("SELECT 1 AS one", vec![]).await?;
                Err(StoreError::Stopped)
            })
        });
        let refused: Result<Outcome, StoreError> = refused.await;
        ensure!(matches!(refused, Err(StoreError::Stopped)), "{refused:?}");
        let answer = || StoredResponse {
            status: 202,
            body: Vec::new(),
        };
        let repeat = idempotency::run(&other, "scope", &key, b"", |_| Box::pin(async move { Ok(answer()) }));
        let repeat: Result<Outcome, StoreError> = repeat.await;
        ensure!(repeat? == Outcome::First(answer()), "repeat {n} met a lock");
    }
    Ok(())
}

/// A database that is away is told apart from a wrong statement, and opening it does not fail.
///
/// # Errors
/// When it is not.
pub async fn absent_database_is_unavailable() -> Result<()> {
    let options = StoreOptions {
        acquire: Duration::from_millis(300),
        ..StoreOptions::default()
    };
    for scheme in ["postgres", "mysql"] {
        let store = Store::open(&format!("{scheme}://nobody@127.0.0.1:9/none"), options)?;
        match store.begin().await {
            Err(error) => ensure!(error.is_unavailable(), "{error:?}"),
            Ok(_) => anyhow::bail!("nobody listens there"),
        }
    }
    Ok(())
}
