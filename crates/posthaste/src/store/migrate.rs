//! Schema versions: one set for the core and one for each service, each set applied in one
//! transaction under a lock, so that two processes that start together do not collide.
//!
//! On MySQL every DDL statement commits by itself: a step that was cut off is run once more from its
//! start, so its statements have to be such that this does no harm (`CREATE TABLE IF NOT EXISTS`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, Value};

use super::{Dialect, Store, StoreError, Tx};

/// A statement text per database.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// For PostgreSQL.
    pub postgres: &'static str,
    /// For SQLite.
    pub sqlite: &'static str,
    /// For MySQL and MariaDB; harmless when run a second time.
    pub mysql: &'static str,
}

impl Sql {
    /// A text that every database understands.
    pub const fn same(text: &'static str) -> Self {
        Self {
            postgres: text,
            sqlite: text,
            mysql: text,
        }
    }

    fn of(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Postgres => self.postgres,
            Dialect::Sqlite => self.sqlite,
            Dialect::Mysql => self.mysql,
        }
    }
}

/// One step of a schema; never changed once released.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Ascending within its set, from 1.
    pub version: i64,
    /// What it does, for `migrate status`.
    pub name: &'static str,
    /// Applies it.
    pub up: Sql,
    /// Takes it back, data included.
    pub down: Sql,
}

impl Migration {
    /// Step `version` of its set.
    pub const fn new(version: i64, name: &'static str, up: Sql, down: Sql) -> Self {
        Self {
            version,
            name,
            up,
            down,
        }
    }
}

/// A migration and whether this database has it.
#[derive(Clone, Debug)]
pub struct MigrationState {
    /// As in [`Migration`].
    pub version: i64,
    /// As in [`Migration`].
    pub name: String,
    /// `None` while it is pending.
    pub applied_at: Option<DateTime<Utc>>,
}

/// Why a schema could not be brought to where it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A migration failed; nothing of its set was applied (on MySQL: nothing that counts as applied).
    #[error("migration {set}/{version} ({name}) failed")]
    Step {
        /// Its set.
        set: String,
        /// Its version.
        version: i64,
        /// Its name.
        name: &'static str,
        /// What the database said.
        #[source]
        source: StoreError,
    },
}

/// Any number will do as long as every posthaste takes the same one.
const LOCK: &str = "SELECT CAST(pg_advisory_xact_lock(7406871) AS text)";
/// Of the session, not of the transaction, which the first DDL statement ends. Names are the server's, not
/// the database's, and at most 64 characters long. SHA2 because MySQL 9.6 and later have no MD5.
const LOCK_MYSQL: &str = "SELECT GET_LOCK(CONCAT('posthaste ', LEFT(SHA2(DATABASE(), 256), 40)), 25) AS locked";
const UNLOCK_MYSQL: &str = "SELECT RELEASE_LOCK(CONCAT('posthaste ', LEFT(SHA2(DATABASE(), 256), 40))) AS unlocked";
/// A little more than the lock waits.
const LOCK_LIMIT: Duration = Duration::from_secs(25);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    set_name VARCHAR(64) NOT NULL, version BIGINT NOT NULL, name VARCHAR(255) NOT NULL,
    applied_at VARCHAR(40) NOT NULL, PRIMARY KEY (set_name, version))";

impl Store {
    /// Applies what is pending of `migrations`; answers the versions it applied.
    ///
    /// # Errors
    /// When the database is away or a step fails; then nothing was applied.
    pub async fn migrate_up(&self, set: &str, migrations: &[Migration]) -> Result<Vec<i64>, MigrateError> {
        let tx = self.locked().await?;
        let done = up(&tx, set, migrations).await;
        finish(tx, done).await
    }

    /// Takes back the newest applied migration of `migrations`, its data included; answers its version.
    ///
    /// # Errors
    /// When the database is away or the step fails; then nothing was taken back.
    pub async fn migrate_down(&self, set: &str, migrations: &[Migration]) -> Result<Option<i64>, MigrateError> {
        let tx = self.locked().await?;
        let done = down(&tx, set, migrations).await;
        finish(tx, done).await
    }

