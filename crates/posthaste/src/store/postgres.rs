//! What is particular to PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{Class, Dialect, Pools, StoreError, StoreOptions, idle_limit, mask};

pub(super) type Opened = (Pools, DatabaseConnection, DatabaseConnection, Dialect);

pub(super) fn open(url: &str, options: StoreOptions) -> Result<Opened, StoreError> {
    let session_limit = format!("{}s", idle_limit::SESSION.as_secs());
    let connect = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Url(format!("{} is no PostgreSQL URL: {error}", mask(url))))?
        .application_name("posthaste")
        .statement_cache_capacity(512)
        // The server ends what our own deadline has given up on, so that no lock outlives it.
        .options([
            ("statement_timeout", "30s"),
            ("lock_timeout", "10s"),
            ("client_min_messages", "warning"),
            ("idle_in_transaction_session_timeout", session_limit.as_str()),
        ])
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(options.connections)
        .acquire_timeout(options.acquire)
        // A round trip per checkout; a dead connection shows at its first statement and is retried above.
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(super::suspect_connections::still_answers(connection)))
        .max_lifetime(Duration::from_secs(1800))
        .connect_lazy_with(connect);
    let connection = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone());
    Ok((Pools::Postgres(pool), connection.clone(), connection, Dialect::Postgres))
}

/// See [`Dialect::sql`].
pub(super) fn sql(text: &str) -> String {
    super::dialect::expand(text, |token, argument| match (token, argument) {
        ("now", _) => "clock_timestamp()".to_owned(),
        ("after", Some(n)) => format!("(clock_timestamp() + {n} * interval '1 microsecond')"),
        // One value per statement: only such a one can bound an index scan.
        ("clock", None) => "(SELECT clock_timestamp())".to_owned(),
        ("clock", Some(n)) => format!("(SELECT clock_timestamp() + {n} * interval '1 microsecond')"),
        ("skip_locked", _) => "FOR UPDATE SKIP LOCKED".to_owned(),
        // Does not conflict with an update that leaves the key alone: a renewal.
        ("for_share", _) => "FOR KEY SHARE".to_owned(),
        ("for_update", _) => "FOR UPDATE".to_owned(),
        ("limit_idle", Some(milliseconds)) => {
            format!(", set_config('idle_in_transaction_session_timeout', '{milliseconds}', true)")
        }
        ("json", Some(n)) => format!("CAST({n} AS jsonb)"),
        ("int", Some(n)) => format!("CAST({n} AS bigint)"),
        ("ignore", _) => "ON CONFLICT DO NOTHING".to_owned(),
        ("upsert", Some(key)) => format!("ON CONFLICT ({key}) DO UPDATE SET"),
        ("new", Some(column)) => format!("excluded.{column}"),
        ("in", Some(n)) => format!("= ANY({n})"),
        ("snapshot_xmin", _) => "(SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint)".to_owned(),
        ("server", _) => "(SELECT (EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000)::bigint)".to_owned(),
        ("snapshot_xmax", _) => "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)".to_owned(),
        ("row", _) => "VALUES (".to_owned(),
        ("end_row", _) => ")".to_owned(),
        ("next_parked", _) => "nextval('inbox_parked_seq')".to_owned(),
        ("age", Some(column)) => format!("CAST(EXTRACT(EPOCH FROM clock_timestamp() - {column}) AS double precision)"),
        _ => String::new(),
    })
}

pub(super) fn classify(code: &str) -> Option<Class> {
    match code {
        "23505" => Some(Class::Duplicate),
        "40001" | "40P01" | "55P03" => Some(Class::Collision),
        // Our own limit on a transaction that stands still: the process did, not the message.
        "25P03" | "25P04" => Some(Class::Unavailable),
        // Our own statement_timeout or an operator's cancel.
        "57014" => Some(Class::Deadline),
        // Table, column, schema, database; permission; read-only; disk full.
        "42P01" | "42703" | "3F000" | "3D000" | "42501" | "25006" | "53100" => Some(Class::Environment),
        // Authentication.
        _ if code.starts_with("28") => Some(Class::Environment),
        // Connection, resources (memory, too many connections), shutdown, system.
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Some(Class::Unavailable),
        _ => None,
    }
}
