//! Everything that is in a database, to be searched for what must not be there.

use anyhow::Result;
use posthaste::Store;
use posthaste::store::Dialect;

/// Every value of every table behind `store`, one a line; bytes that are no text are replaced.
///
/// # Errors
/// When the database cannot be asked.
pub async fn dump_database(store: &Store) -> Result<String> {
    let tables = match store.dialect() {
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Dialect::Postgres => "SELECT CAST(tablename AS text) AS name FROM pg_tables WHERE schemaname = 'public'",
        Dialect::Mysql => {
            "SELECT TABLE_NAME AS name FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
             AND TABLE_TYPE = 'BASE TABLE'"
        }
    };
    let mut all = String::new();
    for row in store.query(tables, vec![]).await? {
        let table = row.get::<String>("name")?;
        for column in columns(store, &table).await? {
            let digits = match store.dialect() {
                Dialect::Sqlite | Dialect::Mysql => format!("HEX({column})"),
                Dialect::Postgres => format!("encode(convert_to(CAST({column} AS text), 'UTF8'), 'hex')"),
            };
            let sql = format!("SELECT {digits} AS digits FROM {table} WHERE {column} IS NOT NULL");
            for row in store.query(&sql, vec![]).await? {
                let text = plain(&row.get::<String>("digits")?)?;
                // PostgreSQL writes bytes as digits once more.
                let inner = text.strip_prefix("\\x").map(plain).transpose()?;
                all.push_str(&format!("{table}.{column}: {}\n", inner.unwrap_or(text)));
            }
        }
    }
    Ok(all)
}

async fn columns(store: &Store, table: &str) -> Result<Vec<String>> {
    let sql = match store.dialect() {
        Dialect::Sqlite => format!("SELECT name FROM pragma_table_info('{table}')"),
        Dialect::Postgres => format!(
            "SELECT CAST(column_name AS text) AS name FROM information_schema.columns \
             WHERE table_name = '{table}' AND table_schema = 'public'"
        ),
        Dialect::Mysql => format!(
            "SELECT COLUMN_NAME AS name FROM information_schema.COLUMNS \
             WHERE TABLE_NAME = '{table}' AND TABLE_SCHEMA = DATABASE()"
        ),
    };
    let rows = store.query(&sql, vec![]).await?;
    Ok(rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?)
}

fn plain(digits: &str) -> Result<String> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Result<Vec<u8>> = pairs
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect();
    Ok(String::from_utf8_lossy(&bytes?).into_owned())
}
