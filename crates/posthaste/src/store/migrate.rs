//! Schema versions: one set for the core and one for each service, each set applied in one
//! transaction under a lock, so that two processes that start together do not collide.
//!
//! On MySQL every DDL statement commits by itself: a step that was cut off is run once more from its
//! start, so its statements have to be such that this does no harm (`CREATE TABLE IF NOT EXISTS`).
//! The attempt is recorded first, so that tables that the step left are told from somebody else's.
//!
//! A step never takes a table that exists: it is refused before anything is changed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, Value};

use super::{Dialect, Store, StoreError, Tx, foreign_tables, timed};

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
    /// Tables of these names exist and were not created by the migrations; nothing was changed.
    #[error(
        "migrations of {set} create {}, which exists here already and is not theirs; nothing was changed. \
         Use a database of its own",
        tables.join(", ")
    )]
    Foreign {
        /// Whose migrations.
        set: String,
        /// The tables that are there.
        tables: Vec<String>,
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
const LIST: &str = "schema_migrations";
/// Fails where a table of that name belongs to another program.
const IS_OURS: &str = "SELECT set_name, version, name, applied_at FROM schema_migrations WHERE 1 = 0";
const ATTEMPTS: &str = "posthaste_schema_attempts";
/// Steps that were begun and not completed: only MySQL keeps what such a step has created.
const ATTEMPTS_MYSQL: &str = "CREATE TABLE IF NOT EXISTS posthaste_schema_attempts (
    set_name VARCHAR(64) NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (set_name, version))";

/// A step may take as long as it needs, for example to build an index; its waits for locks stay bounded.
const UNLIMITED_POSTGRES: &str = "SET LOCAL statement_timeout = 0";
const UNLIMITED_MYSQL: &str = "SET SESSION lock_wait_timeout = 10 /*M! , max_statement_time = 0 */";
/// As `mysql.rs` sets it for every connection.
const LIMITED_MYSQL: &str = "SET SESSION lock_wait_timeout = DEFAULT /*M! , max_statement_time = 30 */";

impl Store {
    /// Applies what is pending of `migrations`; answers the versions it applied.
    ///
    /// # Errors
    /// When the database is away or a step fails; then nothing was applied.
    pub async fn migrate_up(&self, set: &str, migrations: &[Migration]) -> Result<Vec<i64>, MigrateError> {
        let tx = self.locked(set).await?;
        let done = up(&tx, set, migrations).await;
        finish(tx, done).await
    }

    /// Takes back the newest applied migration of `migrations`, its data included; answers its version.
    ///
    /// # Errors
    /// When the database is away or the step fails; then nothing was taken back.
    pub async fn migrate_down(&self, set: &str, migrations: &[Migration]) -> Result<Option<i64>, MigrateError> {
        let tx = self.locked(set).await?;
        let done = down(&tx, set, migrations).await;
        finish(tx, done).await
    }

    /// Whether `migrations` can be applied without taking a table that is somebody else's; nothing is changed. For several
    /// sets, before the first of them is applied.
    ///
    /// # Errors
    /// [`MigrateError::Foreign`] if not, and when the database is away.
    pub async fn check_tables(&self, set: &str, migrations: &[Migration]) -> Result<(), MigrateError> {
        if self.partition(set, migrations).await?.1.is_empty() {
            return Ok(());
        }
        // Another process may be at work on the same set.
        let tx = self.lock().await?;
        let checked = match self.partition(set, migrations).await {
            Ok((old, pending)) => refuse_foreign(&tx, set, &old, &pending).await,
            Err(error) => Err(error),
        };
        finish(tx, checked).await
    }

