//! A database that another program uses: its tables stay as they are.

use anyhow::{Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::TestDatabase;

use crate::program::Program;

async fn the_orders_of_another_shop_stay(database: TestDatabase) -> Result<()> {
    let program = Program::new()?;
    let there = [("DATABASE_URL", database.url())];
    let store = Store::open(database.url(), StoreOptions::default())?;
    store
        .execute("CREATE TABLE orders (id INT, customer VARCHAR(50))", vec![])
        .await?;
    for n in 0..15 {
        let sql = "INSERT INTO orders VALUES ($1, 'theirs')";
        store.execute(sql, vec![n.into()]).await?;
    }
    let up = program.run(&["migrate", "up", "orders"], &there).await?;
    ensure!(up.code == 1 && up.stderr.contains("orders"), "{up:?}");
    let status = program.run(&["migrate", "status"], &there).await?;
    ensure!(!status.stdout.contains("Z "), "something was applied: {status:?}");
    let serve = program
        .run(&["serve", "orders", "--migrate", "--port", "0"], &there)
        .await?;
    ensure!(serve.code == 1 && serve.stderr.contains("orders"), "{serve:?}");
    let down = program.run(&["migrate", "down", "orders", "--yes"], &there).await?;
    ensure!(down.code == 0 && down.stdout.contains("nothing to do"), "{down:?}");
    let rows = store
        .query("SELECT id FROM orders WHERE customer = 'theirs'", vec![])
        .await?;
    ensure!(rows.len() == 15, "{} rows are left", rows.len());
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> Result<()> {
    the_orders_of_another_shop_stay(TestDatabase::sqlite()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> Result<()> {
    the_orders_of_another_shop_stay(TestDatabase::postgres().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() -> Result<()> {
    the_orders_of_another_shop_stay(TestDatabase::mysql().await?).await
}
