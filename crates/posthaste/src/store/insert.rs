//! Many rows in one statement.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use sea_orm::Value;
use uuid::Uuid;

use super::{Dialect, StoreError, Tx};

/// Most bytes of texts and blobs in one statement: MariaDB takes 16 MiB where nobody told it otherwise.
const BYTES: usize = 8 << 20;

/// Each row count is another SQL text to parse, prepare and keep, so only these are used, and every one up to the
/// last: what few callers share a commit goes in one statement.
const CHUNKS: [usize; 5] = [500, 256, 128, 64, 32];

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
    /// The column of UUIDs, one that is bound, to return of each inserted row.
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
                    Dialect::Sqlite | Dialect::Mysql => "?".to_owned(),
                };
                if let Column::Json(_) = column {
                    format!("{{json:{placeholder}}}")
                } else {
                    placeholder
                }
            });
            tuples.push(format!("({})", values.collect::<Vec<_>>().join(", ")));
        }
        let conflict = match self.on_conflict {
            OnConflict::Ignore if !self.returns_by_itself(dialect) => String::new(),
            OnConflict::Ignore => format!(" {{ignore:{}}}", names.first().copied().unwrap_or_default()),
            OnConflict::Fail => String::new(),
        };
        let returning = match self.returning {
            Some(column) if dialect != Dialect::Mysql => format!(" RETURNING {column}"),
            _ => String::new(),
        };
        let (table, names, tuples) = (self.table, names.join(", "), tuples.join(", "));
        dialect.sql(&format!(
            "INSERT INTO {table} ({names}) VALUES {tuples}{conflict}{returning}"
        ))
    }

    /// MySQL cannot return what it inserted.
    fn returns_by_itself(&self, dialect: Dialect) -> bool {
        self.returning.is_none() || dialect != Dialect::Mysql
    }

    /// Inserts `rows`, each with one value per bound column; answers the ids of the new rows where
    /// [`Insert::returning`] asks for them.
    ///
    /// # Errors
    /// As the statement fails.
    pub async fn run(&self, tx: &Tx, rows: Vec<Vec<Value>>) -> Result<Vec<Uuid>, StoreError> {
        let mut new = Vec::new();
        let mut rows = VecDeque::from(rows);
        let most = BYTES.min(usize::try_from(tx.store().largest_statement() / 2).unwrap_or(BYTES));
        while !rows.is_empty() {
            let fit = fitting(&rows, most);
            let chunk = CHUNKS.into_iter().find(|chunk| *chunk <= fit).unwrap_or(fit);
            let part: Vec<Vec<Value>> = rows.drain(..chunk).collect();
            if !self.returns_by_itself(tx.dialect()) {
                self.try_halves(tx, part, &mut new).await?;
                continue;
            }
            let text = self.text(tx.dialect(), chunk);
            let bound: Vec<Value> = part.into_iter().flatten().collect();
            if let Some(column) = self.returning {
                for row in tx.query(&text, bound).await? {
                    new.push(row.uuid(column)?);
                }
            } else {
                tx.execute(&text, bound).await?;
            }
        }
        Ok(new)
    }

    /// Inserts `rows`; a statement that meets an existing key undoes itself, and its halves are tried.
    async fn try_halves(&self, tx: &Tx, rows: Vec<Vec<Value>>, new: &mut Vec<Uuid>) -> Result<(), StoreError> {
        let mut open = vec![rows];
        while let Some(mut rows) = open.pop() {
            let text = self.text(tx.dialect(), rows.len());
            match tx.execute(&text, rows.iter().flatten().cloned().collect()).await {
                Ok(_) => new.extend(rows.iter().filter_map(|row| self.id_of(row))),
                Err(StoreError::Duplicate(_)) if self.on_conflict == OnConflict::Ignore => {
                    if rows.len() > 1 {
                        let second = rows.split_off(rows.len() / 2);
                        open.push(second);
                        open.push(rows);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The value of the column to return among the bound values of a row.
    fn id_of(&self, row: &[Value]) -> Option<Uuid> {
        let bound = self.columns.iter().filter_map(|column| match column {
            Column::Plain(name) | Column::Json(name) => Some(*name),
            Column::Now(_) => None,
        });
        let (_, value) = bound.zip(row).find(|(name, _)| Some(*name) == self.returning)?;
        match value {
            Value::String(Some(text)) => text.parse().ok(),
            _ => None,
        }
    }
}

/// How many of the first `rows` go into one statement of at most `most` bytes; at least one.
fn fitting(rows: &VecDeque<Vec<Value>>, most: usize) -> usize {
    let mut bytes = 0;
    let fits = |row: &&Vec<Value>| {
        bytes += row.iter().map(size).sum::<usize>();
        bytes <= most
    };
    rows.iter().take(CHUNKS[0]).take_while(fits).count().max(1)
}

/// Bytes of a bound value on the wire, or a little more.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::String(Some(text)) => text.len() + 16,
        Value::Bytes(Some(bytes)) => bytes.len() + 16,
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{BYTES, fitting};

    #[test]
    fn a_statement_stays_below_the_server_s_limit() {
        let rows = |size: usize, count: usize| VecDeque::from(vec![vec![vec![0u8; size].into()]; count]);
        assert_eq!(fitting(&rows(10, 2000), BYTES), 500);
        assert_eq!(fitting(&rows(BYTES / 5, 10), BYTES), 4);
        assert_eq!(fitting(&rows(BYTES + 1, 2), BYTES), 1);
        assert_eq!(fitting(&rows(1_000, 500), 64 * 1024), 64);
    }
}
