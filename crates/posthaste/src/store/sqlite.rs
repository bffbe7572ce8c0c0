//! What is particular to SQLite.

use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::{DbErr, SqlxSqliteConnector};
use sqlx::SqliteConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::postgres::Opened;
use super::private_files::{make_private_file, make_private_folder};
use super::{Class, Dialect, Pools, StoreError, StoreOptions};

/// How long another process's lock is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Between two tries at what does not wait by itself.
const AGAIN: Duration = Duration::from_millis(5);

pub(super) fn open(url: &str, options: StoreOptions) -> Result<Opened, StoreError> {
    let connect = SqliteConnectOptions::from_str(url).map_err(|error| {
        let hint = "the path is read as in a URL: write %3F for ? and %25 for %";
        StoreError::Url(format!("{url} is no SQLite URL: {error} ({hint})"))
    })?;
    if url.contains(":memory:") {
        return Err(StoreError::Url(
            "a SQLite database in memory would be another one for each connection; name a file".into(),
        ));
    }
    let path = connect.get_filename().to_owned();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_private_folder(folder)
            .map_err(|error| StoreError::Url(format!("the folder {} cannot be made: {error}", folder.display())))?;
    }
    // SQLite would let everybody read it; its journals get the modes of the file.
    if let Err(error) = make_private_file(&path) {
        // It says so itself, with more about it, where somebody needs the file.
        tracing::debug!(%error, path = %path.display(), "the file of the database was not made");
    }
    let connect = connect
        .create_if_missing(true)
        // 2xx promises that the row survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Another process may hold the write lock.
        .busy_timeout(BUSY)
        // What is deleted or written over is not left lying in the file, as far as that costs no further page.
        .pragma("secure_delete", "FAST")
        .pragma("cache_size", "-16384")
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
        .statement_cache_capacity(512)
        // A batch: with the 50 that are usual the thread of the connection stops and is woken ten times in one.
        .row_buffer_size(512)
        .disable_statement_logging();
    // One writer: SQLite has one write lock anyway, and waiting in our queue is fair where its busy handler is not.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(options.acquire)
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(use_wal(connection)))
        // On a full disk SQLite rolls back by itself and sqlx goes on counting an open transaction: what
        // follows on that connection would never commit. The ping lets the worker finish its rollback.
        .after_release(|connection, _| {
            Box::pin(async move {
                connection.ping().await?;
                Ok(!connection.is_in_transaction())
            })
        })
        .connect_lazy_with(connect.clone());
    let reader = SqlitePoolOptions::new()
        .max_connections(options.connections.min(4))
        .acquire_timeout(options.acquire)
        .test_before_acquire(false)
        .connect_lazy_with(connect.pragma("query_only", "ON"));
    Ok((
        Pools::Sqlite {
            writer: writer.clone(),
            reader: reader.clone(),
            path,
        },
        SqlxSqliteConnector::from_sqlx_sqlite_pool(writer),
        SqlxSqliteConnector::from_sqlx_sqlite_pool(reader),
        Dialect::Sqlite,
    ))
}

/// Whether the file of `url` does not exist.
pub(super) fn is_absent(url: &str) -> Result<bool, StoreError> {
    let connect = SqliteConnectOptions::from_str(url)
        .map_err(|error| StoreError::Url(format!("{url} is no SQLite URL: {error}")))?;
    let path = connect.get_filename();
    match path.metadata() {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StoreError::Url(format!("{} cannot be read: {error}", path.display()))),
    }
}

/// Stays in the file once it is there. The change alone does not wait for others who have the file open: a reader that
/// connects to a new file at the same time, or another process.
async fn use_wal(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let end = Instant::now() + BUSY;
    loop {
        let changed = sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await;
        let is_busy = |error: &sqlx::Error| {
            let code = error.as_database_error().and_then(|error| error.code());
            code.is_some_and(|code| code == "5" || code == "261")
        };
        match changed {
            Err(error) if is_busy(&error) && Instant::now() < end => tokio::time::sleep(AGAIN).await,
            changed => return changed.map(drop),
        }
    }
}

const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%f000Z','now')";

/// See [`Dialect::sql`].
pub(super) fn sql(text: &str) -> String {
    super::dialect::expand(text, |token, argument| match (token, argument) {
        ("now", _) | ("clock", None) => NOW.to_owned(),
        ("after" | "clock", Some(n)) => {
            format!("strftime('%Y-%m-%dT%H:%M:%f000Z','now',printf('%+.6f seconds', {n} / 1000000.0))")
        }
        ("json", Some(n)) => n.to_owned(),
        ("int", Some(n)) => n.to_owned(),
        ("ignore", _) => "ON CONFLICT DO NOTHING".to_owned(),
        ("upsert", Some(key)) => format!("ON CONFLICT ({key}) DO UPDATE SET"),
        ("new", Some(column)) => format!("excluded.{column}"),
        ("in", Some(n)) => format!("IN (SELECT value FROM json_each({n}))"),
        // One writer: whatever is visible is all there is below it.
        ("snapshot_xmin", _) => i64::MAX.to_string(),
        ("snapshot_xmax" | "server", _) => "0".to_owned(),
        ("row", _) => "VALUES (".to_owned(),
        ("end_row", _) => ")".to_owned(),
        ("next_parked", _) => {
            "(SELECT COALESCE(MAX(parked_seq), 0) + 1 FROM inbox_messages WHERE parked_seq IS NOT NULL)".to_owned()
        }
        ("age", Some(column)) => format!("((julianday('now') - julianday({column})) * 86400.0)"),
        // No row locks: the write lock is held from BEGIN IMMEDIATE on.
        _ => String::new(),
    })
}

/// Fixed width, so that texts compare like the times they are.
pub(super) fn time_text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

pub(super) fn parse_time(column: &str, text: &str) -> Result<DateTime<Utc>, StoreError> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.to_utc()),
        Err(error) => Err(unreadable(column, &error)),
    }
}

pub(super) fn unreadable(column: &str, error: &dyn std::error::Error) -> StoreError {
    StoreError::Statement(DbErr::Type(format!("column {column}: {error}")))
}

/// `text` is the message of the error: what does not exist has no code of its own.
pub(super) fn classify(code: i32, text: &str) -> Option<Class> {
    let missing = ["no such table", "no such column", "has no column named"];
    // The low byte is the primary result code, https://sqlite.org/rescode.html.
    match (code, code & 0xff) {
        (1555 | 2067, _) => Some(Class::Duplicate),
        // BUSY, LOCKED.
        (_, 5 | 6) => Some(Class::Collision),
        // READONLY, FULL.
        (_, 8 | 13) => Some(Class::Environment),
        (1, _) if missing.iter().any(|missing| text.contains(missing)) => Some(Class::Environment),
        // NOMEM, INTERRUPT, IOERR, CANTOPEN.
        (_, 7 | 9 | 10 | 14) => Some(Class::Unavailable),
        _ => None,
    }
}
