//! Many rows in one statement.

use std::fmt::Write;

use sea_orm::Value;

use super::{Dialect, Row, StoreError, Tx};

/// Each row count is another SQL text to parse and prepare, so only these are used.
const CHUNKS: [usize; 4] = [500, 64, 8, 1];

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Insert {
    fn text(&self, dialect: Dialect, rows: usize) -> String {
        let mut sql = format!("INSERT INTO {} (", self.table);
        for (n, column) in self.columns.iter().enumerate() {
            let (Column::Plain(name) | Column::Json(name) | Column::Now(name)) = column;
            sql.push_str(if n == 0 { "" } else { ", " });
            sql.push_str(name);
        }
        sql.push_str(") VALUES ");
        let mut bound = 0;
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for (n, column) in self.columns.iter().enumerate() {
                sql.push_str(if n == 0 { "" } else { ", " });
                let part = match column {
                    Column::Now(_) => "{now}".to_owned(),
                    Column::Plain(_) => {
                        bound += 1;
                        format!("${bound}")
                    }
                    Column::Json(_) => {
                        bound += 1;
                        format!("{{json:${bound}}}")
                    }
                };
                sql.push_str(&part);
            }
            sql.push(')');
        }
        if self.on_conflict == OnConflict::Ignore {
            sql.push_str(" ON CONFLICT DO NOTHING");
        }
        if let Some(column) = self.returning {
            // Writing to a String cannot fail.
            write!(sql, " RETURNING {column}").unwrap_or_default();
        }
        dialect.sql(&sql)
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
