//! Brings a database to the schema that its services need, or says what is missing.

use std::time::Duration;

use posthaste::StoreError;
use posthaste::failure::chain;
use posthaste::store::{Dialect, MigrateError};
use tokio_util::sync::CancellationToken;

use crate::open_services::Database;

/// How long a database may take to answer before the process starts without it.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Between looks for a database that is away.
const RETRY: Duration = Duration::from_millis(500);
/// Between looks at one that lacks its schema, or refuses it.
const SLOW_RETRY: Duration = Duration::from_secs(5);

/// Where a database's schema stands.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Everything is applied.
    Ready,
    /// These migrations are missing and may not be applied here.
    Pending(Vec<String>),
    /// The database does not answer.
    Away(StoreError),
}

/// Whether migrations are applied at the start: always on SQLite, which nobody else administers.
pub(crate) fn applies(database: &Database, migrate: bool) -> bool {
    migrate || database.store.dialect() == Dialect::Sqlite
}

/// Looks, and applies what is missing if `apply`.
pub(crate) async fn verify(database: &Database, apply: bool) -> Result<Verdict, MigrateError> {
    if let Err(error) = database.store.ping(FIRST_ANSWER).await {
        return Ok(Verdict::Away(error));
    }
    match look(database, apply).await {
        Err(MigrateError::Store(error)) if error.is_unavailable() => Ok(Verdict::Away(error)),
        other => other,
    }
}

async fn look(database: &Database, apply: bool) -> Result<Verdict, MigrateError> {
    if apply {
        for (set, migrations) in &database.sets {
            database.store.check_tables(set, migrations).await?;
        }
    }
    let mut pending = Vec::new();
    for (set, migrations) in &database.sets {
        // Reading first keeps a start on a migrated database from waiting for a write lock.
        let states = database.store.migration_state(set, migrations).await?;
        let missing = states.iter().filter(|state| state.applied_at.is_none());
        let missing: Vec<String> = missing
            .map(|state| format!("{set}/{} {}", state.version, state.name))
            .collect();
        if missing.is_empty() {
            continue;
        }
        if !apply {
            pending.extend(missing);
            continue;
        }
        for version in database.store.migrate_up(set, migrations).await? {
            tracing::info!(set, version, database = database.store.display(), "migration applied");
        }
    }
    Ok(if pending.is_empty() {
        Verdict::Ready
    } else {
        Verdict::Pending(pending)
    })
}

/// Looks again and again until the schema is there; `false` when `stop` came first.
pub(crate) async fn verify_until(database: &Database, apply: bool, stop: &CancellationToken) -> bool {
    let mut said = String::new();
    loop {
        let (trouble, pause) = match verify(database, apply).await {
            Ok(Verdict::Ready) => {
                tracing::info!(
                    database = database.store.display(),
                    "the database is there, its schema is complete"
                );
                return true;
            }
            Ok(Verdict::Pending(missing)) => (missing_sentence(&missing), SLOW_RETRY),
            Ok(Verdict::Away(error)) => (chain(&error), RETRY),
            Err(error) => (chain(&error), SLOW_RETRY),
        };
        // Once per kind of trouble: it may last for hours.
        if trouble != said {
            tracing::error!(
                database = database.store.display(),
                error = trouble,
                "waiting for the database; the workers start when it is ready"
            );
            said = trouble;
        }
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return false;
        }
    }
}

/// Says what is missing and what to do about it.
pub(crate) fn missing_sentence(missing: &[String]) -> String {
    format!(
        "the schema lacks {}; run `migrate up` of this program, or start it with --migrate",
        missing.join(", ")
    )
}
