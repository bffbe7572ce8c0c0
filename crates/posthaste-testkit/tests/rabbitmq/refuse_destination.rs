//! A destination that takes nothing, and messages that no transport can ever take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use anyhow::{Result, ensure};
use chrono::Utc;
use lapin::types::{AMQPValue, FieldTable};
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, Message, Roles, Store, StoreOptions, Tuning, failpoint, outbox,
};
use posthaste_testkit::servers::{self, PrivateRabbitmq};
use posthaste_testkit::{TestDatabase, bare_message, wait_until};

use crate::foreign_client::Client;
use crate::shop::{LIMIT, topic};

/// Four pages of the relay.
const STUCK: usize = 2_000;
const OTHERS: usize = 200;

async fn open(database: &TestDatabase) -> Result<Store> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    Ok(store)
}

fn relay(store: &Store, url: &str) -> Result<Engine> {
    Ok(Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::open(url, store)?,
        subscriptions: vec![],
        roles: Roles {
            worker: false,
            relay: true,
        },
        tuning: Tuning::default(),
    }))
}

async fn append(store: &Store, messages: Vec<Message>, scheduled: bool) -> Result<()> {
    let due = scheduled.then(Utc::now);
    let mut tx = store.begin().await?;
    let rows = messages.into_iter().map(|message| (message, due)).collect();
    outbox::append_all(&mut tx, "shop", rows).await?;
    Ok(tx.commit().await?)
}

fn messages(topic: &str, count: usize) -> Vec<Message> {
    let message = |n| bare_message(topic, Some(&format!("k{n}")));
    (0..count).map(message).collect()
}

async fn count(store: &Store, topic: &str, status: &str) -> Result<usize> {
    let sql = "SELECT COUNT(*) AS number FROM outbox_messages WHERE topic = $1 AND status = $2";
    let rows = store.query(sql, vec![topic.into(), status.into()]).await?;
    Ok(usize::try_from(rows[0].get::<i64>("number")?)?)
}

async fn wait_for(store: &Store, topic: &str, status: &str, number: usize) -> Result<()> {
    wait_until(&format!("{number} rows {status}"), LIMIT, || async {
        (count(store, topic, status).await.ok()? == number).then_some(())
    })
    .await
}

/// Batches that were sent and pages that were read until the relay had marked the messages of the other queue.
#[derive(Default)]
struct Effort {
    pages: AtomicU32,
    batches: AtomicU32,
    over: AtomicBool,
}

async fn others_pass(database: TestDatabase, scheduled: bool) -> Result<()> {
    let (url, full, open_queue) = (servers::rabbitmq()?, topic(), topic());
    let client = Client::connect(&url).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    client.declare(&full, arguments).await?;
    let store = open(&database).await?;
    append(&store, messages(&full, STUCK), scheduled).await?;
    append(&store, messages(&open_queue, OTHERS), scheduled).await?;
    let effort = Arc::new(Effort::default());
    let seen = (effort.clone(), store.clone(), open_queue.clone());
    failpoint::install(Some(Arc::new(move |point| {
        let (effort, store, topic) = seen.clone();
        Box::pin(async move {
            // The full queue is tried again and again, however late the test looks.
            if effort.over.load(SeqCst) {
                return;
            }
            match point {
                "relay.claimed" | "relay.due" => drop(effort.pages.fetch_add(1, SeqCst)),
                "relay.publishing" => drop(effort.batches.fetch_add(1, SeqCst)),
                "relay.marked" => {
                    let published = count(&store, &topic, "published").await;
                    effort.over.store(published.is_ok_and(|it| it == OTHERS), SeqCst);
                }
                _ => {}
            }
        })
    })));
    let engine = relay(&store, &url)?;
    wait_for(&store, &open_queue, "published", OTHERS).await?;
    let (pages, batches) = (effort.pages.load(SeqCst), effort.batches.load(SeqCst));
    failpoint::install(None);
    ensure!(pages <= 8, "{pages} pages were read for one of others");
    ensure!(batches <= 4, "{batches} batches were sent for one of others");
    ensure!(
        count(&store, &full, "pending").await? > STUCK / 2,
        "the queue is not full"
    );
    // What comes while the destination is held back goes out, too.
    append(&store, messages(&open_queue, OTHERS), scheduled).await?;
    wait_for(&store, &open_queue, "published", 2 * OTHERS).await?;
    // It comes back without a bound.
    client.delete(&full).await?;
    wait_for(&store, &full, "published", STUCK).await?;
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

#[tokio::test]
async fn a_full_queue_keeps_no_other_waiting() -> Result<()> {
    others_pass(TestDatabase::postgres().await?, false).await
}

#[tokio::test]
async fn a_full_queue_keeps_no_other_waiting_on_mysql() -> Result<()> {
    others_pass(TestDatabase::mysql().await?, false).await
}

#[tokio::test]
async fn scheduled_rows_for_a_full_queue_keep_no_other_waiting() -> Result<()> {
    others_pass(TestDatabase::sqlite()?, true).await
}

async fn what_can_never_be_sent_is_given_up(database: TestDatabase, url: &str) -> Result<()> {
    let (store, topic) = (open(&database).await?, topic());
    let message = |topic: &str, key: &str| bare_message(topic, Some(key));
    let too_large = Message {
        body: vec![b'x'; 2_000],
        ..message(&topic, "large")
    };
    let mut headers = message(&topic, "headers");
    headers.headers.insert("n".to_owned(), "v".repeat(400_000));
    // As many characters as a name may have, and twice as many bytes.
    let no_name = message(&"\u{fc}".repeat(200), "name");
    let dead = [too_large.id, headers.id, no_name.id];
    let behind = ["large", "headers"].map(|key| message(&topic, key));
    let rows = [too_large, headers, no_name].into_iter().chain(behind).collect();
    append(&store, rows, false).await?;
    let engine = relay(&store, url)?;
    wait_for(&store, &topic, "published", 2).await?;
    let sql =
        "SELECT event_id, error FROM outbox_messages WHERE status = 'dead' AND failed_at IS NOT NULL ORDER BY seq";
    let letters = wait_until("dead rows", LIMIT, || async {
        let rows = store.query(sql, vec![]).await.ok()?;
        (rows.len() == dead.len()).then_some(rows)
    })
    .await?;
    for (row, id) in letters.iter().zip(dead) {
        ensure!(row.uuid("event_id")? == id.0, "another one is dead");
        let error: String = row.get("error")?;
        ensure!(!error.is_empty(), "{id} has no error");
    }
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_sent_is_given_up_and_its_key_goes_on() -> Result<()> {
    let server = PrivateRabbitmq::launch(26_720).await?;
    server.limit_messages(1_000).await?;
    let url = server.url();
    what_can_never_be_sent_is_given_up(TestDatabase::sqlite()?, &url).await?;
    what_can_never_be_sent_is_given_up(TestDatabase::postgres().await?, &url).await?;
    what_can_never_be_sent_is_given_up(TestDatabase::mysql().await?, &url).await
}
