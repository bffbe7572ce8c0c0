//! A service whose messages say what is to happen to them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use posthaste::broker::memory::MemoryBroker;
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Failure, Handle, HandleOutside, Handled, Message,
    Outside, RetryPolicy, Roles, Store, StoreOptions, Subscription, Tuning, outbox,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wait_until;

pub(super) const LIMIT: Duration = Duration::from_secs(90);
pub(super) const SERVICE: &str = "suite";
const NAME: &str = "suite.work";

/// What the handler is to do with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub key: String,
    pub n: i64,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    Succeed,
    FailTwice,
    AlwaysFail,
    Reject,
    Panic,
    NeverReturn,
    Later,
    /// The contract's own rule panics on it.
    PanicInRule,
}

impl Event for Work {
    const TYPE: &'static str = "work";
    const TOPIC: &'static str = "work";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }

    fn validate(&self) -> Result<(), String> {
        assert!(self.act != Act::PanicInRule, "told to panic in a rule");
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("told to fail")]
struct Told;

struct Worker;

impl Handle<Work> for Worker {
    async fn handle(&self, work: Work, cx: &mut Cx<'_>) -> Handled {
        // Not idempotent on purpose: a second effect shows.
        let values = vec![work.key.as_str().into(), work.n.into()];
        cx.tx()
            .execute("INSERT INTO effects (message_key, n) VALUES ($1, $2)", values)
            .await?;
        work.act.carry_out(cx.attempt(), cx.message()).await
    }
}

impl HandleOutside<Work> for Worker {
    async fn act(&self, work: Work, cx: &Outside) -> Handled {
        let values = vec![work.key.as_str().into(), work.n.into()];
        // On SQLite it would wait in vain for a transaction around it.
        cx.store()
            .execute("INSERT INTO effects (message_key, n) VALUES ($1, $2)", values)
            .await?;
        work.act.carry_out(cx.attempt(), cx.message()).await
    }
}

impl Act {
    async fn carry_out(self, attempt: u32, message: &Message) -> Handled {
        match self {
            Self::FailTwice if attempt <= 2 => Err(Told.into()),
            Self::Succeed | Self::FailTwice => Ok(()),
            Self::AlwaysFail => Err(Told.into()),
            Self::Reject => Err(Failure::Reject("not wanted".to_owned())),
            Self::Panic => panic!("told to panic"),
            Self::NeverReturn => std::future::pending().await,
            Self::Later if message.time > posthaste::message::now() - chrono::Duration::milliseconds(300) => {
                Err(Failure::Later(Duration::from_millis(400)))
            }
            Self::Later | Self::PanicInRule => Ok(()),
        }
    }
}

const EFFECTS: Migration = Migration {
    version: 1,
    name: "effects",
    up: Sql {
        postgres: "CREATE TABLE effects (seq BIGSERIAL PRIMARY KEY, message_key TEXT, n BIGINT)",
        sqlite: "CREATE TABLE effects (seq INTEGER PRIMARY KEY AUTOINCREMENT, message_key TEXT, n INTEGER)",
        mysql: "CREATE TABLE IF NOT EXISTS effects (seq BIGINT AUTO_INCREMENT PRIMARY KEY, message_key TEXT, n BIGINT)",
    },
    down: Sql {
        postgres: "DROP TABLE effects",
        sqlite: "DROP TABLE effects",
        mysql: "DROP TABLE IF EXISTS effects",
    },
};

/// Where a suite runs: a database, a transport and a topic that no other test uses.
pub struct At {
    database: String,
    transport: String,
    pub(super) topic: String,
    memory: MemoryBroker,
}

impl At {
    /// On the database behind `database` and the transport behind `transport`.
    pub fn new(database: &str, transport: &str) -> Self {
        Self {
            database: database.to_owned(),
            transport: transport.to_owned(),
            topic: format!("work-{}", Uuid::new_v4().simple()),
            memory: MemoryBroker::default(),
        }
    }
}

pub(super) struct Suite {
    pub store: Store,
    pub broker: Broker,
    pub topic: String,
    sent: Mutex<HashSet<Uuid>>,
}

impl Suite {
    /// A process of its own, as it were: another connection to everything.
    pub async fn open(at: &At) -> Result<Self> {
        let store = Store::open(&at.database, StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        store.migrate_up("suite", &[EFFECTS]).await?;
        let broker = match at.transport.as_str() {
            // The one that outlives its clients.
            "memory:" => Broker::Memory(at.memory.clone()),
            url => Broker::open(url, &store)?,
        };
        Ok(Self {
            store,
            broker,
            topic: at.topic.clone(),
            sent: Mutex::default(),
        })
    }

    pub fn subscription(&self, ordered: bool) -> Subscription {
        self.with_rules(Subscription::new::<Work, _>(NAME, &self.topic, Worker), ordered)
    }

    /// The same handler without a transaction.
    pub fn start_outside(&self) -> Engine {
        let mut subscription = self.with_rules(Subscription::outside::<Work, _>(NAME, &self.topic, Worker), false);
        // Its effects stay when it comes too late: only one that never returns may.
        subscription.deadline = Duration::from_secs(4);
        self.start_with(subscription)
    }

    fn with_rules(&self, mut subscription: Subscription, ordered: bool) -> Subscription {
        subscription.ordered = ordered;
        // Tests run at a time; a group of their own keeps them apart.
        subscription.group = Some(self.topic.clone());
        // Of three attempts, none of which a busy machine may take for one that never returns.
        subscription.deadline = Duration::from_secs(2);
        subscription.retry = RetryPolicy {
            attempts: 3,
            immediate: 1,
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_millis(100),
        };
        subscription
    }

    pub fn start(&self, ordered: bool) -> Engine {
        self.start_with(self.subscription(ordered))
    }

    pub fn start_with(&self, subscription: Subscription) -> Engine {
        Engine::start(EngineConfig {
            service: SERVICE.to_owned(),
            store: self.store.clone(),
            broker: self.broker.clone(),
            subscriptions: vec![subscription],
            roles: Roles {
                worker: true,
                relay: true,
            },
            tuning: Tuning {
                lease: Duration::from_secs(2),
                ..Tuning::default()
            },
        })
    }

    /// The message for `work`, which [`Suite::quiet`] waits for from now on.
    pub fn message(&self, work: &Work) -> Result<Message> {
        let mut message = Message::of(work)?;
        message.topic.clone_from(&self.topic);
        SERVICE.clone_into(&mut message.source);
        self.await_handled(&message);
        Ok(message)
    }

    pub fn await_handled(&self, message: &Message) {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(message.id.0);
    }

    pub async fn append(&self, works: &[Work]) -> Result<Vec<Message>> {
        let mut tx = self.store.begin().await?;
        let messages: Vec<Message> = works.iter().map(|work| self.message(work)).collect::<Result<_>>()?;
        let rows = messages.iter().map(|message| (message.clone(), None)).collect();
        outbox::append_all(&mut tx, SERVICE, rows).await?;
        tx.commit().await?;
        Ok(messages)
    }

    /// Publishes past the outbox.
    pub async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        for message in &messages {
            self.await_handled(message);
        }
        self.publish_until_confirmed(messages).await
    }

