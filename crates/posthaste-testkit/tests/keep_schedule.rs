//! Scheduled messages leave when they are due, whatever else is scheduled or refused.

use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use posthaste::broker::memory::MemoryBroker;
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, Message, MessageId, Roles, Store, StoreOptions, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, bare_message, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
/// One more than a relay reads in one go.
const PAGE: usize = 501;

struct Place {
    store: Store,
    broker: MemoryBroker,
    engine: Engine,
    database: TestDatabase,
}

impl Place {
    async fn open() -> Result<Self> {
        let database = TestDatabase::sqlite()?;
        let store = Store::open(database.url(), StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
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
            tuning: Tuning::default(),
        });
        Ok(Self {
            store,
            broker,
            engine,
            database,
        })
    }

    /// Appends `messages`, each at its time from now; at once without one.
    async fn append(&self, messages: Vec<(Message, Option<TimeDelta>)>) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let messages = messages
            .into_iter()
            .map(|(message, wait)| (message, wait.map(|wait| posthaste::message::now() + wait)));
        outbox::append_all(&mut tx, "shop", messages.collect()).await?;
        Ok(tx.commit().await?)
    }

    async fn is_published(&self, what: &str, id: MessageId) -> Result<()> {
        wait_until(what, LIMIT, || async {
            self.broker.published().iter().any(|one| one.id == id).then_some(())
        })
        .await
    }

    async fn finish(self) -> Result<()> {
        self.engine.stop(LIMIT).await;
        self.store.close().await;
        self.database.finish().await
    }
}

fn message(key: &str) -> Message {
    bare_message("timed", Some(key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_one_that_is_known_hides_no_earlier_one() -> Result<()> {
    let place = Place::open().await?;
    let (late, soon, at_once) = (message("late"), message("soon"), message("at once"));
    let (soon_id, first) = (soon.id, at_once.id);
    place
        .append(vec![(late, Some(TimeDelta::hours(1))), (at_once, None)])
        .await?;
    place.is_published("what is due at once", first).await?;
    place.append(vec![(soon, Some(TimeDelta::seconds(1)))]).await?;
    place.is_published("what was scheduled since", soon_id).await?;
    place.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_of_a_refused_key_keep_no_other_waiting() -> Result<()> {
    let place = Place::open().await?;
    let due = Some(TimeDelta::seconds(-10));
    let mut messages: Vec<_> = (0..PAGE).map(|_| (message("stuck"), due)).collect();
    let other = message("other");
    let (id, first) = (other.id, messages[0].0.id);
    place.broker.refuse(Some(first.to_string()));
    messages.push((other, Some(TimeDelta::seconds(-5))));
    place.append(messages).await?;
    place.is_published("the other key's", id).await?;
    place.finish().await
}
