use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sea_orm::{QueryResult, TryGetable, TryGetableFromJson};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
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

    /// A JSON column as its text, with every digit of its numbers.
    ///
    /// # Errors
    /// As [`Row::get`], and when the column is NULL.
    pub fn raw_json(&self, column: &str) -> Result<Box<RawValue>, StoreError> {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => Ok(self.get::<Raw>(column)?.0),
            Dialect::Sqlite => {
                RawValue::from_string(self.get(column)?).map_err(|error| sqlite::unreadable(column, &error))
            }
        }
    }

    /// A JSON column that may be NULL, decoded out of its text: a type that keeps texts keeps every digit.
    ///
    /// # Errors
    /// As [`Row::get`], and when the text is no `T`.
    pub fn json_exact<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.get::<Option<Raw>>(column)?.map(|raw| raw.0.get().to_owned()),
            Dialect::Sqlite => self.get::<Option<String>>(column)?,
        };
        text.map(|text| serde_json::from_str(&text).map_err(|error| sqlite::unreadable(column, &error)))
            .transpose()
    }

    /// An exact decimal.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn decimal(&self, column: &str) -> Result<Decimal, StoreError> {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.get(column),
            Dialect::Sqlite => {
                let text: String = self.get(column)?;
                Decimal::from_str_exact(&text).map_err(|error| sqlite::unreadable(column, &error))
            }
        }
    }
}

/// SeaORM decodes JSON columns only into types of the reader's own.
#[derive(Deserialize)]
#[serde(transparent)]
struct Raw(Box<RawValue>);

impl TryGetableFromJson for Raw {}