    /// As [`Suite::publish`], for messages that [`Suite::quiet`] need not wait for. A confirmation may be late where the
    /// topic has to be made first: from the first message without one on they are published again, under the same ids.
    pub async fn publish_until_confirmed(&self, mut messages: Vec<Message>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let confirmed = self.broker.publish(messages.clone()).await;
            let Some(first) = confirmed.iter().position(Result::is_err) else {
                return Ok(());
            };
            if Instant::now() > end {
                return confirmed.into_iter().try_for_each(|it| it).context("not confirmed");
            }
            messages.drain(..first);
        }
    }

    /// Waits until everything sent through this suite is handled or dead and nothing waits to be.
    pub async fn quiet(&self) -> Result<()> {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') AS outbox, \
            (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) AS parked, \
            (SELECT COUNT(*) FROM queue_messages) AS queued";
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let what = "an empty outbox and queue and everything handled";
        wait_until(what, LIMIT, || async {
            let row = &self.store.query(sql, vec![]).await.ok()?[0];
            let waiting = ["outbox", "parked", "queued"].map(|column| row.get::<i64>(column).unwrap_or(1));
            if waiting != [0, 0, 0] {
                return None;
            }
            let settled = "SELECT message_id FROM inbox_messages WHERE status NOT IN ('retrying', 'waiting')";
            let rows = self.store.query(settled, vec![]).await.ok()?;
            let known: HashSet<Uuid> = rows.iter().filter_map(|row| row.uuid("message_id").ok()).collect();
            sent.is_subset(&known).then_some(())
        })
        .await
    }

    pub async fn effects(&self, key: &str) -> Result<Vec<i64>> {
        let rows = self
            .store
            .query(
                "SELECT n FROM effects WHERE message_key = $1 ORDER BY seq",
                vec![key.into()],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get("n")).collect::<Result<_, _>>()?)
    }
}

pub(super) fn work(key: &str, n: i64, act: Act) -> Work {
    Work {
        key: key.to_owned(),
        n,
        act,
    }
}
