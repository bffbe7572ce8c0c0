//! The migration from `parked` to `retrying` and `waiting`, and back.

use anyhow::{Result, ensure};
use posthaste::{CORE_MIGRATIONS, MessageId, Store, StoreOptions};
use posthaste_testkit::TestDatabase;

/// Status, whether it has a due time, how many.
async fn rows(store: &Store) -> Result<Vec<(String, i32, i64)>> {
    let sql = "SELECT status, CASE WHEN due_at IS NULL THEN 0 ELSE 1 END AS due, COUNT(*) AS n FROM inbox_messages \
        GROUP BY status, CASE WHEN due_at IS NULL THEN 0 ELSE 1 END ORDER BY status";
    let rows = store.query(sql, vec![]).await?;
    let read = |row: &posthaste::store::Row| Ok((row.get("status")?, row.get("due")?, row.get("n")?));
    rows.iter().map(read).collect()
}

async fn insert(store: &Store, status: &str, count: usize, due: bool) -> Result<()> {
    for n in 0..count {
        let due_at = if due { "{now}" } else { "NULL" };
        let sql = format!(
            "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, message_key, \
                parked_seq, due_at) VALUES ('take', $1, 'step', $2, {{now}}, 'one', $3, {due_at})"
        );
        let id = store.dialect().uuid(MessageId::new().0);
        let values = vec![id, status.into(), i64::try_from(n)?.into()];
        store.execute(&sql, values).await?;
    }
    Ok(())
}

async fn rows_keep_their_due_times(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", &CORE_MIGRATIONS[..1]).await?;
    insert(&store, "parked", 3, true).await?;
    insert(&store, "dead", 2, false).await?;
    insert(&store, "processed", 1, false).await?;
    let up_to = &CORE_MIGRATIONS[..2];
    store.migrate_up("core", up_to).await?;
    let of = |status: &str, due: i32, n: i64| (status.to_owned(), due, n);
    let found = rows(&store).await?;
    ensure!(
        found == [of("dead", 0, 2), of("processed", 0, 1), of("retrying", 1, 3)],
        "{found:?}"
    );
    insert(&store, "waiting", 4, false).await?;
    ensure!(
        store.migrate_down("core", up_to).await? == Some(2),
        "nothing was taken back"
    );
    let found = rows(&store).await?;
    ensure!(
        found == [of("dead", 0, 2), of("parked", 1, 7), of("processed", 0, 1)],
        "{found:?}"
    );
    store.migrate_up("core", up_to).await?;
    // As after a step on MySQL that was cut off before it counted as applied.
    if matches!(store.dialect(), posthaste::store::Dialect::Mysql) {
        store
            .execute("DELETE FROM schema_migrations WHERE version = 2", vec![])
            .await?;
        store.migrate_up("core", up_to).await?;
    }
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_their_due_times_on_sqlite() -> Result<()> {
    rows_keep_their_due_times(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_their_due_times_on_postgres() -> Result<()> {
    rows_keep_their_due_times(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_their_due_times_on_mysql() -> Result<()> {
    rows_keep_their_due_times(TestDatabase::mysql().await?).await
}