    /// Which of `migrations` this database has.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn migration_state(
        &self,
        set: &str,
        migrations: &[Migration],
    ) -> Result<Vec<MigrationState>, StoreError> {
        let exists = match self.dialect() {
            Dialect::Postgres => "SELECT 1 AS found WHERE to_regclass('schema_migrations') IS NOT NULL",
            Dialect::Sqlite => "SELECT 1 AS found FROM sqlite_master WHERE name = 'schema_migrations'",
            Dialect::Mysql => {
                "SELECT 1 AS found FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = 'schema_migrations'"
            }
        };
        let rows = if self.query(exists, vec![]).await?.is_empty() {
            Vec::new()
        } else {
            self.query(APPLIED, vec![set.into()])
                .await?
                .iter()
                .map(read_applied)
                .collect::<Result<_, _>>()?
        };
        let state = |migration: &Migration| MigrationState {
            version: migration.version,
            name: migration.name.to_owned(),
            applied_at: rows
                .iter()
                .find(|(version, _)| *version == migration.version)
                .and_then(|(_, at)| *at),
        };
        Ok(migrations.iter().map(state).collect())
    }

    async fn locked(&self) -> Result<Tx, StoreError> {
        let tx = self.begin().await?;
        match self.dialect() {
            Dialect::Postgres => drop(tx.query(LOCK, vec![]).await?),
            Dialect::Sqlite => {}
            Dialect::Mysql => {
                let rows = tx.query(LOCK_MYSQL, vec![]).await?;
                let locked: Option<i32> = rows.first().map_or(Ok(None), |row| row.get("locked"))?;
                if locked != Some(1) {
                    return Err(StoreError::Deadline(LOCK_LIMIT));
                }
            }
        }
        match tx.execute(TABLE, vec![]).await {
            Ok(_) => Ok(tx),
            Err(error) => finish(tx, Err(error)).await,
        }
    }
}

/// Commits what went well, and lets the next one in.
async fn finish<T, E: From<StoreError>>(tx: Tx, done: Result<T, E>) -> Result<T, E> {
    if tx.dialect() == Dialect::Mysql {
        // A lock that stays would stay with the pooled connection.
        let unlocked = tx.query(UNLOCK_MYSQL, vec![]).await;
        let value = done?;
        unlocked?;
        tx.commit().await?;
        return Ok(value);
    }
    let value = done?;
    tx.commit().await?;
    Ok(value)
}

async fn up(tx: &Tx, set: &str, migrations: &[Migration]) -> Result<Vec<i64>, MigrateError> {
    let applied = applied(tx, set).await?;
    let mut done = Vec::new();
    for migration in migrations {
        if applied.iter().any(|(version, _)| *version == migration.version) {
            continue;
        }
        run(tx, set, migration, migration.up).await?;
        let values = vec![
            set.into(),
            migration.version.into(),
            migration.name.into(),
            Value::from(crate::message::now().to_rfc3339()),
        ];
        let insert = "INSERT INTO schema_migrations (set_name, version, name, applied_at) VALUES ($1, $2, $3, $4)";
        tx.execute(insert, values).await?;
        done.push(migration.version);
    }
    Ok(done)
}

async fn down(tx: &Tx, set: &str, migrations: &[Migration]) -> Result<Option<i64>, MigrateError> {
    let Some((newest, _)) = applied(tx, set).await?.pop() else {
        return Ok(None);
    };
    let Some(migration) = migrations.iter().find(|migration| migration.version == newest) else {
        return Ok(None);
    };
    run(tx, set, migration, migration.down).await?;
    tx.execute(
        "DELETE FROM schema_migrations WHERE set_name = $1 AND version = $2",
        vec![set.into(), newest.into()],
    )
    .await?;
    Ok(Some(newest))
}

async fn run(tx: &Tx, set: &str, migration: &Migration, sql: Sql) -> Result<(), MigrateError> {
    match tx.tx.execute_unprepared(sql.of(tx.dialect())).await {
        Ok(_) => Ok(()),
        Err(error) => Err(MigrateError::Step {
            set: set.to_owned(),
            version: migration.version,
            name: migration.name,
            source: error.into(),
        }),
    }
}

const APPLIED: &str = "SELECT version, applied_at FROM schema_migrations WHERE set_name = $1 ORDER BY version";

async fn applied(tx: &Tx, set: &str) -> Result<Vec<(i64, Option<DateTime<Utc>>)>, StoreError> {
    tx.query(APPLIED, vec![set.into()])
        .await?
        .iter()
        .map(read_applied)
        .collect()
}

fn read_applied(row: &super::Row) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
    let at: String = row.get("applied_at")?;
    Ok((
        row.get("version")?,
        DateTime::parse_from_rfc3339(&at).ok().map(|at| at.to_utc()),
    ))
}
