//! Bad input on every queue, over every transport: what cannot be handled is a dead letter at the first attempt, what
//! can be is stored once, and nothing goes round.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::dead_letter::{self, DeadLetter, Selection};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::servers::{PrivateKafka, PrivateRabbitmq};
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::Value;

use crate::alone;
use crate::describe_letters::{Fate, Letter, letters};
use crate::describe_queues::{QUEUES, Queue};
use crate::process::Posthaste;
use crate::put_letters::Door;

const LIMIT: Duration = Duration::from_secs(420);
/// The largest body: once into each database and over each transport.
const LARGE: usize = 10_000_000;
/// The largest in the other runs.
const MEDIUM: usize = 1_000_000;
/// What a large body has beside its large member.
const MEMBERS: usize = 1_000;
/// From the last letter to the last row.
const DONE: Duration = Duration::from_secs(120);

/// Puts all letters, in front of a start and behind it, and looks for what became of each.
async fn all_letters(database: &TestDatabase, broker: &str, door: &Door) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", broker)];
    let running = Posthaste::spawn(folder.path(), &[], &settings)?;
    running.answers("/readyz", 200).await?;
    let all: Vec<(&Queue, Vec<Letter>)> = QUEUES
        .iter()
        .map(|queue| (queue, letters(queue, door.largest(), door.most())))
        .collect();
    for (queue, letters) in &all {
        door.declare(queue.topic).await?;
        for letter in letters {
            door.put(queue.topic, letter).await?;
        }
    }
    let store = Store::open(database.url(), StoreOptions::default())?;
    for (queue, letters) in &all {
        expect_stored(&store, queue, letters)
            .await
            .with_context(|| queue.topic)?;
    }
    let bad = all
        .iter()
        .flat_map(|(_, letters)| letters)
        .filter(|letter| is_dead(letter));
    let bad = bad.count() as i64;
    wait_until("all bad ones, and nothing to be pending or parked", DONE, || async {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
            + (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) AS n, \
            (SELECT COUNT(*) FROM inbox_messages WHERE status = 'dead') AS dead";
        let rows = store.query(sql, vec![]).await.ok()?;
        let (n, dead): (i64, i64) = (rows.first()?.get("n").ok()?, rows.first()?.get("dead").ok()?);
        (n == 0 && dead >= bad).then_some(())
    })
    .await?;
    for (queue, letters) in &all {
        expect_dead(&store, queue, letters).await.with_context(|| queue.topic)?;
        if let Some(copies) = queue.copies {
            let expected = sorted(
                letters
                    .iter()
                    .filter(|letter| is_dead(letter) && letter.body.len() <= door.largest() + MEMBERS)
                    .map(|letter| letter.body.clone()),
            );
            let found = sorted(door.take(copies, expected.len()).await?);
            ensure!(found == expected, "{copies} has other bodies");
        }
    }
    running.answers("/health", 200).await?;
    for list in [
        "/api/events?limit=100",
        "/api/v1/orders?limit=100",
        "/api/v1/messages/?limit=1000",
    ] {
        turn_pages(&running, list).await.with_context(|| list)?;
    }
    running.terminate().await?;
    for (queue, letters) in &all {
        let group = match queue.subscription.split_once('.') {
            Some((service, _)) => service,
            None => queue.subscription,
        };
        door.expect_done(queue.topic, group).await?;
        // Nothing came to life in between.
        expect_stored(&store, queue, letters).await?;
    }
    store.close().await;
    Ok(())
}

