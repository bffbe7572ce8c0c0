//! Many rows of the inbox in one statement, copied from one that the system has written itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::store::Dialect;
use posthaste_testkit::wait_until;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::place::Place;

/// The subscription of the copied rows.
pub const SUBSCRIPTION: &str = "torture";
const LIMIT: Duration = Duration::from_secs(60);

/// Settings of the service `messages` under which it reads as [`SUBSCRIPTION`].
pub fn settings(place: &Place) -> [(&'static str, &str); 3] {
    [
        ("DATABASE_URL", place.url()),
        ("LOG_LEVEL", "warn"),
        ("KAFKA_CONSUMER_GROUP", SUBSCRIPTION),
    ]
}

/// Rows of one statement, none of which may take longer than 30 s.
const CHUNK: i64 = 50_000;

/// Lets the service write one dead letter, ends it, and makes `count` copies of that row. `columns` are set to `values` in
/// the copies, where `number` is 1, 2, 3 and so on; all others of a dead letter are as in the first one, which is removed.
///
/// # Errors
/// When the database refuses.
pub async fn fill(place: &Place, count: i64, columns: &[&str], values: &[&str]) -> Result<()> {
    let running = place.serve_with(&["messages"], &settings(place)).await?;
    let dialect = place.store().dialect();
    let text = match dialect {
        Dialect::Postgres => "convert_to('no message', 'UTF8')",
        Dialect::Sqlite => "CAST('no message' AS BLOB)",
        Dialect::Mysql => "'no message'",
    };
    let written = format!(
        "INSERT INTO queue_messages (topic, message_key, body) VALUES ('integration-events.message_sent', 'hot', {text})"
    );
    place.store().execute(&written, Vec::new()).await?;
    let model = wait_until("a dead letter", LIMIT, || async {
        let dead = "SELECT message_id FROM inbox_messages WHERE status = 'dead'";
        place.row(dead).await.ok()?.uuid("message_id").ok()
    })
    .await?;
    running.stop().await?;

    let kept = "subscription, event_type, topic, message_key, headers, body, body_hash, error, received_at";
    let (columns, values) = (columns.join(", "), values.join(", "));
    let id = id_of_number(dialect);
    let numbers = numbers();
    for first in (1..=count).step_by(CHUNK as usize) {
        let last = (first + CHUNK - 1).min(count);
        let sql = format!(
            "INSERT INTO inbox_messages ({kept}, message_id, {columns}) SELECT {kept}, {id}, {values} \
             FROM (SELECT d + {first} AS number FROM ({numbers}) AS digits WHERE d + {first} <= {last}) AS numbers \
             CROSS JOIN (SELECT * FROM inbox_messages WHERE message_id = $1) AS model"
        );
        place.store().execute(&sql, vec![dialect.uuid(model)]).await?;
    }
    let removed = "DELETE FROM inbox_messages WHERE message_id = $1";
    place.store().execute(removed, vec![dialect.uuid(model)]).await?;
    let rows = place.number("SELECT COUNT(*) AS n FROM inbox_messages").await?;
    ensure!(rows == count, "void: {rows} rows were made instead of {count}");
    match dialect {
        Dialect::Postgres => {
            // Neither of them runs in a transaction.
            let mut session = PgConnection::connect(place.url()).await?;
            session.execute("VACUUM ANALYZE inbox_messages").await?;
            session.execute("CHECKPOINT").await?;
            session.close().await?;
        }
        Dialect::Sqlite => drop(place.store().execute("ANALYZE inbox_messages", Vec::new()).await?),
        Dialect::Mysql => drop(place.store().query("ANALYZE TABLE inbox_messages", Vec::new()).await?),
    }
    Ok(())
}

/// The message id of the copy with `number`.
///
/// # Errors
/// When `number` has more than twelve digits.
pub fn id_of(number: i64) -> Result<Uuid> {
    Ok(format!("{PREFIX}{number:012}").parse()?)
}

/// Before the twelve digits of a number.
const PREFIX: &str = "01900000-0000-7000-8000-";

/// The same in SQL.
fn id_of_number(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => format!("CAST('{PREFIX}' || lpad(CAST(number AS text), 12, '0') AS uuid)"),
        Dialect::Sqlite => format!("'{PREFIX}' || printf('%012d', number)"),
        Dialect::Mysql => format!("CONCAT('{PREFIX}', LPAD(number, 12, '0'))"),
    }
}

/// Selects 0 to [`CHUNK`] - 1 as `d` on every database.
fn numbers() -> String {
    let digits = |count: i64| {
        let rows: Vec<String> = (0..count).map(|digit| format!("SELECT {digit} AS x")).collect();
        format!("({})", rows.join(" UNION ALL "))
    };
    let ten = digits(10);
    format!(
        "SELECT a.x + 10 * b.x + 100 * c.x + 1000 * e.x + 10000 * f.x AS d FROM {ten} AS a CROSS JOIN {ten} AS b \
         CROSS JOIN {ten} AS c CROSS JOIN {ten} AS e CROSS JOIN {} AS f",
        digits(CHUNK / 10_000)
    )
}
