use chrono::{DateTime, Utc};
use sea_orm::{QueryResult, TryGetable};
use uuid::Uuid;

use super::{Dialect, StoreError, sqlite};

/// A row that reads alike from every database.
pub struct Row {
    row: QueryResult,
    dialect: Dialect,
}

impl Row {
    pub(super) fn new(row: QueryResult, dialect: Dialect) -> Self {
        Self { row, dialect }
    }

    /// The value of `column` in any type that SeaORM reads (`String`, `i64`, `Option<…>`, …).
    ///
    /// # Errors
    /// When the column is absent or of another type.
    pub fn get<T: TryGetable>(&self, column: &str) -> Result<T, StoreError> {
        Ok(self.row.try_get("", column)?)
    }

    /// A UUID.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
        match self.dialect {
            Dialect::Postgres => self.get(column),
            Dialect::Sqlite | Dialect::Mysql => {
                let text: String = self.get(column)?;
                text.parse().map_err(|error| sqlite::unreadable(column, &error))
            }
        }
    }

    /// A UUID or NULL.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn uuid_or_null(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
        match self.dialect {
            Dialect::Postgres => self.get(column),
            Dialect::Sqlite | Dialect::Mysql => self
                .get::<Option<String>>(column)?
                .map(|text| text.parse().map_err(|error| sqlite::unreadable(column, &error)))
                .transpose(),
        }
    }

    /// A time.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn time(&self, column: &str) -> Result<DateTime<Utc>, StoreError> {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.get(column),
            Dialect::Sqlite => sqlite::parse_time(column, &self.get::<String>(column)?),
        }
    }

    /// A time or NULL.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn time_or_null(&self, column: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.get(column),
            Dialect::Sqlite => self
                .get::<Option<String>>(column)?
                .map(|text| sqlite::parse_time(column, &text))
                .transpose(),
        }
    }

    /// A JSON column.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn json(&self, column: &str) -> Result<Option<serde_json::Value>, StoreError> {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.get(column),
            Dialect::Sqlite => self
                .get::<Option<String>>(column)?
                .map(|text| serde_json::from_str(&text).map_err(|error| sqlite::unreadable(column, &error)))
                .transpose(),
        }
    }
}
