//! A service whose messages say what is to happen to them.

use std::time::Duration;

use anyhow::Result;
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Failure, Handle, Handled, Message, RetryPolicy, Roles,
    Store, StoreOptions, Subscription, Tuning, outbox,
};
use serde::{Deserialize, Serialize};

use crate::wait_until;

pub(super) const LIMIT: Duration = Duration::from_secs(30);
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
}

impl Event for Work {
    const TYPE: &'static str = "work";
    const TOPIC: &'static str = "work";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
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
        match work.act {
            Act::FailTwice if cx.attempt() <= 2 => Err(Told.into()),
            Act::Succeed | Act::FailTwice => Ok(()),
            Act::AlwaysFail => Err(Told.into()),
            Act::Reject => Err(Failure::Reject("not wanted".to_owned())),
            Act::Panic => panic!("told to panic"),
            Act::NeverReturn => std::future::pending().await,
            Act::Later if cx.message().time > posthaste::message::now() - chrono::Duration::milliseconds(300) => {
                Err(Failure::Later(Duration::from_millis(400)))
            }
            Act::Later => Ok(()),
        }
    }
}

const EFFECTS: Migration = Migration {
    version: 1,
    name: "effects",
    up: Sql {
        postgres: "CREATE TABLE effects (seq BIGSERIAL PRIMARY KEY, message_key TEXT, n BIGINT)",
        sqlite: "CREATE TABLE effects (seq INTEGER PRIMARY KEY AUTOINCREMENT, message_key TEXT, n INTEGER)",
    },
    down: Sql {
        postgres: "DROP TABLE effects",
        sqlite: "DROP TABLE effects",
    },
};

pub(super) struct Suite {
    pub store: Store,
    pub broker: Broker,
}

impl Suite {
    pub async fn open(url: &str) -> Result<Self> {
        let store = Store::open(url, StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        store.migrate_up("suite", &[EFFECTS]).await?;
        let broker = Broker::open("sql:", &store)?;
        Ok(Self { store, broker })
    }

    fn subscription(ordered: bool) -> Subscription {
        let mut subscription = Subscription::new::<Work, _>(NAME, Work::TOPIC, Worker);
        subscription.ordered = ordered;
        subscription.deadline = Duration::from_millis(300);
        subscription.retry = RetryPolicy {
            attempts: 3,
            immediate: 1,
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_millis(100),
        };
        subscription
    }

    pub fn start(&self, ordered: bool) -> Engine {
        Engine::start(EngineConfig {
            service: SERVICE.to_owned(),
            store: self.store.clone(),
            broker: self.broker.clone(),
            subscriptions: vec![Self::subscription(ordered)],
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

    pub async fn append(&self, works: &[Work]) -> Result<Vec<Message>> {
        let mut tx = self.store.begin().await?;
        let messages: Vec<Message> = works.iter().map(Message::of).collect::<Result<_, _>>()?;
        outbox::append_all(
            &mut tx,
            SERVICE,
            messages.iter().map(|message| (message.clone(), None)).collect(),
        )
        .await?;
        tx.commit().await?;
        Ok(messages)
    }

    async fn count(&self, sql: &str) -> Result<i64> {
        Ok(self.store.query(sql, vec![]).await?[0].get("n")?)
    }

    /// Waits until the outbox, the queue and the parked rows are gone.
    pub async fn quiet(&self) -> Result<()> {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') + (SELECT COUNT(*) FROM queue_messages) \
            + (SELECT COUNT(*) FROM inbox_messages WHERE status = 'parked') AS n";
        wait_until("an empty outbox, queue and inbox", LIMIT, || async {
            (self.count(sql).await.ok()? == 0).then_some(())
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
