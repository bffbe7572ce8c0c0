//! A small shop whose effects show every repeat and every loss: nothing in its tables is unique.

use anyhow::{Result, ensure};
use posthaste::store::{Migration, Sql};
use posthaste::{
    Cx, Event, Failure, Handle, HandleBatch, Handled, Message, Received, RetryPolicy, Store, Subscription, outbox,
};
use posthaste_testkit::explorer::{Client, Explorer, Scenario, Transport};
use serde::{Deserialize, Serialize};

const ORDERS: i64 = 7;
const STEPS: i64 = 7;
const KEYS: [&str; 2] = ["red", "blue"];
const ADVERTS: i64 = 3;

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    n: i64,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "order.placed";
    const TOPIC: &'static str = "orders";
}

#[derive(Serialize, Deserialize)]
struct Charged {
    n: i64,
}

impl Event for Charged {
    const TYPE: &'static str = "order.charged";
    const TOPIC: &'static str = "charges";
}

/// Steps of one key must keep their order, although some fail at first.
#[derive(Serialize, Deserialize)]
struct StepTaken {
    key: String,
    n: i64,
}

impl Event for StepTaken {
    const TYPE: &'static str = "step.taken";
    const TOPIC: &'static str = "steps";

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

/// Published past the outbox.
#[derive(Serialize, Deserialize)]
struct AdvertShown {
    n: i64,
}

impl Event for AdvertShown {
    const TYPE: &'static str = "advert.shown";
    const TOPIC: &'static str = "adverts";
}

/// An effect that is not idempotent: a row more and a sum that grows.
async fn effect(cx: &mut Cx<'_>, kind: &str, key: &str, n: i64) -> Handled {
    let insert = "INSERT INTO effects (kind, effect_key, n) VALUES ($1, $2, $3)";
    cx.tx().execute(insert, vec![kind.into(), key.into(), n.into()]).await?;
    let add = "UPDATE totals SET amount = amount + $1 WHERE kind = $2";
    cx.tx().execute(add, vec![n.into(), kind.into()]).await?;
    Ok(())
}

struct Charge;

impl Handle<OrderPlaced> for Charge {
    async fn handle(&self, order: OrderPlaced, cx: &mut Cx<'_>) -> Handled {
        // One is refused at once, one at its second attempt.
        if order.n < 0 || (order.n == 0 && cx.attempt() > 1) {
            return Err(Failure::Reject("nothing was ordered".to_owned()));
        }
        if order.n == 0 {
            return Err(std::io::Error::other("an order of nothing stumbles").into());
        }
        effect(cx, "charge", "", order.n).await?;
        cx.publish(&Charged { n: order.n })?;
        Ok(())
    }
}

struct Book;

impl HandleBatch<Charged> for Book {
    async fn handle_batch(&self, charges: Vec<Received<Charged>>, cx: &mut Cx<'_>) -> Handled {
        for charge in charges {
            effect(cx, "book", "", charge.event.n).await?;
        }
        Ok(())
    }
}

struct Follow {
    stumbles: bool,
}

impl Handle<StepTaken> for Follow {
    async fn handle(&self, step: StepTaken, cx: &mut Cx<'_>) -> Handled {
        effect(cx, "step", &step.key, step.n).await?;
        // The second one when it comes, the fifth in a batch of those that waited behind that one.
        if self.stumbles && (step.n == 2 || step.n == 5) && cx.attempt() < 3 {
            return Err(std::io::Error::other("the step stumbles").into());
        }
        Ok(())
    }
}

struct Show;

impl Handle<AdvertShown> for Show {
    async fn handle(&self, advert: AdvertShown, cx: &mut Cx<'_>) -> Handled {
        effect(cx, "advert", "", advert.n).await
    }
}

const CREATE: &str =
    "CREATE TABLE effects (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, effect_key TEXT, n INTEGER);
    CREATE TABLE totals (kind TEXT, amount INTEGER);
    INSERT INTO totals VALUES ('charge', 0), ('book', 0), ('step', 0), ('advert', 0);";
const DROP: &str = "DROP TABLE effects; DROP TABLE totals;";

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "effects",
    up: Sql {
        postgres: CREATE,
        sqlite: CREATE,
        mysql: CREATE,
    },
    down: Sql {
        postgres: DROP,
        sqlite: DROP,
        mysql: DROP,
    },
}];

