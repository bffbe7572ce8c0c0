//! What is particular to MySQL and MariaDB.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sea_orm::{SqlxMySqlConnector, Value};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};

use super::postgres::Opened;
use super::{Class, Dialect, Pools, StoreError, StoreOptions, idle_limit, mask};

/// What every connection is told. In `/*M! … */` is what only MariaDB reads, in `/*!8… */` what only MySQL does.
///
/// The server ends what our own deadline has given up on, so that no lock outlives it.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION innodb_lock_wait_timeout = 10, \
    sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION' \
    /*M! , max_statement_time = 30 */ /*!80000 , max_execution_time = 30000 */";

/// Half of what MySQL's session lives without a statement: the pool looks for idle connections as often as this is long.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// How long a connection on its way back to the pool may take to reset its settings.
const RESTORE: Duration = Duration::from_secs(2);

/// `largest` becomes what the server takes, as of the newest connection.
pub(super) fn open(url: &str, options: StoreOptions, largest: &Arc<AtomicU64>) -> Result<Opened, StoreError> {
    let largest = largest.clone();
    let connect = MySqlConnectOptions::from_str(url)
        .map_err(|error| StoreError::Url(format!("{} is no MySQL URL: {error}", mask(url))))?
        // SESSION sets the whole mode.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(Some("+00:00".to_owned()))
        .charset("utf8mb4")
        .statement_cache_capacity(512)
        .disable_statement_logging();
    let pool = MySqlPoolOptions::new()
        .max_connections(options.connections)
        .acquire_timeout(options.acquire)
        // A round trip per checkout; a dead connection shows at its first statement and is retried above.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(1800))
        .idle_timeout(POOL_IDLE)
        .after_release(|connection, _| {
            Box::pin(async move {
                if let Some(sql) = idle_limit::to_restore() {
                    match tokio::time::timeout(RESTORE, connection.execute(AssertSqlSafe(sql))).await {
                        Ok(restored) => {
                            restored?;
                        }
                        // It is dead, and would keep its place in the pool.
                        Err(_elapsed) => return Ok(false),
                    }
                }
                super::suspect_connections::still_answers(connection).await
            })
        })
        .after_connect(move |connection, _| {
            let largest = largest.clone();
            Box::pin(async move {
                let limit = idle_limit::mysql_settings(idle_limit::SESSION);
                let session = format!("{SESSION}; SET SESSION {limit}");
                connection.execute(AssertSqlSafe(session)).await?;
                let row = connection.fetch_one("SELECT @@max_allowed_packet").await?;
                largest.store(row.try_get(0)?, Relaxed);
                Ok(())
            })
        })
        .connect_lazy_with(connect);
    let connection = SqlxMySqlConnector::from_sqlx_mysql_pool(pool.clone());
    Ok((Pools::Mysql(pool), connection.clone(), connection, Dialect::Mysql))
}

/// See [`Dialect::sql`]. Placeholders keep their numbers until [`bind`].
pub(super) fn sql(text: &str) -> String {
    super::dialect::expand(text, |token, argument| match (token, argument) {
        // Not SYSDATE, which stands for another value in each row and so keeps from using an index.
        ("now", _) | ("clock", None) => "UTC_TIMESTAMP(6)".to_owned(),
        ("after" | "clock", Some(n)) => format!("(UTC_TIMESTAMP(6) + INTERVAL {n} MICROSECOND)"),
        ("skip_locked", _) => "FOR UPDATE SKIP LOCKED".to_owned(),
        ("for_share", _) => "LOCK IN SHARE MODE".to_owned(),
        ("for_update", _) => "FOR UPDATE".to_owned(),
        ("json" | "int", Some(n)) => n.to_owned(),
        ("in", Some(n)) => format!("IN ({n})"),
        // Users may not ask which transactions run: nothing is known to be complete.
        ("snapshot_xmin" | "server", _) => "0".to_owned(),
        ("snapshot_xmax", _) => i64::MAX.to_string(),
        ("next_parked", Some(of)) => next_parked(of),
        // What VALUES reads stays locked, and the first row of a key with it; what a SELECT reads does not.
        ("row", _) => "SELECT".to_owned(),
        ("end_row", _) => "FROM DUAL".to_owned(),
        ("age", Some(column)) => format!("(TIMESTAMPDIFF(MICROSECOND, {column}, UTC_TIMESTAMP(6)) / 1e6)"),
        ("ignore", Some(column)) => format!("ON DUPLICATE KEY UPDATE {column} = {column}"),
        ("upsert", _) => "ON DUPLICATE KEY UPDATE".to_owned(),
        ("new", Some(column)) => format!("VALUES({column})"),
        ("index", Some(name)) => format!("FORCE INDEX ({name})"),
        _ => String::new(),
    })
}

