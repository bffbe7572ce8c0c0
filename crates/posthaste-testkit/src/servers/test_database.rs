//! A database of one test's own.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use super::PostgresUrl;

/// Creating or dropping a database writes a few megabytes and waits for a checkpoint.
const LIMIT: Duration = Duration::from_secs(60);

/// An empty database that no other test sees. It is removed by [`TestDatabase::finish`], or when dropped.
pub struct TestDatabase {
    url: String,
    place: Option<Place>,
}

enum Place {
    Postgres { server: PostgresUrl, name: String },
    Mysql { server: Url, name: String },
    Sqlite(TempDir),
}

impl TestDatabase {
    /// A new database on the shared PostgreSQL server.
    ///
    /// # Errors
    /// When the server is missing or refuses; says what to install.
    pub async fn postgres() -> Result<Self> {
        let server = tokio::task::spawn_blocking(super::postgres).await??;
        Self::on(server).await
    }

    /// A new database on `server`, for example a [`super::PrivatePostgres`].
    ///
    /// # Errors
    /// When the server is away or its user may not create databases.
    pub async fn on(server: PostgresUrl) -> Result<Self> {
        let name = format!("test_{}", Uuid::new_v4().simple());
        run(&server, format!("CREATE DATABASE {name}")).await?;
        let url = server.with_database(&name).as_str().to_owned();
        Ok(Self {
            url,
            place: Some(Place::Postgres { server, name }),
        })
    }

    /// A new database on the shared MariaDB server.
    ///
    /// # Errors
    /// When the server is missing or refuses; says what to install.
    pub async fn mysql() -> Result<Self> {
        let server = tokio::task::spawn_blocking(super::mysql).await??;
        Self::on_mysql(server).await
    }

    /// A new database on `server`, for example a [`super::PrivateMysql`].
    ///
    /// # Errors
    /// When the server is away or its user may not create databases.
    pub async fn on_mysql(server: Url) -> Result<Self> {
        let name = format!("test_{}", Uuid::new_v4().simple());
        run_mysql(&server, format!("CREATE DATABASE {name}")).await?;
        let mut url = server.clone();
        url.set_path(&name);
        Ok(Self {
            url: url.into(),
            place: Some(Place::Mysql { server, name }),
        })
    }

    /// A new SQLite file in a directory of its own.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn sqlite() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory for a SQLite file")?;
        let url = format!("sqlite:{}", directory.path().join("test.db").display());
        Ok(Self {
            url,
            place: Some(Place::Sqlite(directory)),
        })
    }

    /// Where it is: `postgres://…`, `mysql://…` or `sqlite:…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Removes it; whoever is still connected is cut off.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn finish(mut self) -> Result<()> {
        match self.place.take() {
            Some(place) => remove(place).await,
            None => Ok(()),
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        // The test's own runtime may be the one that runs this, and cannot wait for itself.
        let removal = std::thread::spawn(|| -> Result<()> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(remove(place))
        });
        match removal.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("a test database is left behind: {error:#}"),
            Err(_panic) => eprintln!("a test database is left behind: its removal panicked"),
        }
    }
}

async fn remove(place: Place) -> Result<()> {
    match place {
        Place::Postgres { server, name } => run(&server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await,
        Place::Mysql { server, name } => drop_mysql(&server, &name).await,
        Place::Sqlite(directory) => directory.close().context("cannot remove a SQLite file"),
    }
}

async fn run(server: &PostgresUrl, sql: String) -> Result<()> {
    let work = async {
        let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(server.as_str())?).await?;
        connection.execute(AssertSqlSafe(sql.as_str())).await?;
        connection.close().await
    };
    within(&sql, work).await
}

/// Cuts off who is connected: MySQL would wait for their transactions to end.
async fn drop_mysql(server: &Url, name: &str) -> Result<()> {
    let work = async {
        let mut connection = MySqlConnection::connect_with(&MySqlConnectOptions::from_str(server.as_str())?).await?;
        let others: Vec<(i64,)> =
            sqlx::query_as("SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = ?")
                .bind(name)
                .fetch_all(&mut connection)
                .await?;
        for (id,) in others {
            // It may have gone by itself.
            drop(connection.execute(AssertSqlSafe(format!("KILL {id}"))).await);
        }
        connection
            .execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}")))
            .await?;
        connection.close().await
    };
    within(name, work).await
}

async fn run_mysql(server: &Url, sql: String) -> Result<()> {
    let work = async {
        let mut connection = MySqlConnection::connect_with(&MySqlConnectOptions::from_str(server.as_str())?).await?;
        connection.execute(AssertSqlSafe(sql.as_str())).await?;
        connection.close().await
    };
    within(&sql, work).await
}

async fn within(what: &str, work: impl Future<Output = Result<(), sqlx::Error>>) -> Result<()> {
    let done = tokio::time::timeout(LIMIT, work)
        .await
        .with_context(|| format!("{what}: no answer within {LIMIT:?}"))?;
    done.with_context(|| what.to_owned())
}