fn subscriptions(stumbles: bool) -> Vec<Subscription> {
    let mut charge = Subscription::new::<OrderPlaced, _>("charge", "orders", Charge);
    charge.batch = 4;
    let mut follow = Subscription::new::<StepTaken, _>("follow", "steps", Follow { stumbles });
    follow.ordered = true;
    follow.batch = 5;
    // A crash uses an attempt up.
    follow.retry = RetryPolicy {
        attempts: 20,
        ..RetryPolicy::default()
    };
    vec![
        charge,
        Subscription::batch::<Charged, _>("book", "charges", Book),
        follow,
        Subscription::new::<AdvertShown, _>("show", "adverts", Show),
    ]
}

async fn feed(client: Client, stumbles: bool) -> Result<()> {
    let first = if stumbles { -1 } else { 1 };
    for n in first..=ORDERS {
        let mut tx = client.store.begin().await?;
        outbox::append(&mut tx, "shop", Message::of(&OrderPlaced { n })?).await?;
        tx.commit().await?;
    }
    let mut tx = client.store.begin().await?;
    for n in 1..=STEPS {
        for key in KEYS {
            let key = key.to_owned();
            outbox::append(&mut tx, "shop", Message::of(&StepTaken { key, n })?).await?;
        }
    }
    tx.commit().await?;
    for n in 1..=ADVERTS {
        client.publisher.publish(Message::of(&AdvertShown { n })?).await?;
    }
    Ok(())
}

async fn check(store: Store, stumbles: bool) -> Result<()> {
    let mut found = Vec::new();
    for row in store
        .query("SELECT kind, effect_key, n FROM effects ORDER BY id", vec![])
        .await?
    {
        found.push((
            row.get::<String>("kind")?,
            row.get::<String>("effect_key")?,
            row.get::<i64>("n")?,
        ));
    }
    let of = |kind: &str, key: &str| -> Vec<i64> {
        let mine = found.iter().filter(|(k, other, _)| k == kind && other == key);
        mine.map(|(_, _, n)| *n).collect()
    };
    for (kind, count) in [("charge", ORDERS), ("book", ORDERS), ("advert", ADVERTS)] {
        let mut ns = of(kind, "");
        ns.sort_unstable();
        ensure!(
            ns.iter().copied().eq(1..=count),
            "{kind} happened for {ns:?}, not once for each of 1 to {count}"
        );
    }
    for key in KEYS {
        let ns = of("step", key);
        ensure!(ns.iter().copied().eq(1..=STEPS), "the steps of {key} went {ns:?}");
    }
    for row in store.query("SELECT kind, amount FROM totals", vec![]).await? {
        let (kind, amount): (String, i64) = (row.get("kind")?, row.get("amount")?);
        let want: i64 = found.iter().filter(|(other, ..)| *other == kind).map(|(.., n)| n).sum();
        ensure!(amount == want, "the total of {kind} is {amount}, its rows make {want}");
    }
    let dead = store
        .query("SELECT 1 FROM inbox_messages WHERE status = 'dead'", vec![])
        .await?;
    let refused = if stumbles { 2 } else { 0 };
    ensure!(dead.len() == refused, "{} dead letters", dead.len());
    Ok(())
}

/// The scenario.
pub struct Shop {
    /// Whether some messages fail at first, and two for good.
    stumbles: bool,
}

impl Scenario for Shop {
    fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
        subscriptions(self.stumbles)
    }

    async fn feed(&self, client: Client) -> Result<()> {
        feed(client, self.stumbles).await
    }

    async fn check(&self, store: Store) -> Result<()> {
        check(store, self.stumbles).await
    }
}

/// The scenario with failures.
pub fn shop(transport: Transport) -> Explorer<Shop> {
    explore(Shop { stumbles: true }, transport)
}

/// The scenario without any failure of a handler's own.
pub fn calm_shop(transport: Transport) -> Explorer<Shop> {
    explore(Shop { stumbles: false }, transport)
}

fn explore(shop: Shop, transport: Transport) -> Explorer<Shop> {
    Explorer::new("shop", shop)
        .migrations("shop", MIGRATIONS)
        .transport(transport)
}
