//! Numbers are taken before they commit: a lower one can appear after a higher one (not on SQLite).

use std::time::Duration;

use posthaste::broker::memory::MemoryBroker;
use posthaste::failpoint::{self, Mutant};
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, Message, MessageId, Roles, Store, StoreOptions, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, bare_message, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

fn message(id: MessageId) -> Message {
    Message {
        id,
        ..bare_message("late", None)
    }
}

async fn published(broker: &MemoryBroker, id: MessageId, limit: Duration) -> anyhow::Result<()> {
    wait_until("the message on the wire", limit, || async {
        broker.published().iter().any(|message| message.id == id).then_some(())
    })
    .await
}

/// Appends in a transaction that stays open while a later one commits and is carried over; answers
/// whether the row of the first one came too.
async fn late_row_is_carried(database: TestDatabase, limit: Duration) -> bool {
    let store = Store::open(database.url(), StoreOptions::default()).unwrap();
    store.migrate_up("core", CORE_MIGRATIONS).await.unwrap();
    let broker = MemoryBroker::default();
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::Memory(broker.clone()),
        subscriptions: vec![],
        roles: Roles {
            worker: false,
            relay: true,
        },
        tuning: Tuning {
            lease: Duration::from_secs(1),
            ..Tuning::default()
        },
    });
    let (late, early) = (MessageId::new(), MessageId::new());
    let mut open = store.begin().await.unwrap();
    outbox::append(&mut open, "shop", message(late)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    outbox::append(&mut tx, "shop", message(early)).await.unwrap();
    tx.commit().await.unwrap();
    published(&broker, early, LIMIT).await.unwrap();
    // The relay has marked what it saw, and so has passed the number that is still open.
    wait_until("the mark", LIMIT, || async {
        let sql = "SELECT 1 AS one FROM outbox_messages WHERE status = 'published'";
        (store.query(sql, vec![]).await.ok()?.len() == 1).then_some(())
    })
    .await
    .unwrap();
    // Further passes raise the relay's floor as far as it goes.
    for _ in 0..3 {
        let id = MessageId::new();
        let mut tx = store.begin().await.unwrap();
        outbox::append(&mut tx, "shop", message(id)).await.unwrap();
        tx.commit().await.unwrap();
        published(&broker, id, LIMIT).await.unwrap();
    }
    open.commit().await.unwrap();
    let carried = published(&broker, late, limit).await.is_ok();
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await.unwrap();
    carried
}

#[tokio::test]
async fn a_row_that_commits_late_is_carried() {
    let database = TestDatabase::postgres().await.unwrap();
    assert!(late_row_is_carried(database, LIMIT).await);
}

#[tokio::test]
async fn a_row_that_commits_late_is_carried_on_mysql() {
    let database = TestDatabase::mysql().await.unwrap();
    assert!(late_row_is_carried(database, LIMIT).await);
}

#[tokio::test]
async fn a_cursor_would_have_lost_it() {
    failpoint::mutate(Some(Mutant::Cursor));
    let database = TestDatabase::postgres().await.unwrap();
    let carried = late_row_is_carried(database, Duration::from_secs(3)).await;
    failpoint::mutate(None);
    assert!(!carried, "the mutant carried the row, so the test above proves nothing");
}
