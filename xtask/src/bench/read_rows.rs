//! The database's own limit, and what arrived in it.

use std::fmt::Write;
use std::str::FromStr;
use std::time::Instant;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use uuid::Uuid;

/// Rows per statement and commit.
const CHUNK: usize = 500;

/// A connection of the measurement's own to the measured database.
pub enum Raw {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Raw {
    /// Connects to `url`; SQLite as posthaste does, with `synchronous=FULL`.
    pub async fn open(url: &str) -> Result<Self> {
        if url.starts_with("postgres") {
            return Ok(Self::Postgres(PgConnection::connect(url).await?));
        }
        let options = SqliteConnectOptions::from_str(url)?
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(10));
        Ok(Self::Sqlite(options.connect().await?))
    }

    /// Rows of the product's own shape and key, `count` of them in multi-row statements; rows per second.
    pub async fn insert(&mut self, count: usize) -> Result<f64> {
        let kind = if matches!(self, Self::Postgres(_)) {
            "(LIKE processed_events INCLUDING ALL)"
        } else {
            "(id TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL, event_type TEXT NOT NULL, message TEXT NOT NULL,
              payload TEXT, status TEXT NOT NULL, created_at TEXT NOT NULL, processed_at TEXT NOT NULL);
             CREATE INDEX raw_rows_by_time ON raw_rows (created_at, id);
             CREATE INDEX raw_rows_by_user ON raw_rows (user_id, created_at, id)"
        };
        self.execute(format!("DROP TABLE IF EXISTS raw_rows; CREATE TABLE raw_rows {kind}"))
            .await?;
        let mut statements = Vec::new();
        for start in (0..count).step_by(CHUNK) {
            let mut sql = "INSERT INTO raw_rows VALUES ".to_owned();
            for row in start..(start + CHUNK).min(count) {
                let comma = if row == start { "" } else { "," };
                let (id, at) = (Uuid::now_v7(), "2026-01-01T00:00:00.000000Z");
                write!(
                    sql,
                    "{comma}('{id}','550e8400-e29b-41d4-a716-446655440000','user_registered','Welcome!',NULL,'PROCESSED','{at}','{at}')"
                )?;
            }
            statements.push(sql);
        }
        let start = Instant::now();
        for sql in statements {
            self.execute(sql).await?;
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// How many events were recorded.
    pub async fn recorded(&mut self) -> Result<i64> {
        let sql = "SELECT COUNT(*) FROM processed_events";
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_one(connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_one(connection).await?,
        })
    }

    /// The ids of all recorded events.
    pub async fn recorded_ids(&mut self) -> Result<Vec<Uuid>> {
        let sql = "SELECT CAST(id AS TEXT) FROM processed_events";
        let ids: Vec<String> = match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
        };
        ids.iter().map(|id| Ok(Uuid::parse_str(id)?)).collect()
    }

    /// From the making of each recorded event, but for the first `skipped`, to its recording: ms, ascending.
    ///
    /// Both are read from this machine's clock. SQLite's recording is cut to milliseconds: 1 is added, so that
    /// none looks faster than it was.
    pub async fn delays(&mut self, skipped: usize) -> Result<Vec<f64>> {
        let mut delays = Vec::new();
        match self {
            Self::Postgres(connection) => {
                let sql = "SELECT created_at, processed_at FROM processed_events ORDER BY created_at";
                let rows: Vec<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(sql).fetch_all(connection).await?;
                delays.extend(
                    rows.iter()
                        .skip(skipped)
                        .map(|(made, done)| milliseconds(*done - *made)),
                );
            }
            Self::Sqlite(connection) => {
                let sql = "SELECT created_at, processed_at FROM processed_events ORDER BY created_at";
                let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(connection).await?;
                for (made, done) in rows.iter().skip(skipped) {
                    let delay = DateTime::parse_from_rfc3339(done)? - DateTime::parse_from_rfc3339(made)?;
                    delays.push(milliseconds(delay) + 1.0);
                }
            }
        }
        delays.sort_unstable_by(f64::total_cmp);
        Ok(delays)
    }

    /// How many transactions PostgreSQL counted in this database; SQLite counts none.
    pub async fn transactions(&mut self) -> Result<Option<i64>> {
        let Self::Postgres(connection) = self else {
            return Ok(None);
        };
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        // Otherwise this connection's own share would be told up to a minute late.
        connection.execute("SELECT pg_stat_force_next_flush()").await?;
        Ok(Some(sqlx::query_scalar(sql).fetch_one(connection).await?))
    }

    /// The database's version.
    pub async fn version(&mut self) -> Result<String> {
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar("SHOW server_version").fetch_one(connection).await?,
            Self::Sqlite(connection) => {
                sqlx::query_scalar("SELECT sqlite_version()")
                    .fetch_one(connection)
                    .await?
            }
        })
    }

    async fn execute(&mut self, sql: String) -> Result<()> {
        match self {
            Self::Postgres(connection) => {
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            }
            Self::Sqlite(connection) => {
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            }
        }
        Ok(())
    }
}

fn milliseconds(delay: TimeDelta) -> f64 {
    delay.as_seconds_f64() * 1e3
}
