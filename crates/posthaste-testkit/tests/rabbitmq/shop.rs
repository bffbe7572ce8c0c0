//! A service that writes down each message it handles; nothing in its table is unique, so a repeat shows.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::store::{Migration, Sql};
use posthaste::{
    Broker, CORE_MIGRATIONS, Cx, Engine, EngineConfig, Event, Handle, Handled, Message, Publisher, Roles, Store,
    StoreOptions, Subscription, Tuning, outbox,
};
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

pub const LIMIT: Duration = Duration::from_secs(240);
const SERVICE: &str = "shop";

/// No order asked for.
#[derive(Serialize, Deserialize)]
pub struct Sale {
    pub n: i64,
    #[serde(default)]
    pub text: String,
}

impl Event for Sale {
    const TYPE: &'static str = "sale";
    const TOPIC: &'static str = "sale";
}

/// With a key of its own in the body.
#[derive(Serialize, Deserialize)]
pub struct KeyedSale {
    pub n: i64,
    pub key: String,
}

impl Event for KeyedSale {
    const TYPE: &'static str = "sale";
    const TOPIC: &'static str = "sale";

    fn dedup_key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

/// In order per key.
#[derive(Serialize, Deserialize)]
pub struct Step {
    pub key: String,
    pub n: i64,
}

impl Event for Step {
    const TYPE: &'static str = "step";
    const TOPIC: &'static str = "step";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

struct Book;

impl Handle<Sale> for Book {
    async fn handle(&self, sale: Sale, cx: &mut Cx<'_>) -> Handled {
        effect(cx, "", sale.n).await
    }
}

impl Handle<KeyedSale> for Book {
    async fn handle(&self, sale: KeyedSale, cx: &mut Cx<'_>) -> Handled {
        effect(cx, "", sale.n).await
    }
}

impl Handle<Step> for Book {
    async fn handle(&self, step: Step, cx: &mut Cx<'_>) -> Handled {
        effect(cx, &step.key, step.n).await
    }
}

async fn effect(cx: &mut Cx<'_>, key: &str, n: i64) -> Handled {
    let insert = "INSERT INTO effects (effect_key, n) VALUES ($1, $2)";
    cx.tx().execute(insert, vec![key.into(), n.into()]).await?;
    Ok(())
}

const EFFECTS: Migration = Migration {
    version: 1,
    name: "effects",
    up: Sql {
        postgres: "CREATE TABLE effects (seq BIGSERIAL PRIMARY KEY, effect_key TEXT, n BIGINT)",
        mysql: "CREATE TABLE effects (seq BIGINT AUTO_INCREMENT PRIMARY KEY, effect_key TEXT, n BIGINT)",
        sqlite: "CREATE TABLE effects (seq INTEGER PRIMARY KEY AUTOINCREMENT, effect_key TEXT, n INTEGER)",
    },
    down: Sql {
        postgres: "DROP TABLE effects",
        mysql: "DROP TABLE effects",
        sqlite: "DROP TABLE effects",
    },
};

/// One process of the shop, as it were.
pub struct Shop {
    pub store: Store,
    pub broker: Broker,
    pub topic: String,
}

impl Shop {
    pub async fn open(database: &TestDatabase, transport: &str, topic: &str) -> Result<Self> {
        let store = Store::open(database.url(), StoreOptions::default())?;
        store.migrate_up("core", CORE_MIGRATIONS).await?;
        store.migrate_up("shop", &[EFFECTS]).await?;
        Ok(Self {
            broker: Broker::open(transport, &store)?,
            store,
            topic: topic.to_owned(),
        })
    }

    pub fn sales(&self) -> Engine {
        self.start(vec![self.selling()])
    }

    pub fn selling(&self) -> Subscription {
        let mut subscription = Subscription::new::<Sale, _>("shop.sales", &self.topic, Book);
        // Tests run at a time; a group of their own keeps them apart.
        subscription.group = Some(self.topic.clone());
        subscription
    }

