//! What a read says of the transactions around it, for the low-water mark in `floor.rs`.

use super::{Dialect, Row, StoreError, Tx};

/// The columns that [`Snapshot::of`] reads.
#[cfg(not(feature = "explore"))]
pub(crate) const SNAPSHOT: &str = "{snapshot_xmin} AS snapshot_xmin, {server} AS server";
#[cfg(feature = "explore")]
pub(crate) const SNAPSHOT: &str =
    "{snapshot_xmin} AS snapshot_xmin, {server} AS server, {snapshot_xmax} AS snapshot_xmax";

/// The snapshot of one read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All transactions with a lower id have ended.
    pub xmin: i64,
    /// Which server process was asked. Behind one URL it changes with a restart or a failover, without any error
    /// where the pool replaced the connection.
    pub server: i64,
    /// For the mutant that takes it for the id that comes next.
    #[cfg(feature = "explore")]
    pub xmax: i64,
}

impl Snapshot {
    pub fn of(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            xmin: row.get("snapshot_xmin")?,
            server: row.get("server")?,
            #[cfg(feature = "explore")]
            xmax: row.get("snapshot_xmax")?,
        })
    }
}

impl Tx {
    /// Executes a statement that writes; returns a bound of this transaction: a transaction that had an id before this one
    /// began has a lower one. It costs no round trip of its own.
    pub(crate) async fn execute_bounded(&self, sql: &str, values: Vec<sea_orm::Value>) -> Result<i64, StoreError> {
        match self.dialect() {
            Dialect::Postgres => {
                let sql = format!("WITH written AS ({sql}) SELECT pg_current_xact_id()::text::bigint AS bound");
                let rows = self.query(&sql, values).await?;
                rows.first().map_or(Ok(i64::MAX), |row| row.get("bound"))
            }
            Dialect::Sqlite => self.execute(sql, values).await.map(|_changed| i64::MIN),
            Dialect::Mysql => self.execute(sql, values).await.map(|_changed| i64::MAX),
        }
    }
}
