//! A database chosen by URL: connect, begin, run statements.
//!
//! Statements are written once with `$1…` and the tokens that [`Dialect::sql`] knows; what differs
//! between databases is in `postgres.rs`, `mysql.rs` and `sqlite.rs` and nowhere else.

pub(crate) mod action_rows;
pub(crate) mod api_key_rows;
pub(crate) mod backlog_rows;
mod classify;
pub(crate) mod dead_letter_rows;
pub(crate) mod dead_outbox_rows;
mod dialect;
pub(crate) mod erasure_rows;
mod foreign_tables;
mod gate;
pub(crate) mod idempotency_rows;
pub(crate) mod identity_rows;
pub(crate) mod idle_limit;
pub(crate) mod inbox_rows;
mod insert;
pub(crate) mod lease_rows;
mod mask_url;
mod migrate;
mod mysql;
pub(crate) mod outbox_rows;
mod owner_file;
mod page_bytes;
mod postgres;
mod private_files;
pub(crate) mod queue_rows;
pub(crate) mod retention_rows;
pub(crate) mod retry_rows;
mod row;
mod sequences;
mod snapshot;
mod sqlite;
mod suspect_connections;
mod transaction;
mod turns;
pub(crate) mod unserved_rows;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use classify::Class;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, Statement, TransactionTrait, Value};

pub use dialect::Dialect;
use gate::{DeadConnections, Gate};
pub use insert::{Column, Insert, OnConflict};
pub use mask_url::mask;
pub use migrate::{MigrateError, Migration, MigrationState, Sql};
pub(crate) use owner_file::OwnerFile;
pub use private_files::make_private_folder;
pub use row::Row;
pub(crate) use sequences::warn_of_cached;
pub(crate) use snapshot::{SNAPSHOT, Snapshot};
pub use transaction::Tx;
use turns::Turns;
pub(crate) use watch::{Signals, Wake};

use suspect_connections::note_silence;

use crate::engine::KeeperSlot;
use crate::failure::chain;
use crate::message::Message;
use crate::status::{Status, Trouble};
use crate::telemetry::metric;

/// A begin is one round trip once there is a connection.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);

/// For the text, the error and the other columns of a row with a message.
const ROOM: usize = 32 * 1024;

/// No statement may take longer; the server is told the same where it can be.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// What a store can refuse.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or has no room: nothing is known to be wrong with the statement.
    #[error("the database is not available")]
    Unavailable(#[source] DbErr),
    /// The statement or the wait for a connection took longer than allowed.
    #[error("the database did not answer within {0:?}")]
    Deadline(Duration),
    /// The database answers, but an operator has to mend it first: a table or column is missing, a permission, it is read-only
    /// or its disk is full.
    #[error("the database cannot do this as it is set up")]
    Environment(#[source] DbErr),
    /// A deadlock, serialization failure or lock time-out: the whole transaction may be tried again.
    #[error("the transaction collided with another one")]
    Collision(#[source] DbErr),
    /// A unique constraint was violated.
    #[error("a row with this key exists")]
    Duplicate(#[source] DbErr),
    /// Anything else; the statement itself is at fault.
    #[error("the statement failed")]
    Statement(#[source] DbErr),
    /// The URL names no supported database.
    #[error("{0}")]
    Url(String),
    /// The task that ran a transaction step ended without an answer (the runtime is stopping).
    #[error("the transaction's task was stopped")]
    Stopped,
}

impl StoreError {
    /// Whether the database, not the statement or its data, is the cause.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Deadline(_) | Self::Stopped)
    }

    /// Whether nothing is known to be wrong with the statement: as [`StoreError::is_unavailable`], or the database is there
    /// and has to be mended.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_unavailable() || matches!(self, Self::Environment(_))
    }
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Most connections; for SQLite, which has one writer always, most readers.
    pub connections: u32,
    /// How long to wait for a free connection.
    pub acquire: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connections: 10,
            acquire: Duration::from_secs(5),
        }
    }
}

/// A database. Cheap to clone; opening it does not connect, so that a process starts in any order.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    pools: Pools,
    dialect: Dialect,
    display: String,
    options: StoreOptions,
    gate: Gate,
    signals: Signals,
    retries: Turns,
    keeper: KeeperSlot,
    status: Arc<Status>,
    /// Bytes of the largest statement that the server takes, as far as it is known.
    largest: Arc<AtomicU64>,
}

