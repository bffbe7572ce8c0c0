//! Rows that people write into `queue_messages` with SQLite's own types: none keeps those behind it waiting.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste::dead_letter::{self, Selection};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::{TestDatabase, wait_until};

use crate::alone;
use crate::process::Posthaste;

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "'notification_events'";

/// Columns, values, and what the dead letter's body is; `None`: stored.
const ODD: [(&str, &str, Option<&[u8]>); 12] = [
    ("body", "GOOD", None),
    ("body", "7", Some(b"7")),
    ("body", "-1.5", Some(b"-1.5")),
    ("body", "''", Some(b"")),
    ("body", "x'ff00fe'", Some(b"\xff\x00\xfe")),
    ("headers, body", "x'ff00fe', GOOD", None),
    ("headers, body", "'[7]', GOOD", None),
    ("headers, body", "17, GOOD", None),
    ("event_type, message_key, body", "x'fffe', x'fffe', GOOD", None),
    ("message_id, body", "'no uuid', GOOD", None),
    ("message_id, body", "x'fffe', GOOD", None),
    ("message_id, event_type, body", "18, 19, GOOD", None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_any_type_are_read() -> Result<()> {
    alone(Duration::from_secs(120), async {
        let database = TestDatabase::sqlite()?;
        let folder = tempfile::tempdir()?;
        let running = Posthaste::start(folder.path(), database.url()).await?;
        let store = Store::open(database.url(), StoreOptions::default())?;
        for (n, (columns, values, _)) in ODD.iter().enumerate() {
            let user = uuid::Uuid::nil();
            let good = format!(r#"{{"user_id":"{user}","event_type":"by hand","message":"{n}"}}"#);
            // Bound as a text, into a column of bytes.
            let (values, bound) = match values.split_once("GOOD") {
                Some((before, _)) => (format!("{before}$1"), vec![good.into()]),
                None => ((*values).to_owned(), vec![]),
            };
            let sql = format!("INSERT INTO queue_messages (topic, {columns}) VALUES ({TOPIC}, {values})");
            store.execute(&sql, bound).await?;
        }
        let stored = ODD.iter().filter(|(_, _, dead)| dead.is_none()).count() as i64;
        let count = async |table: &str| -> Option<i64> {
            let sql = format!("SELECT COUNT(*) AS n FROM {table}");
            store.query(&sql, vec![]).await.ok()?.first()?.get("n").ok()
        };
        let bad = ODD.len() as i64 - stored;
        let done = wait_until("an empty queue and what became of each row", LIMIT, || async {
            let done = count("queue_messages").await? == 0
                && count("processed_events").await? >= stored
                && count("inbox_messages WHERE status = 'dead'").await? >= bad;
            done.then_some(())
        });
        done.await?;
        assert_eq!(count("processed_events").await, Some(stored));
        let letters = dead_letter::list(&store, &Selection::default(), 100).await?;
        assert_eq!(letters.len(), ODD.len() - stored as usize);
        for body in ODD.iter().filter_map(|(_, _, dead)| *dead) {
            let letter = letters.iter().find(|letter| letter.message.body == body);
            letter.with_context(|| format!("{body:?} is no dead letter"))?;
        }
        running.answers("/health", 200).await?;
        store.close().await;
        running.terminate().await
    })
    .await
}
