//! Portable SQL text and values.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sea_orm::sea_query::ArrayType;
use sea_orm::{DbBackend, SqliteTransactionMode, TransactionOptions, Value};
use uuid::Uuid;

use super::{mysql, postgres, sqlite};

/// Which SQL a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL 13 or later.
    Postgres,
    /// SQLite 3.35 or later.
    Sqlite,
    /// MariaDB 10.6 or later, or MySQL 8.0.17 or later.
    Mysql,
}

impl Dialect {
    /// Portable text to this database's: `{now}` is the database's clock, `{after:$3}` the clock plus
    /// `$3` microseconds (negative: before), `{clock}` and `{clock:$3}` the same where a column is compared
    /// with them, `{in:$2}` membership in a list made by [`Dialect::ints`] and its like, `{json:$2}` a JSON
    /// value bound as text, `{int:$2}` an integer where its type is not clear.
    ///
    /// After an INSERT, `{ignore:column}` leaves out rows whose key exists (`column` is any of the table's),
    /// and `{upsert:key, columns} column = {new:column}` updates them.
    pub fn sql(self, text: &str) -> String {
        match self {
            Self::Postgres => postgres::sql(text),
            Self::Sqlite => sqlite::sql(text),
            Self::Mysql => mysql::sql(text),
        }
    }

    /// A UUID to bind: native on PostgreSQL, readable text elsewhere.
    pub fn uuid(self, id: Uuid) -> Value {
        self.uuid_or_null(Some(id))
    }

    /// A UUID or NULL to bind.
    pub fn uuid_or_null(self, id: Option<Uuid>) -> Value {
        match self {
            Self::Postgres => Value::Uuid(id),
            Self::Sqlite | Self::Mysql => Value::String(id.map(|id| id.to_string())),
        }
    }

    /// A time to bind.
    pub fn time(self, at: DateTime<Utc>) -> Value {
        self.time_or_null(Some(at))
    }

    /// A time or NULL to bind.
    pub fn time_or_null(self, at: Option<DateTime<Utc>>) -> Value {
        match self {
            Self::Postgres => Value::ChronoDateTimeUtc(at),
            // With a zone it would be a TIMESTAMP, of which MySQL has none before 1970 or after 2038.
            Self::Mysql => Value::ChronoDateTime(at.map(|at| at.naive_utc())),
            Self::Sqlite => Value::String(at.map(sqlite::time_text)),
        }
    }

    /// An exact decimal to bind: text on SQLite, which would make a float of it.
    pub fn decimal(self, number: Decimal) -> Value {
        match self {
            Self::Postgres | Self::Mysql => Value::Decimal(Some(number)),
            Self::Sqlite => Value::from(number.to_string()),
        }
    }

    /// A list of integers for `{in:$n}`.
    pub fn ints(self, list: impl IntoIterator<Item = i64>) -> Value {
        match self {
            Self::Postgres | Self::Mysql => array(ArrayType::BigInt, list.into_iter().map(Value::from)),
            Self::Sqlite => Value::from(serde_json::Value::from_iter(list).to_string()),
        }
    }

    /// A list of texts for `{in:$n}`.
    pub fn texts(self, list: impl IntoIterator<Item = String>) -> Value {
        match self {
            Self::Postgres | Self::Mysql => array(ArrayType::String, list.into_iter().map(Value::from)),
            Self::Sqlite => Value::from(serde_json::Value::from_iter(list).to_string()),
        }
    }

    /// A list of UUIDs for `{in:$n}`.
    pub fn uuids(self, list: impl IntoIterator<Item = Uuid>) -> Value {
        match self {
            Self::Postgres => array(ArrayType::Uuid, list.into_iter().map(Value::from)),
            Self::Sqlite | Self::Mysql => self.texts(list.into_iter().map(|id| id.to_string())),
        }
    }

    pub(super) fn backend(self) -> DbBackend {
        match self {
            Self::Postgres => DbBackend::Postgres,
            Self::Sqlite => DbBackend::Sqlite,
            Self::Mysql => DbBackend::MySql,
        }
    }

    pub(super) fn transaction_options(self) -> TransactionOptions {
        match self {
            Self::Postgres | Self::Mysql => TransactionOptions::default(),
            Self::Sqlite => TransactionOptions {
                // A deferred transaction that writes after reading fails at once while another one writes.
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            },
        }
    }
}

fn array(of: ArrayType, list: impl Iterator<Item = Value>) -> Value {
    Value::Array(of, Some(Box::new(list.collect())))
}

/// Replaces each `{token}` and `{token:argument}` of `text`.
pub(super) fn expand(text: &str, token: impl Fn(&str, Option<&str>) -> String) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once('{') {
        out.push_str(before);
        let Some((inside, after)) = tail.split_once('}') else {
            out.push('{');
            rest = tail;
            continue;
        };
        match inside.split_once(':') {
            Some((name, argument)) => out.push_str(&token(name, Some(argument))),
            None => out.push_str(&token(inside, None)),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