    /// Those of `migrations` that are applied, and those that are pending.
    async fn partition<'m>(
        &self,
        set: &str,
        migrations: &'m [Migration],
    ) -> Result<(Vec<&'m Migration>, Vec<&'m Migration>), MigrateError> {
        let state = match self.migration_state(set, migrations).await {
            // The list is there and cannot be read; what keeps us from looking for it is told as it is.
            Err(StoreError::Statement(_) | StoreError::Environment(_)) if self.has_list().await? => {
                return Err(foreign(set, vec![LIST.to_owned()]));
            }
            state => state?,
        };
        let is_applied = |migration: &&Migration| {
            let mut applied = state.iter().filter(|one| one.applied_at.is_some());
            applied.any(|one| one.version == migration.version)
        };
        Ok(migrations.iter().partition(is_applied))
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
        let rows = if self.has_list().await? {
            self.query(APPLIED, vec![set.into()])
                .await?
                .iter()
                .map(read_applied)
                .collect::<Result<_, _>>()?
        } else {
            Vec::new()
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

    async fn has_list(&self) -> Result<bool, StoreError> {
        let exists = match self.dialect() {
            Dialect::Postgres => "SELECT 1 AS found WHERE to_regclass('schema_migrations') IS NOT NULL",
            Dialect::Sqlite => "SELECT 1 AS found FROM sqlite_master WHERE name = 'schema_migrations'",
            Dialect::Mysql => {
                "SELECT 1 AS found FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = 'schema_migrations'"
            }
        };
        Ok(!self.query(exists, vec![]).await?.is_empty())
    }

    async fn locked(&self, set: &str) -> Result<Tx, MigrateError> {
        let tx = self.lock().await?;
        match prepare(&tx, set).await {
            Ok(()) => Ok(tx),
            Err(error) => finish(tx, Err(error)).await,
        }
    }

    /// A transaction that no other process that migrates this database has at the same time.
    async fn lock(&self) -> Result<Tx, StoreError> {
        let tx = self.begin().await?;
        match self.dialect() {
            Dialect::Postgres => {
                tx.execute(UNLIMITED_POSTGRES, vec![]).await?;
                tx.query(LOCK, vec![]).await?;
            }
            Dialect::Sqlite => {}
            Dialect::Mysql => {
                let rows = tx.query(LOCK_MYSQL, vec![]).await?;
                let locked: Option<i32> = rows.first().map_or(Ok(None), |row| row.get("locked"))?;
                if locked != Some(1) {
                    return Err(StoreError::Deadline(LOCK_LIMIT));
                }
            }
        }
        Ok(tx)
    }
}

async fn prepare(tx: &Tx, set: &str) -> Result<(), MigrateError> {
    tx.execute(TABLE, vec![]).await?;
    match tx.query(IS_OURS, vec![]).await {
        Ok(_) => {}
        Err(StoreError::Statement(_) | StoreError::Environment(_)) => return Err(foreign(set, vec![LIST.to_owned()])),
        Err(error) => return Err(error.into()),
    }
    if tx.dialect() == Dialect::Mysql {
        tx.execute(ATTEMPTS_MYSQL, vec![]).await?;
        tx.execute(UNLIMITED_MYSQL, vec![]).await?;
    }
    Ok(())
}

/// Commits what went well, and lets the next one in.
async fn finish<T, E: From<StoreError>>(tx: Tx, done: Result<T, E>) -> Result<T, E> {
    if tx.dialect() == Dialect::Mysql {
        // Both would stay with the pooled connection, also where the transaction has failed.
        let limited = timed("execute", tx.tx.execute_unprepared(LIMITED_MYSQL)).await;
        let unlocked = timed("execute", tx.tx.execute_unprepared(UNLOCK_MYSQL)).await;
        let value = done?;
        limited?;
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
    let is_applied = |migration: &&Migration| applied.iter().any(|(version, _)| *version == migration.version);
    let (old, pending): (Vec<&Migration>, Vec<&Migration>) = migrations.iter().partition(is_applied);
    refuse_foreign(tx, set, &old, &pending).await?;
    let mut done = Vec::new();
    for migration in pending {
        if tx.dialect() == Dialect::Mysql {
            // The first DDL statement of the step commits it.
            let sql = "INSERT INTO posthaste_schema_attempts (set_name, version) VALUES ($1, $2) {ignore:version}";
            tx.execute(sql, vec![set.into(), migration.version.into()]).await?;
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
        if tx.dialect() == Dialect::Mysql {
            let sql = "DELETE FROM posthaste_schema_attempts WHERE set_name = $1 AND version = $2";
            tx.execute(sql, vec![set.into(), migration.version.into()]).await?;
        }
        done.push(migration.version);
    }
    Ok(done)
}

/// Fails if a table that a `pending` step creates exists, unless the set has created it: in an `old` step, or in one that
/// was cut off.
async fn refuse_foreign(tx: &Tx, set: &str, old: &[&Migration], pending: &[&Migration]) -> Result<(), MigrateError> {
    let dialect = tx.dialect();
    let has_attempts = dialect == Dialect::Mysql
        && !foreign_tables::existing(tx, vec![ATTEMPTS.to_owned()])
            .await?
            .is_empty();
    let begun: Vec<i64> = if has_attempts {
        let sql = "SELECT version FROM posthaste_schema_attempts WHERE set_name = $1";
        let rows = tx.query(sql, vec![set.into()]).await?;
        rows.iter().map(|row| row.get("version")).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    let created = |migration: &&Migration| foreign_tables::created_by(migration.up.of(dialect));
    let own: Vec<String> = old.iter().flat_map(created).collect();
    let mut new: Vec<String> = pending
        .iter()
        .filter(|migration| !begun.contains(&migration.version))
        .flat_map(created)
        .collect();
    new.retain(|name| !own.contains(name));
    let tables = foreign_tables::existing(tx, new).await?;
    if tables.is_empty() {
        Ok(())
    } else {
        Err(foreign(set, tables))
    }
}

fn foreign(set: &str, tables: Vec<String>) -> MigrateError {
    MigrateError::Foreign {
        set: set.to_owned(),
        tables,
    }
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