/// The pools below SeaORM, for what it does not pass on: sizes, LISTEN, PRAGMA.
enum Pools {
    Postgres(sqlx::PgPool),
    Mysql(sqlx::MySqlPool),
    Sqlite {
        writer: sqlx::SqlitePool,
        reader: sqlx::SqlitePool,
        path: std::path::PathBuf,
    },
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.0.display).finish()
    }
}

impl Store {
    /// Opens the database behind `url` (`sqlite:path`, `postgres://…`, `mysql://…`) without connecting yet.
    /// A SQLite file and its folder are created.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL is not understood or a SQLite folder cannot be made.
    pub fn open(url: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let largest = Arc::new(AtomicU64::new(u64::MAX));
        let (pools, writer, reader, dialect) = match url.split(':').next() {
            Some("postgres" | "postgresql") => postgres::open(url, options)?,
            Some("mysql" | "mariadb") => mysql::open(url, options, &largest)?,
            Some("sqlite") => sqlite::open(url, options)?,
            _ => {
                return Err(StoreError::Url(format!(
                    "{} is no database URL; write sqlite:PATH, postgres://USER:PASSWORD@HOST/NAME or mysql://USER:PASSWORD@HOST/NAME",
                    mask(url)
                )));
            }
        };
        let signals = Signals::default();
        Ok(Self(Arc::new(Inner {
            writer,
            reader,
            pools,
            dialect,
            display: mask(url),
            options,
            gate: Gate::default(),
            signals,
            retries: Turns::of(options.connections),
            keeper: KeeperSlot::default(),
            status: Arc::default(),
            largest,
        })))
    }

    /// Whether `url` names a SQLite file that does not exist: [`Store::open`] would create it. Servers are not asked.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL is not understood or its folder cannot be read.
    pub fn is_absent(url: &str) -> Result<bool, StoreError> {
        if url.starts_with("sqlite:") {
            sqlite::is_absent(url)
        } else {
            Ok(false)
        }
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// The URL without its password, for banners and logs.
    pub fn display(&self) -> &str {
        &self.0.display
    }

    /// What does not work on this database and its queues, as the loops of this process know it. Writes the gauge
    /// `posthaste_consumer_reading`.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.0.status.troubles()
    }

    /// Why a write failed, as an operator reads it.
    pub(crate) fn why_not_written(&self, error: &StoreError) -> String {
        use StoreError::{Collision, Deadline, Unavailable};
        match (self.dialect(), error) {
            // Waiting for the only writer of this process is waiting for the file, too.
            (Dialect::Sqlite, Collision(_) | Deadline(_) | Unavailable(DbErr::ConnectionAcquire(_))) => {
                "the write lock of the SQLite file is held by another process, or by a long transaction of this one"
                    .to_owned()
            }
            _ => chain(error),
        }
    }

    pub(crate) fn status(&self) -> &Arc<Status> {
        &self.0.status
    }

    /// Bytes of the largest statement that the server takes, its values included.
    pub(crate) fn largest_statement(&self) -> u64 {
        self.0.largest.load(Relaxed)
    }

    /// Whether a row with `message` can be written.
    pub(crate) fn takes(&self, message: &Message) -> bool {
        let bytes = message.body.len() + message.envelope_bytes() + ROOM;
        bytes as u64 <= self.largest_statement()
    }

    /// Turns for retries that hold a connection.
    pub(crate) fn retries(&self) -> &Turns {
        &self.0.retries
    }

    /// The wake-ups of this store's loops; commits of this process ring them.
    pub(crate) fn signals(&self) -> &Signals {
        &self.0.signals
    }

    pub(crate) fn keeper(&self) -> &KeeperSlot {
        &self.0.keeper
    }

