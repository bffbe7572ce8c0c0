//! Migrations take no table that they have not created, and drop none.

use anyhow::{Result, ensure};
use posthaste::store::{Dialect, MigrateError, Migration, Sql};
use posthaste::{CORE_MIGRATIONS, Store, StoreOptions};
use posthaste_testkit::{TestDatabase, on_each_database};

const SHOP: Migration = Migration::new(
    1,
    "shop",
    Sql {
        mysql: "CREATE TABLE IF NOT EXISTS carts (id BIGINT); CREATE TABLE IF NOT EXISTS orders (id BIGINT, items TEXT)",
        ..Sql::same("CREATE TABLE carts (id BIGINT); CREATE TABLE orders (id BIGINT, items TEXT)")
    },
    Sql::same("DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS carts"),
);

async fn names(store: &Store) -> Result<Vec<String>> {
    let sql = match store.dialect() {
        Dialect::Postgres => {
            "SELECT CAST(tablename AS text) AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        }
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1",
        Dialect::Mysql => {
            "SELECT CAST(table_name AS CHAR) AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE() ORDER BY 1"
        }
    };
    let rows = store.query(sql, vec![]).await?;
    Ok(rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?)
}

async fn a_foreign_table_is_neither_taken_nor_dropped(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    // Another program's, with a row, under the name of the set's second table.
    store
        .execute("CREATE TABLE orders (number VARCHAR(10))", vec![])
        .await?;
    store.execute("INSERT INTO orders VALUES ('theirs')", vec![]).await?;
    let checked = store.check_tables("shop", &[SHOP]).await;
    ensure!(matches!(checked, Err(MigrateError::Foreign { .. })), "{checked:?}");
    ensure!(names(&store).await? == ["orders"], "a check has changed something");
    for _ in 0..2 {
        let refused = store.migrate_up("shop", &[SHOP]).await;
        ensure!(
            matches!(&refused, Err(MigrateError::Foreign { tables, .. }) if tables == &["orders"]),
            "{refused:?}"
        );
        ensure!(
            !names(&store).await?.contains(&"carts".to_owned()),
            "half of the step was applied"
        );
        ensure!(
            store.migrate_down("shop", &[SHOP]).await?.is_none(),
            "there is nothing to take back"
        );
    }
    let rows = store.query("SELECT number FROM orders", vec![]).await?;
    ensure!(
        rows.len() == 1 && rows[0].get::<String>("number")? == "theirs",
        "the rows are gone"
    );
    // Without it the set applies, and takes back what it has created.
    store.execute("DROP TABLE orders", vec![]).await?;
    ensure!(store.migrate_up("shop", &[SHOP]).await? == [1]);
    ensure!(store.migrate_down("shop", &[SHOP]).await? == Some(1));
    store.execute("CREATE TABLE carts (number VARCHAR(10))", vec![]).await?;
    let refused = store.migrate_up("shop", &[SHOP]).await;
    ensure!(
        matches!(&refused, Err(MigrateError::Foreign { tables, .. }) if tables == &["carts"]),
        "made after ours was taken back: {refused:?}"
    );
    store.close().await;
    database.finish().await
}

async fn another_programs_list_of_migrations_is_left_alone(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    let sql = "CREATE TABLE schema_migrations (version BIGINT, dirty BIGINT)";
    store.execute(sql, vec![]).await?;
    let refused = store.migrate_up("core", CORE_MIGRATIONS).await;
    ensure!(
        matches!(&refused, Err(MigrateError::Foreign { tables, .. }) if tables == &["schema_migrations"]),
        "{refused:?}"
    );
    ensure!(
        names(&store).await? == ["schema_migrations"],
        "{:?}",
        names(&store).await?
    );
    store.close().await;
    database.finish().await
}

/// The first statement is fine and the second one is not, as when the server went away in between.
const CUT_OFF: Migration = Migration::new(
    1,
    "shop",
    Sql {
        mysql: "CREATE TABLE IF NOT EXISTS carts (id BIGINT); CREATE NONSENSE",
        ..Sql::same("CREATE TABLE carts (id BIGINT); CREATE NONSENSE")
    },
    SHOP.down,
);

async fn a_step_that_was_cut_off_runs_again(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    let failed = store.migrate_up("shop", &[CUT_OFF]).await;
    ensure!(matches!(failed, Err(MigrateError::Step { .. })), "{failed:?}");
    let left = names(&store).await?.contains(&"carts".to_owned());
    ensure!(
        left == (store.dialect() == Dialect::Mysql),
        "only MySQL leaves the first half"
    );
    ensure!(store.migrate_up("shop", &[SHOP]).await? == [1]);
    store.close().await;
    database.finish().await
}

async fn a_table_of_an_earlier_step_may_be_made_again(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    ensure!(store.migrate_up("shop", &[SHOP]).await? == [1]);
    let wider = Sql::same("DROP TABLE carts; CREATE TABLE carts (id BIGINT, owner BIGINT)");
    let second = Migration::new(2, "wider carts", wider, Sql::same("DROP TABLE carts"));
    ensure!(store.migrate_up("shop", &[SHOP, second]).await? == [2]);
    store.close().await;
    database.finish().await
}

/// What limits a statement, as a migration sees it.
fn limits(dialect: Dialect) -> (Sql, &'static str, &'static str) {
    let (create, limit) = match dialect {
        Dialect::Mysql => (
            "CREATE TABLE seen AS SELECT CAST(@@max_statement_time AS CHAR) AS seen",
            "@@max_statement_time",
        ),
        _ => (
            "CREATE TABLE seen AS SELECT current_setting('statement_timeout') AS seen",
            "current_setting('statement_timeout')",
        ),
    };
    let unlimited = if dialect == Dialect::Mysql { "0.000000" } else { "0" };
    (Sql::same(create), limit, unlimited)
}

async fn a_step_may_take_as_long_as_it_needs(database: TestDatabase) -> Result<()> {
    // One connection, so that what is set for a migration would be seen after it.
    let options = StoreOptions {
        connections: 1,
        ..StoreOptions::default()
    };
    let store = Store::open(database.url(), options)?;
    let (create, limit, unlimited) = limits(store.dialect());
    let step = Migration::new(1, "long", create, Sql::same("DROP TABLE seen"));
    let failing = Migration::new(1, "failing", Sql::same("CREATE NONSENSE"), Sql::same("DO 0"));
    let before = store
        .query(&format!("SELECT CAST({limit} AS CHAR(20)) AS seen"), vec![])
        .await?;
    ensure!(store.migrate_up("failing", &[failing]).await.is_err());
    ensure!(store.migrate_up("long", &[step]).await? == [1]);
    let rows = store
        .query("SELECT CAST(seen AS CHAR(20)) AS seen FROM seen", vec![])
        .await?;
    let seen: String = rows[0].get("seen")?;
    ensure!(seen.trim() == unlimited, "a migration is limited to {seen}");
    let after = store
        .query(&format!("SELECT CAST({limit} AS CHAR(20)) AS seen"), vec![])
        .await?;
    let (before, after): (String, String) = (before[0].get("seen")?, after[0].get("seen")?);
    ensure!(
        before == after && before.trim() != unlimited,
        "{before} before, {after} after"
    );
    store.close().await;
    database.finish().await
}

on_each_database! {
    a_foreign_table_is_neither_taken_nor_dropped,
    another_programs_list_of_migrations_is_left_alone,
    a_step_that_was_cut_off_runs_again,
    a_table_of_an_earlier_step_may_be_made_again,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_may_take_as_long_as_it_needs_on_postgres() -> Result<()> {
    a_step_may_take_as_long_as_it_needs(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_may_take_as_long_as_it_needs_on_mysql() -> Result<()> {
    a_step_may_take_as_long_as_it_needs(TestDatabase::mysql().await?).await
}
