//! A database of a scenario's own, on a server of its own, and the processes that work on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use posthaste::store::Row;
use posthaste::{Store, StoreOptions};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::{PostgresUrl, PrivateMysql, PrivatePostgres};
use tokio::process::Command;

use super::read_proc;
use crate::run_binary::Running;

/// The first port that is tried for a server.
const POSTGRES_PORT: u16 = 27_900;
const MYSQL_PORT: u16 = 28_000;

/// Which kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Database {
    Sqlite,
    Postgres,
    Mysql,
}

/// What keeps a database running.
enum Server {
    Sqlite,
    Postgres(PrivatePostgres),
    Mysql(PrivateMysql),
}

/// A migrated database, durable as its server comes, and a folder for the processes.
pub struct Place {
    database: TestDatabase,
    store: Store,
    binary: PathBuf,
    folder: PathBuf,
    // After the database, which is removed from it.
    server: Server,
}

impl Place {
    /// Starts a server and migrates a database on it. The folder is named after `scenario` and stays afterwards.
    ///
    /// # Errors
    /// When the server or the folder cannot be made, or the migration fails.
    pub async fn prepare(binary: &Path, kind: Database, scenario: &str) -> Result<Self> {
        let server = match kind {
            Database::Sqlite => Server::Sqlite,
            Database::Postgres => Server::Postgres(PrivatePostgres::launch(POSTGRES_PORT).await?),
            Database::Mysql => Server::Mysql(PrivateMysql::launch(MYSQL_PORT).await?),
        };
        let database = match &server {
            Server::Sqlite => TestDatabase::sqlite()?,
            Server::Postgres(server) => TestDatabase::on(PostgresUrl::parse(server.url())?).await?,
            Server::Mysql(server) => TestDatabase::on_mysql(server.url().clone()).await?,
        };
        let target = std::env::current_exe()?;
        let target = target.ancestors().nth(2).context("no target directory")?;
        let folder = target.join("torture").join(format!("{scenario}-{kind:?}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let place = Self {
            store: Store::open(database.url(), StoreOptions::default())?,
            database,
            binary: binary.to_owned(),
            folder,
            server,
        };
        place.command(&["migrate", "up"]).await?;
        Ok(place)
    }

    /// The database's URL.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// The database, for what a scenario writes and looks at itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where the processes run and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts `posthaste serve` with more `arguments`, over `broker`, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in 30 s.
    pub async fn serve(&self, arguments: &[&str], broker: Option<&str>) -> Result<Running> {
        let mut settings = vec![("DATABASE_URL", self.url()), ("LOG_LEVEL", "warn")];
        settings.extend(broker.map(|url| ("BROKER_URL", url)));
        self.serve_with(arguments, &settings).await
    }

    /// The same with `settings` alone.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Result<Running> {
        let arguments: Vec<&str> = std::iter::once("serve").chain(arguments.iter().copied()).collect();
        Running::start_with(&self.binary, &arguments, settings, &self.folder).await
    }

    /// Runs `posthaste` with `arguments`; what it prints.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new(&self.binary)
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("DATABASE_URL", self.url())
            .kill_on_drop(true)
            .output()
            .await
            .context("the binary does not start")?;
        ensure!(
            done.status.success(),
            "posthaste {} ended with {}: {}",
            arguments.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(String::from_utf8(done.stdout)?)
    }

    /// The first row that `sql` finds.
    ///
    /// # Errors
    /// When there is none, or the database refuses.
    pub async fn row(&self, sql: &str) -> Result<Row> {
        let rows = self.store.query(sql, Vec::new()).await?;
        rows.into_iter().next().with_context(|| format!("no row: {sql}"))
    }

    /// The number that `sql` selects as `n`.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.row(sql).await?.get("n")?)
    }

    /// The database server's first process; `None` for SQLite.
    ///
    /// # Errors
    /// When the server does not say.
    pub async fn server_process(&self) -> Result<Option<u32>> {
        Ok(match self.server {
            Server::Sqlite => None,
            Server::Postgres(_) => {
                let session: i32 = self.row("SELECT pg_backend_pid() AS n").await?.get("n")?;
                Some(read_proc::parent(session.cast_unsigned())?)
            }
            Server::Mysql(_) => {
                let file: String = self.row("SELECT @@pid_file AS name").await?.get("name")?;
                let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
                Some(text.trim().parse()?)
            }
        })
    }

    /// Removes the database and its server.
    ///
    /// # Errors
    /// When the database cannot be removed.
    pub async fn finish(self) -> Result<()> {
        self.store.close().await;
        self.database.finish().await?;
        drop(self.server);
        Ok(())
    }
}