/// The next number of a key. Only the order within a key counts, and whoever parks a message of an
/// ordered key is alone with that key; a counter for all of them would make every parking wait in line.
fn next_parked(of: &str) -> String {
    let (subscription, key) = of.split_once(',').unwrap_or((of, "NULL"));
    let highest = |status: &str| {
        format!(
            "COALESCE((SELECT MAX(parked_seq) FROM inbox_messages WHERE status = '{status}' \
             AND subscription = {subscription} AND message_key = {key}), 0)"
        )
    };
    // Behind the dead ones, too: they may be replayed. The table in between lets a statement read what it writes.
    format!(
        "(SELECT n FROM (SELECT 1 + GREATEST({}, {}, {}) AS n) AS highest)",
        highest("retrying"),
        highest("waiting"),
        highest("dead")
    )
}

/// `$n` becomes `?`, its value repeated and put in order as the text has it; a list becomes as many `?` as
/// a power of two, its last value repeated, so that there are few texts to prepare.
pub(super) fn bind(text: &str, values: Vec<Value>) -> (String, Vec<Value>) {
    let mut out = String::with_capacity(text.len() + 16);
    let mut bound = Vec::with_capacity(values.len());
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once('$') {
        out.push_str(before);
        let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        let number = tail[..digits].parse::<usize>().ok();
        match number.and_then(|n| values.get(n.wrapping_sub(1))) {
            Some(Value::Array(_, list)) => list_of(list.as_deref().map_or(&[], Vec::as_slice), &mut out, &mut bound),
            Some(value) => {
                out.push('?');
                bound.push(value.clone());
            }
            None => {
                out.push('$');
                out.push_str(&tail[..digits]);
            }
        }
        rest = &tail[digits..];
    }
    out.push_str(rest);
    (out, bound)
}

fn list_of(list: &[Value], out: &mut String, bound: &mut Vec<Value>) {
    let Some(last) = list.last() else {
        // IN () is not SQL, and IN (NULL) is neither true nor false.
        out.push_str("SELECT NULL FROM DUAL WHERE FALSE");
        return;
    };
    let size = list.len().next_power_of_two();
    for n in 0..size {
        out.push_str(if n == 0 { "?" } else { ", ?" });
        bound.push(list.get(n).unwrap_or(last).clone());
    }
}

pub(super) fn classify(number: u16) -> Option<Class> {
    match number {
        1062 | 1586 => Some(Class::Duplicate),
        // Lock wait, deadlock, NOWAIT, changed since read.
        1205 | 1213 | 3572 | 1020 => Some(Class::Collision),
        // Table, column, database; permission.
        1049 | 1054 | 1146 | 1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 => Some(Class::Environment),
        // Read-only; disk or table full.
        1290 | 1792 | 1836 | 1021 | 1114 => Some(Class::Environment),
        // Files, memory, shutdown.
        1026 | 1030 | 1037 | 1041 | 1053 | 1077..=1079 => Some(Class::Unavailable),
        // Too many connections, the network, killed, idle for too long.
        1040 | 1152 | 1158..=1161 | 1184 | 1203 | 1226 | 1317 | 1927 | 4031 => Some(Class::Unavailable),
        // Our own statement time-out.
        1969 | 3024 => Some(Class::Deadline),
        2002 | 2006 | 2013 => Some(Class::Unavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Value;

    use super::bind;
    use crate::store::Dialect;

    #[test]
    fn values_follow_their_placeholders() {
        let values = vec![1i64.into(), "b".into(), 3i64.into()];
        let (text, bound) = bind("a = $2 AND b = $1 AND c = $2 LIMIT $3", values);
        assert_eq!(text, "a = ? AND b = ? AND c = ? LIMIT ?");
        assert_eq!(bound, ["b".into(), 1i64.into(), "b".into(), Value::from(3i64)]);
    }

    #[test]
    fn lists_have_few_lengths() {
        let list = |n: i64| vec![Dialect::Mysql.ints(0..n), 9i64.into()];
        let text = Dialect::Mysql.sql("x {in:$1} AND y = $2");
        assert_eq!(bind(&text, list(1)).0, "x IN (?) AND y = ?");
        let (three, bound) = bind(&text, list(3));
        assert_eq!(three, "x IN (?, ?, ?, ?) AND y = ?");
        assert_eq!(bound, [0i64, 1, 2, 2, 9].map(Value::from));
        assert_eq!(
            bind(&text, list(0)).0,
            "x IN (SELECT NULL FROM DUAL WHERE FALSE) AND y = ?"
        );
    }
}