    /// Begins a transaction that may write (SQLite: `BEGIN IMMEDIATE`).
    ///
    /// The begin itself runs in a task of its own: a caller that goes away in the middle would
    /// otherwise leave an open transaction in the pool (sqlx #4385).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Deadline`] while the database is away; at once when another
    /// caller is finding that out already.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        if !self.0.gate.enter() {
            let away = "the database was away just now".to_owned();
            return Err(StoreError::Unavailable(DbErr::Custom(away)));
        }
        let inner = self.0.clone();
        let started = Instant::now();
        let limit = inner.options.acquire + BEGIN_DEADLINE;
        let begun = tokio::spawn(async move {
            let begin = async {
                let mut dead = DeadConnections::among(inner.options.connections);
                loop {
                    let asked = Instant::now();
                    let options = inner.dialect.transaction_options();
                    match inner.writer.begin_with_options(options).await.map_err(StoreError::from) {
                        Err(error) if dead.is_one(&error, asked) => {}
                        begun => return begun,
                    }
                }
            };
            match tokio::time::timeout(limit, begin).await {
                Ok(begun) => begun,
                Err(_elapsed) => {
                    note_silence();
                    Err(StoreError::Deadline(limit))
                }
            }
        });
        let begun = begun.await.unwrap_or(Err(StoreError::Stopped));
        self.0
            .gate
            .found(!matches!(&begun, Err(error) if error.is_unavailable()));
        let tx = begun.inspect_err(|_| metrics::counter!(metric::POOL_TIMEOUTS).increment(1))?;
        metrics::histogram!(metric::POOL_WAIT).record(started.elapsed());
        Ok(Tx {
            idle_limit: idle_limit::Changed::default(),
            tx,
            store: self.clone(),
            wake: Wake::default(),
            ended: AtomicBool::new(false),
            lent: AtomicBool::new(false),
        })
    }

    /// Rows of a statement that only reads, outside any transaction.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn query(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let mut dead = DeadConnections::among(self.0.options.connections);
        loop {
            let asked = Instant::now();
            match query_on(&self.0.reader, self.0.dialect, sql, values.clone()).await {
                Err(error) if dead.is_one(&error, asked) => {}
                Err(error) => return Err(error),
                Ok(rows) => {
                    self.0.gate.found(true);
                    return Ok(rows);
                }
            }
        }
    }

    /// Executes one statement in a transaction of its own; answers the number of rows it changed.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn execute(&self, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        let tx = self.begin().await?;
        let changed = tx.execute(sql, values).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Asks the database for an answer within `limit`.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn ping(&self, limit: Duration) -> Result<(), StoreError> {
        match tokio::time::timeout(limit, self.query("SELECT 1", vec![])).await {
            Ok(answer) => answer.map(drop),
            Err(_elapsed) => {
                note_silence();
                Err(StoreError::Deadline(limit))
            }
        }
    }

    /// Writes the pool's state into the gauges.
    pub fn record_pool(&self) {
        let (size, idle) = match &self.0.pools {
            Pools::Postgres(pool) => (pool.size(), pool.num_idle()),
            Pools::Mysql(pool) => (pool.size(), pool.num_idle()),
            Pools::Sqlite { writer, reader, .. } => {
                (writer.size() + reader.size(), writer.num_idle() + reader.num_idle())
            }
        };
        let used = f64::from(size) - idle as f64;
        let name = self.display().to_owned();
        metrics::gauge!(metric::POOL_COUNT, "db_client_connection_state" => "idle", "db_client_connection_pool_name" => name.clone())
            .set(idle as f64);
        metrics::gauge!(metric::POOL_COUNT, "db_client_connection_state" => "used", "db_client_connection_pool_name" => name.clone())
            .set(used.max(0.0));
        metrics::gauge!(metric::POOL_MAX, "db_client_connection_pool_name" => name)
            .set(f64::from(self.0.options.connections));
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match &self.0.pools {
            Pools::Postgres(pool) => pool.close().await,
            Pools::Mysql(pool) => pool.close().await,
            Pools::Sqlite { writer, reader, .. } => {
                reader.close().await;
                writer.close().await;
            }
        }
    }
}

async fn query_on<C: ConnectionTrait>(
    connection: &C,
    dialect: Dialect,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<Row>, StoreError> {
    let rows = timed("query", connection.query_all_raw(statement(dialect, sql, values))).await?;
    Ok(rows.into_iter().map(|row| Row::new(row, dialect)).collect())
}

fn statement(dialect: Dialect, sql: &str, values: Vec<Value>) -> Statement {
    // The long texts of multi-row inserts come expanded.
    let text = if sql.contains('{') {
        dialect.sql(sql)
    } else {
        sql.to_owned()
    };
    let (text, values) = match dialect {
        Dialect::Mysql if text.contains('$') => mysql::bind(&text, values),
        _ => (text, values),
    };
    Statement::from_sql_and_values(dialect.backend(), text, values)
}

async fn timed<T>(operation: &'static str, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    let started = Instant::now();
    let result = tokio::time::timeout(STATEMENT_DEADLINE, work).await;
    metrics::histogram!(metric::DB_OPERATION, "db_operation_name" => operation).record(started.elapsed());
    match result {
        Ok(result) => Ok(result?),
        Err(_elapsed) => {
            note_silence();
            Err(StoreError::Deadline(STATEMENT_DEADLINE))
        }
    }
}
