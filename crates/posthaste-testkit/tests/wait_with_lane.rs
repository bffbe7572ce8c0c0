//! A message that the transport refuses holds back those of its key, however many pages of the outbox they fill.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::broker::memory::MemoryBroker;
use posthaste::failpoint;
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, Message, MessageId, Roles, Store, StoreOptions, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, bare_message, wait_until};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(90);
/// More than two pages of the relay.
const MESSAGES: usize = 1_100;
/// Longer than a key waits after its first failure.
const SLOW_LOOK: Duration = Duration::from_millis(300);

fn message(key: &str) -> Message {
    bare_message("lane", Some(key))
}

fn relay(store: &Store, broker: &MemoryBroker) -> Engine {
    Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::Memory(broker.clone()),
        subscriptions: vec![],
        roles: Roles {
            worker: false,
            relay: true,
        },
        tuning: Tuning::default(),
    })
}

/// Makes each look at a page but the first take longer than the key has to wait; counts the pages and the batches.
fn slow_pages() -> (Arc<AtomicU32>, Arc<AtomicU32>) {
    let (pages, batches) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (read, sent) = (pages.clone(), batches.clone());
    failpoint::install(Some(Arc::new(move |point| {
        match point {
            "relay.claimed" if read.fetch_add(1, SeqCst) > 0 => {
                // That time passes is what it is about.
                let slow = tokio::time::timeout(SLOW_LOOK, std::future::pending::<()>());
                return Box::pin(async { drop(slow.await) });
            }
            "relay.publishing" => {
                sent.fetch_add(1, SeqCst);
            }
            _ => {}
        }
        Box::pin(std::future::ready(()))
    })));
    (pages, batches)
}

#[tokio::test]
async fn no_page_overtakes_the_one_before() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let mut tx = store.begin().await?;
    // Another key's is taken: the relay looks again at once, while the refused key waits.
    let other = message("other");
    let ordered: Vec<Message> = (0..MESSAGES).map(|_| message("one")).collect();
    let ids: Vec<MessageId> = ordered.iter().map(|message| message.id).collect();
    for message in std::iter::once(other).chain(ordered) {
        outbox::append(&mut tx, "shop", message).await?;
    }
    tx.commit().await?;
    let broker = MemoryBroker::default();
    broker.refuse(Some(ids[0].to_string()));
    let (pages, batches) = slow_pages();
    let engine = relay(&store, &broker);
    // The first one has the other key's message; each further one is a retry.
    let sent = wait_until("retries", LIMIT, || async {
        let sent = batches.load(SeqCst);
        (sent > 4).then_some(sent)
    })
    .await?;
    let read = pages.load(SeqCst);
    ensure!(
        read <= sent + 1,
        "{read} pages with bodies for {sent} batches: what waits is read"
    );
    let early = broker.published().len();
    ensure!(early == 1, "{} overtook the message that was refused", early - 1);
    failpoint::install(None);
    broker.refuse(None);
    wait_until("all on the wire", LIMIT, || async {
        let known: HashSet<MessageId> = broker.published().iter().map(|message| message.id).collect();
        (known.len() == MESSAGES + 1).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let published: Vec<MessageId> = broker.published().iter().skip(1).map(|message| message.id).collect();
    ensure!(published == ids, "the order of the key is lost");
    store.close().await;
    database.finish().await
}

/// A look that goes on behind what waits must not find a message whose predecessor was committed behind it.
#[tokio::test]
async fn what_follows_a_late_commit_waits_for_the_next_look() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let stuck = message("stuck");
    let broker = MemoryBroker::default();
    broker.refuse(Some(stuck.id.to_string()));
    let append = async |messages: Vec<Message>| -> Result<()> {
        let mut tx = store.begin().await?;
        let rows = messages.into_iter().map(|message| (message, None)).collect();
        outbox::append_all(&mut tx, "shop", rows).await?;
        Ok(tx.commit().await?)
    };
    append(vec![stuck]).await?;
    let (late, after) = (message("one"), message("one"));
    let (late_id, after_id) = (late.id, after.id);
    let mut open = store.begin().await?;
    outbox::append(&mut open, "shop", late).await?;
    append((0..MESSAGES + 400).map(|n| message(&format!("k{n}"))).collect()).await?;

    // The second batch is the first of a look in which the stuck message waits.
    let (batches, publishing, go_on) = (AtomicU32::new(0), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, goes_on) = (publishing.clone(), go_on.clone());
    failpoint::install(Some(Arc::new(move |point| {
        if point != "relay.publishing" || batches.fetch_add(1, SeqCst) != 1 {
            return Box::pin(std::future::ready(()));
        }
        let (told, goes_on) = (told.clone(), goes_on.clone());
        Box::pin(async move {
            told.notify_one();
            goes_on.notified().await;
        })
    })));
    let engine = relay(&store, &broker);
    tokio::time::timeout(LIMIT, publishing.notified()).await?;
    open.commit().await?;
    append(vec![after]).await?;
    go_on.notify_one();
    let order = wait_until("both of the key", LIMIT, || async {
        let published = broker.published();
        let of_key = published.iter().filter(|one| [late_id, after_id].contains(&one.id));
        let order: Vec<MessageId> = of_key.map(|one| one.id).collect();
        (order.len() >= 2).then_some(order)
    })
    .await?;
    failpoint::install(None);
    engine.stop(LIMIT).await;
    ensure!(order == [late_id, after_id], "the later one went first");
    store.close().await;
    database.finish().await
}
