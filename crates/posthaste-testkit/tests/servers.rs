//! The servers themselves: started, shared, broken and started again.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use posthaste_testkit::servers::{self, PostgresUrl, PrivateMysql, PrivatePostgres};
use posthaste_testkit::{TestDatabase, wait_until};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};

const LIMIT: Duration = Duration::from_secs(90);

async fn connect(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)?;
    Ok(tokio::time::timeout(LIMIT, options.connect()).await??)
}

async fn count(url: &str, sql: &'static str) -> Result<i64> {
    let mut connection = connect(url).await?;
    let answer = connection.fetch_one(sql).await?.try_get(0)?;
    connection.close().await?;
    Ok(answer)
}

#[tokio::test]
async fn two_databases_share_a_server_and_nothing_else() {
    let (one, other) = tokio::join!(TestDatabase::postgres(), TestDatabase::postgres());
    let (one, other) = (one.unwrap(), other.unwrap());
    connect(one.url())
        .await
        .unwrap()
        .execute("CREATE TABLE t (id int)")
        .await
        .unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 't'";
    assert_eq!(count(one.url(), tables).await.unwrap(), 1);
    assert_eq!(count(other.url(), tables).await.unwrap(), 0);
    one.finish().await.unwrap();
    other.finish().await.unwrap();
}

#[tokio::test]
async fn a_dropped_database_is_gone_even_under_a_connection() {
    let database = TestDatabase::postgres().await.unwrap();
    let url = database.url().to_owned();
    let _still_connected = connect(&url).await.unwrap();
    drop(database);
    assert!(connect(&url).await.is_err());
}

#[tokio::test]
async fn the_server_keeps_its_promises() {
    let url = servers::postgres().unwrap();
    let mut connection = connect(url.as_str()).await.unwrap();
    for (setting, expected) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
    ] {
        let row = connection
            .fetch_one(sqlx::query("SELECT current_setting($1)").bind(setting))
            .await
            .unwrap();
        assert_eq!(row.get::<String, _>(0), expected, "{setting}");
    }
}

#[tokio::test]
async fn a_sqlite_database_is_a_file_that_goes_with_it() {
    let database = TestDatabase::sqlite().unwrap();
    let path = database.url().strip_prefix("sqlite:").unwrap().to_owned();
    std::fs::write(&path, "").unwrap();
    drop(database);
    assert!(!std::path::Path::new(&path).exists());
}

#[tokio::test]
async fn a_private_server_survives_every_kind_of_stop_under_the_same_url() {
    let server = PrivatePostgres::launch(25_600).await.unwrap();
    let other = PrivatePostgres::launch(25_600).await.unwrap();
    assert_ne!(server.port(), other.port());
    let database = TestDatabase::on(PostgresUrl::parse(server.url()).unwrap())
        .await
        .unwrap();
    connect(database.url())
        .await
        .unwrap()
        .execute("CREATE TABLE t (id int)")
        .await
        .unwrap();

    for (n, stop) in ["fast", "immediate", "kill"].into_iter().enumerate() {
        connect(database.url())
            .await
            .unwrap()
            .execute("INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        match stop {
            "fast" => server.stop().await.unwrap(),
            "immediate" => server.stop_immediate().await.unwrap(),
            _ => server.kill9().await.unwrap(),
        }
        assert!(connect(server.url()).await.is_err(), "{stop}");
        assert!(connect(other.url()).await.is_ok(), "{stop} hit another server");
        server.start().await.unwrap();
        let rows = count(database.url(), "SELECT count(*) FROM t").await.unwrap();
        assert_eq!(rows, i64::try_from(n).unwrap() + 1, "{stop}");
    }
    server.restart().await.unwrap();
    let url = database.url().to_owned();
    let up = || async { connect(&url).await.ok() };
    wait_until("the restarted server", LIMIT, up).await.unwrap();
    database.finish().await.unwrap();
}

async fn connect_mysql(url: &str) -> Result<MySqlConnection> {
    let options = MySqlConnectOptions::from_str(url)?;
    Ok(tokio::time::timeout(LIMIT, options.connect()).await??)
}

#[tokio::test]
async fn a_dropped_mysql_database_is_gone_even_under_a_transaction() {
    let database = TestDatabase::mysql().await.unwrap();
    let url = database.url().to_owned();
    let mut connection = connect_mysql(&url).await.unwrap();
    for sql in ["CREATE TABLE t (id int)", "BEGIN", "INSERT INTO t VALUES (1)"] {
        connection.execute(sql).await.unwrap();
    }
    drop(database);
    assert!(connect_mysql(&url).await.is_err());
}

#[tokio::test]
async fn a_private_mysql_server_survives_every_kind_of_stop_under_the_same_url() {
    let server = PrivateMysql::launch(23_700).await.unwrap();
    let other = PrivateMysql::launch(23_700).await.unwrap();
    assert_ne!(server.port(), other.port());
    let url = TestDatabase::on_mysql(server.url().clone()).await.unwrap();
    let mut connection = connect_mysql(url.url()).await.unwrap();
    connection.execute("CREATE TABLE t (id int)").await.unwrap();
    for (n, kill) in [false, true].into_iter().enumerate() {
        let mut connection = connect_mysql(url.url()).await.unwrap();
        let flush = connection
            .fetch_one("SELECT @@innodb_flush_log_at_trx_commit")
            .await
            .unwrap();
        assert_eq!(flush.get::<u64, _>(0), 1);
        connection.execute("INSERT INTO t VALUES (1)").await.unwrap();
        if kill {
            server.kill9().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        assert!(connect_mysql(server.url().as_str()).await.is_err(), "kill: {kill}");
        assert!(
            connect_mysql(other.url().as_str()).await.is_ok(),
            "another server was hit"
        );
        server.start().await.unwrap();
        let mut connection = connect_mysql(url.url()).await.unwrap();
        let rows = connection.fetch_one("SELECT COUNT(*) FROM t").await.unwrap();
        assert_eq!(rows.get::<i64, _>(0), i64::try_from(n).unwrap() + 1, "kill: {kill}");
    }
    url.finish().await.unwrap();
}
