//! Numbers are taken before they commit: a lower one can appear after a higher one (not on SQLite).

use std::time::Duration;

use posthaste::broker::memory::MemoryBroker;
use posthaste::failpoint::{self, Mutant};
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, Message, MessageId, Roles, Store, StoreOptions, Tuning, outbox,
};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres};
use posthaste_testkit::{TestDatabase, bare_message, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// A foreign transaction that ends, as those of the leases, hides the fault in a round.
const ROUNDS: usize = 40;

fn message(id: MessageId) -> Message {
    Message {
        id,
        ..bare_message("late", None)
    }
}

fn relay(store: &Store, broker: &MemoryBroker, lease: Duration) -> Engine {
    Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker: Broker::Memory(broker.clone()),
        subscriptions: vec![],
        roles: Roles {
            worker: false,
            relay: true,
        },
        tuning: Tuning {
            lease,
            ..Tuning::default()
        },
    })
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
    let engine = relay(&store, &broker, Duration::from_secs(1));
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

/// The transaction with the higher id holds the lower number, and commits after the relay has passed it. A snapshot's xmax
/// is one above the last id that ended: it says nothing of the id that comes next. Returns in how many rounds the
/// message with the lower number went out after the next one of its key.
async fn inversions(rounds: usize) -> anyhow::Result<usize> {
    let server = PrivatePostgres::launch(25_960).await?;
    let database = TestDatabase::on(PostgresUrl::parse(server.url())?).await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let broker = MemoryBroker::default();
    // Renewals take ids, too.
    let engine = relay(&store, &broker, Duration::from_secs(60));
    let mut inverted = 0;
    for round in 0..rounds {
        let key = format!("key-{round}");
        let of_key = || bare_message("late", Some(&key));
        let (first, second, other) = (of_key(), of_key(), message(MessageId::new()));
        let (first_id, second_id, other_id) = (first.id, second.id, other.id);
        let mut lower_id = store.begin().await?;
        lower_id
            .query("SELECT pg_current_xact_id()::text AS id", vec![])
            .await?;
        let mut higher_id = store.begin().await?;
        outbox::append(&mut higher_id, "shop", first).await?;
        outbox::append(&mut lower_id, "shop", other).await?;
        lower_id.commit().await?;
        published(&broker, other_id, LIMIT).await?;
        wait_until("the mark", LIMIT, || async {
            let sql = "SELECT 1 AS one FROM outbox_messages WHERE status = 'published' AND event_id = $1";
            let id = store.dialect().uuid(other_id.0);
            (store.query(sql, vec![id]).await.ok()?.len() == 1).then_some(())
        })
        .await?;
        higher_id.commit().await?;
        let mut tx = store.begin().await?;
        outbox::append(&mut tx, "shop", second).await?;
        tx.commit().await?;
        published(&broker, second_id, LIMIT).await?;
        let sent = broker.published();
        let place = |id| sent.iter().position(|message| message.id == id);
        inverted += usize::from(place(first_id).is_none_or(|first| Some(first) > place(second_id)));
    }
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await?;
    Ok(inverted)
}

#[tokio::test]
async fn a_lower_number_of_a_higher_id_keeps_its_place() -> anyhow::Result<()> {
    let inverted = inversions(ROUNDS).await?;
    anyhow::ensure!(inverted == 0, "{inverted} of {ROUNDS} keys lost their order");
    Ok(())
}

#[tokio::test]
async fn a_snapshot_s_xmax_would_have_lost_the_order() -> anyhow::Result<()> {
    failpoint::mutate(Some(Mutant::SnapshotXmax));
    let inverted = inversions(ROUNDS).await;
    failpoint::mutate(None);
    anyhow::ensure!(
        inverted? > 0,
        "the mutant kept the order, so the test above proves nothing"
    );
    Ok(())
}

#[tokio::test]
async fn a_sequence_with_a_cache_is_warned_about() -> anyhow::Result<()> {
    let database = TestDatabase::postgres().await?;
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let cache = "ALTER SEQUENCE queue_messages_seq_seq CACHE 20";
    store.execute(cache, vec![]).await?;
    let (log, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || Lines(log.clone()))
        .finish();
    // The engine of this test runs on this thread.
    let _log = tracing::subscriber::set_default(subscriber);
    let engine = relay(&store, &MemoryBroker::default(), Duration::from_secs(1));
    let warning = tokio::time::timeout(LIMIT, async {
        loop {
            match lines.recv().await {
                Some(line) if line.contains("ALTER SEQUENCE") => return Some(line),
                Some(_) => {}
                None => return None,
            }
        }
    })
    .await?;
    let warning = warning.unwrap_or_default();
    anyhow::ensure!(
        warning.contains("WARN") && warning.contains("ALTER SEQUENCE queue_messages_seq_seq CACHE 1"),
        "{warning}"
    );
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

struct Lines(tokio::sync::mpsc::UnboundedSender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The receiver is gone at the end.
        drop(self.0.send(String::from_utf8_lossy(bytes).into_owned()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