fn is_dead(letter: &Letter) -> bool {
    matches!(letter.fate, Fate::Dead(_))
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

async fn expect_stored(store: &Store, queue: &Queue, letters: &[Letter]) -> Result<()> {
    let expected = letters.iter().filter_map(|letter| match &letter.fate {
        Fate::Stored(name) => Some((name.clone(), letter.what.as_str())),
        Fate::Dead(_) | Fate::Repeat => None,
    });
    let expected: BTreeMap<String, &str> = expected.collect();
    let arrived = wait_until("all good ones", DONE, || async {
        (queue.names(store).await.ok()?.len() >= expected.len()).then_some(())
    })
    .await;
    let names = sorted(queue.names(store).await?);
    let missing: Vec<&&str> = expected
        .iter()
        .filter(|(name, _)| !names.contains(name))
        .map(|(_, what)| what)
        .collect();
    ensure!(missing.is_empty(), "not stored: {missing:?}");
    let strange: Vec<&String> = names.iter().filter(|name| !expected.contains_key(*name)).collect();
    ensure!(strange.is_empty(), "stored and not expected: {strange:?}");
    ensure!(names.len() == expected.len(), "one is stored twice");
    arrived
}

async fn expect_dead(store: &Store, queue: &Queue, letters: &[Letter]) -> Result<()> {
    let selection = Selection::of_subscription(queue.subscription);
    let found: Vec<DeadLetter> = dead_letter::list(store, &selection, 10_000).await?;
    for letter in letters {
        let Fate::Dead(cause) = letter.fate else { continue };
        let what = &letter.what;
        let dead = found.iter().find(|dead| dead.message.body == letter.body);
        let dead = dead.with_context(|| format!("{what}: no dead letter with its bytes"))?;
        ensure!(dead.error.contains(cause), "{what}: {}", dead.error);
        // Refused before any attempt.
        ensure!(dead.attempts == 0, "{what}: {} attempts", dead.attempts);
        ensure!(dead.message.topic == queue.topic, "{what}: {}", dead.message.topic);
    }
    let expected = letters.iter().filter(|letter| is_dead(letter)).count();
    let strange = found.iter().find(|dead| {
        !letters
            .iter()
            .any(|letter| is_dead(letter) && letter.body == dead.message.body)
    });
    ensure!(
        strange.is_none(),
        "dead and not expected: {:?}",
        strange.map(|dead| (&dead.error, dead.message.body.len()))
    );
    ensure!(
        found.len() == expected,
        "{} dead letters, and not {expected}",
        found.len()
    );
    Ok(())
}

/// Reads a list from its first page to its last.
async fn turn_pages(running: &Posthaste, list: &str) -> Result<()> {
    let mut path = list.to_owned();
    for _page in 0..100 {
        let page: Value = serde_json::from_str(&running.answers(&path, 200).await?)?;
        let Some(cursor) = page["next_cursor"].as_str() else {
            return Ok(());
        };
        path = format!("{list}&cursor={cursor}");
    }
    anyhow::bail!("no end of pages")
}

async fn over_sql(database: TestDatabase, largest: usize) -> Result<()> {
    let door = Door::sql(database.url(), largest)?;
    all_letters(&database, "sql:", &door).await?;
    if let Door::Sql { store, .. } = door {
        store.close().await;
    }
    database.finish().await
}

async fn over_rabbitmq(database: TestDatabase, largest: usize) -> Result<()> {
    let broker = PrivateRabbitmq::launch(26_920).await?;
    let url = broker.url();
    all_letters(&database, &url, &Door::amqp(&url, largest).await?).await?;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_sqlite() -> Result<()> {
    alone(LIMIT, async { over_sql(TestDatabase::sqlite()?, LARGE).await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_postgres() -> Result<()> {
    alone(LIMIT, async { over_sql(TestDatabase::postgres().await?, MEDIUM).await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_mysql() -> Result<()> {
    alone(LIMIT, async { over_sql(TestDatabase::mysql().await?, LARGE).await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_to_postgres() -> Result<()> {
    alone(LIMIT, async {
        over_rabbitmq(TestDatabase::postgres().await?, LARGE).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_to_mysql() -> Result<()> {
    alone(LIMIT, async {
        over_rabbitmq(TestDatabase::mysql().await?, MEDIUM).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_to_postgres() -> Result<()> {
    alone(LIMIT, async {
        let kafka = PrivateKafka::launch(27_820).await?;
        let database = TestDatabase::postgres().await?;
        all_letters(&database, &kafka.url(), &Door::kafka(&kafka.servers())?).await?;
        database.finish().await
    })
    .await
}