    /// The same, of messages with a key of their own.
    pub fn keyed_sales(&self) -> Engine {
        let mut subscription = Subscription::new::<KeyedSale, _>("shop.sales", &self.topic, Book);
        subscription.group = Some(self.topic.clone());
        self.start(vec![subscription])
    }

    pub fn steps(&self, batch: usize) -> Engine {
        let mut subscription = Subscription::new::<Step, _>("shop.steps", &self.topic, Book);
        subscription.ordered = true;
        subscription.batch = batch;
        subscription.group = Some(self.topic.clone());
        self.start(vec![subscription])
    }

    pub fn start(&self, subscriptions: Vec<Subscription>) -> Engine {
        Engine::start(EngineConfig {
            service: SERVICE.to_owned(),
            store: self.store.clone(),
            broker: self.broker.clone(),
            subscriptions,
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

    pub fn message<E: Event>(&self, event: &E) -> Result<Message> {
        let mut message = Message::of(event)?;
        message.topic.clone_from(&self.topic);
        Ok(message)
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(SERVICE, self.store.clone(), self.broker.clone())
    }

    /// Through the outbox.
    pub async fn append<E: Event>(&self, events: impl IntoIterator<Item = E>) -> Result<()> {
        let rows = events
            .into_iter()
            .map(|event| Ok((self.message(&event)?, None)))
            .collect::<Result<_>>()?;
        let mut tx = self.store.begin().await?;
        outbox::append_all(&mut tx, SERVICE, rows).await?;
        Ok(tx.commit().await?)
    }

    pub async fn append_sales(&self, numbers: std::ops::Range<i64>) -> Result<()> {
        self.append(numbers.map(sale)).await
    }

    /// The effects of `key` in the order of their commits.
    pub async fn effects(&self, key: &str) -> Result<Vec<i64>> {
        let sql = "SELECT n FROM effects WHERE effect_key = $1 ORDER BY seq";
        let rows = self.store.query(sql, vec![key.into()]).await?;
        Ok(rows.iter().map(|row| row.get("n")).collect::<Result<_, _>>()?)
    }

    pub async fn count(&self, sql: &str) -> Result<i64> {
        Ok(self.store.query(sql, vec![]).await?[0].get("n")?)
    }

    pub async fn dead(&self) -> Result<i64> {
        self.count("SELECT COUNT(*) AS n FROM inbox_messages WHERE status = 'dead'")
            .await
    }

    /// Waits until there are `count` sales.
    pub async fn wait_for(&self, count: i64) -> Result<()> {
        let what = format!("{count} effects");
        let waited = wait_until(&what, LIMIT, || async {
            let found = self.count("SELECT COUNT(*) AS n FROM effects").await.ok()?;
            (found >= count).then_some(())
        });
        if let Err(error) = waited.await {
            let found = self.count("SELECT COUNT(*) AS n FROM effects").await?;
            let parked = self
                .count("SELECT COUNT(*) AS n FROM inbox_messages WHERE status IN ('retrying', 'waiting')")
                .await?;
            let pending = self
                .count("SELECT COUNT(*) AS n FROM outbox_messages WHERE status = 'pending'")
                .await?;
            return Err(error.context(format!("{found} effects, {parked} parked, {pending} pending")));
        }
        Ok(())
    }

    /// Waits until the sales `numbers` have had their effects, and ensures that it was one each.
    pub async fn sold_once(&self, numbers: std::ops::Range<i64>) -> Result<()> {
        self.wait_for(numbers.end - numbers.start).await?;
        let mut effects = self.effects("").await?;
        effects.sort_unstable();
        let expected: Vec<i64> = numbers.collect();
        ensure!(effects == expected, "{} effects, {effects:?}", effects.len());
        Ok(())
    }
}

pub fn sale(n: i64) -> Sale {
    Sale { n, text: String::new() }
}

/// A queue name that no other test uses.
pub fn topic() -> String {
    format!("shop-{}", uuid::Uuid::new_v4().simple())
}
