//! A transaction and its two ends.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, ExecResult, Value};

use super::idle_limit::Changed;
use super::insert::size;
use super::{Dialect, Row, Store, StoreError, Wake, query_on, statement, timed};

/// Fails where no transaction is open any more.
const STILL_OPEN: &str = "SAVEPOINT posthaste; RELEASE SAVEPOINT posthaste";

/// A transaction: a handler's rows, its inbox mark and its messages commit together in it.
///
/// Dropped without [`Tx::commit`] it rolls back.
pub struct Tx {
    /// Before the transaction: dropped with it, it has to be told of first.
    pub(super) idle_limit: Changed,
    pub(super) tx: DatabaseTransaction,
    pub(super) store: Store,
    pub(super) wake: Wake,
    /// A statement has failed that takes the whole transaction with it. PostgreSQL then answers a COMMIT
    /// with a rollback and no error, MySQL executes what follows a deadlock on its own.
    pub(super) ended: AtomicBool,
    pub(super) lent: AtomicBool,
}

impl Tx {
    /// The SeaORM transaction, for entities and statements of the caller's own. Their errors have to be
    /// passed on: after a failed statement the transaction is of no more use.
    pub fn db(&self) -> &DatabaseTransaction {
        self.lent.store(true, Relaxed);
        &self.tx
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.store.0.dialect
    }

    /// The store it belongs to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Rows of a statement.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn query(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.check_open()?;
        self.check_size(sql, &values)?;
        self.note(query_on(&self.tx, self.dialect(), sql, values).await)
    }

    /// Executes a statement; answers the number of rows it changed.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn execute(&self, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        self.check_open()?;
        self.check_size(sql, &values)?;
        let statement = statement(self.dialect(), sql, values);
        let result: ExecResult = self.note(timed("execute", self.tx.execute_raw(statement)).await)?;
        Ok(result.rows_affected())
    }

    /// A server that gets more than it takes closes the connection, which then looks like an outage.
    fn check_size(&self, sql: &str, values: &[Value]) -> Result<(), StoreError> {
        let largest = self.store.largest_statement();
        if largest == u64::MAX {
            return Ok(());
        }
        let bytes = sql.len() + values.iter().map(size).sum::<usize>();
        if bytes as u64 <= largest {
            return Ok(());
        }
        let reason = format!("it has {bytes} bytes, and the server takes {largest} (max_allowed_packet)");
        Err(StoreError::Statement(DbErr::Custom(reason)))
    }

    fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let ended = match (self.dialect(), &result) {
            (_, Ok(_)) | (Dialect::Sqlite, _) => false,
            (Dialect::Postgres, Err(_)) | (Dialect::Mysql, Err(StoreError::Collision(_))) => true,
            (Dialect::Mysql, Err(_)) => false,
        };
        if ended {
            self.ended.store(true, Relaxed);
        }
        result
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if !self.ended.load(Relaxed) {
            return Ok(());
        }
        let reason = DbErr::Custom("an earlier statement of this transaction failed".to_owned());
        Err(match self.dialect() {
            Dialect::Mysql => StoreError::Collision(reason),
            Dialect::Postgres | Dialect::Sqlite => StoreError::Statement(reason),
        })
    }

    /// Whether what the caller did with [`Tx::db`] has left the transaction open.
    async fn check_lent(&self) -> Result<(), StoreError> {
        if self.dialect() == Dialect::Sqlite || !self.lent.load(Relaxed) {
            return Ok(());
        }
        match timed("check", self.tx.execute_unprepared(STILL_OPEN)).await {
            Err(StoreError::Statement(error)) if self.dialect() == Dialect::Mysql => Err(StoreError::Collision(error)),
            other => other.map(drop),
        }
    }

    /// Rings these loops after the commit, because rows for them were written.
    pub(crate) fn wake_after_commit(&mut self, wake: Wake) {
        self.wake = self.wake.and(wake);
    }

    /// Commits. The commit runs in a task of its own, so that a caller that goes away cannot leave
    /// its outcome open on a pooled connection.
    ///
    /// # Errors
    /// On an error the outcome may be unknown: only a repeat with the same ids is safe.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.check_open()?;
        self.check_lent().await?;
        let Self {
            idle_limit,
            tx,
            store,
            wake,
            ..
        } = self;
        let committed = tokio::spawn(timed("commit", async move {
            if let Some(sql) = idle_limit.ending("COMMIT") {
                tx.execute_unprepared(&sql).await?;
                idle_limit.is_restored();
            }
            tx.commit().await
        }));
        match committed.await {
            Ok(result) => result?,
            Err(_stopped) => return Err(StoreError::Stopped),
        }
        store.0.signals.ring(wake);
        Ok(())
    }

    /// Breaks the transaction in two, for the mutant that does so (SQLite).
    #[cfg(feature = "explore")]
    pub(crate) async fn commit_and_go_on(&self) -> Result<(), StoreError> {
        self.execute("COMMIT", vec![]).await?;
        self.execute("BEGIN IMMEDIATE", vec![]).await?;
        Ok(())
    }

    /// Rolls back now instead of at the drop.
    ///
    /// # Errors
    /// When the connection is gone; the rollback has then happened by itself.
    pub async fn rollback(self) -> Result<(), StoreError> {
        timed("rollback", async move {
            if let Some(sql) = self.idle_limit.ending("ROLLBACK") {
                self.tx.execute_unprepared(&sql).await?;
                self.idle_limit.is_restored();
            }
            self.tx.rollback().await
        })
        .await
    }
}
