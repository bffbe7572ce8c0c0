//! Many rows in one statement.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use sea_orm::Value;

use super::{Dialect, Row, StoreError, Tx};

/// Each row count is another SQL text to parse and prepare, so only these are used.
const CHUNKS: [usize; 10] = [500, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A column to insert into.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Bound as it is.
    Plain(&'static str),
    /// JSON bound as text; a JSON tree would be copied twice on the way.
    Json(&'static str),
    /// The database's clock; binds nothing.
    Now(&'static str),
}

/// What happens to a row whose key exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnConflict {
    /// The statement fails with [`StoreError::Duplicate`].
    Fail,
    /// The row is left out.
    Ignore,
}

/// A multi-row insert.
#[derive(Clone, Copy, Debug)]
pub struct Insert {
    /// Table to insert into.
    pub table: &'static str,
    /// Its columns, in the order of the values.
    pub columns: &'static [Column],
    /// What happens to a row whose key exists.
    pub on_conflict: OnConflict,
    /// A column to return of each inserted row.
    pub returning: Option<&'static str>,
}

/// The texts made so far: a text of 500 rows is 20 kB long and always the same. The columns' address
/// stands for the columns.
static TEXTS: LazyLock<RwLock<HashMap<Key, Arc<str>>>> = LazyLock::new(RwLock::default);

type Key = (&'static str, usize, OnConflict, Option<&'static str>, Dialect, usize);

impl Insert {
    fn text(&self, dialect: Dialect, rows: usize) -> Arc<str> {
        let key = (
            self.table,
            self.columns.as_ptr().addr(),
            self.on_conflict,
            self.returning,
            dialect,
            rows,
        );
        if let Some(text) = TEXTS.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return text.clone();
        }
        let text: Arc<str> = self.write_text(dialect, rows).into();
        TEXTS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, text.clone());
        text
    }

    fn write_text(&self, dialect: Dialect, rows: usize) -> String {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|column| {
                let (Column::Plain(name) | Column::Json(name) | Column::Now(name)) = column;
                *name
            })
            .collect();
        let mut bound = 0;
        let mut tuples = Vec::with_capacity(rows);
        for _ in 0..rows {
            let values = self.columns.iter().map(|column| {
                if let Column::Now(_) = column {
                    return "{now}".to_owned();
                }
                bound += 1;
                let placeholder = match dialect {
                    Dialect::Postgres => format!("${bound}"),
                    // A named parameter is looked up in a list: quadratic in a long statement.
                    Dialect::Sqlite => "?".to_owned(),
                };
                if let Column::Json(_) = column {
                    format!("{{json:{placeholder}}}")
                } else {
                    placeholder
                }
            });
            tuples.push(format!("({})", values.collect::<Vec<_>>().join(", ")));
        }
        let conflict = if self.on_conflict == OnConflict::Ignore {
            " ON CONFLICT DO NOTHING"
        } else {
            ""
        };
        let returning = self
            .returning
            .map(|column| format!(" RETURNING {column}"))
            .unwrap_or_default();
        let (table, names, tuples) = (self.table, names.join(", "), tuples.join(", "));
        dialect.sql(&format!(
            "INSERT INTO {table} ({names}) VALUES {tuples}{conflict}{returning}"
        ))
    }

    /// Inserts `rows`, each with one value per bound column; answers what RETURNING gave.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn run(&self, tx: &Tx, rows: Vec<Vec<Value>>) -> Result<Vec<Row>, StoreError> {
        let mut returned = Vec::new();
        let mut left = rows.len();
        let mut values = rows.into_iter();
        for chunk in CHUNKS {
            if left < chunk {
                continue;
            }
            let text = self.text(tx.dialect(), chunk);
            while left >= chunk {
                let bound: Vec<Value> = values.by_ref().take(chunk).flatten().collect();
                if self.returning.is_some() {
                    returned.extend(tx.query(&text, bound).await?);
                } else {
                    tx.execute(&text, bound).await?;
                }
                left -= chunk;
            }
        }
        Ok(returned)
    }
}
