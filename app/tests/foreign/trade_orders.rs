//! Orders for two replicas from clients that publish bare JSON to plain queues and read the outcomes, while queues,
//! channels, the broker and a replica go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::servers::PrivateRabbitmq;
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::{Value, json};

use crate::alone;
use crate::process::Posthaste;

const LIMIT: Duration = Duration::from_secs(900);
const STEP: Duration = Duration::from_secs(180);
const INCOMING: &str = "order_created_queue";
const PROCESSED: &str = "order_processed_queue";
const FAILED: &str = "order_failed_queue";
const SAMPLE: &str =
    r#"{"orderId":"order-101","userId":"user-456","totalAmount":99.99,"idempotencyKey":"unique-key-001","items":[]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_postgres() -> Result<()> {
    alone(LIMIT, async {
        trade(TestDatabase::postgres().await?, &Disturbance::ALL).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_mysql() -> Result<()> {
    // What is done to the queues alone is the same over every database.
    let again = [Disturbance::ConnectionsClosed, Disturbance::BrokerRestarted];
    alone(LIMIT, async { trade(TestDatabase::mysql().await?, &again).await }).await
}

async fn trade(database: TestDatabase, disturbances: &[Disturbance]) -> Result<()> {
    let broker = PrivateRabbitmq::launch(26_940).await?;
    let url = broker.url();
    let client = Client::connect(&url).await?;
    for queue in [INCOMING, PROCESSED, FAILED, "order_dlq"] {
        client.declare(queue, FieldTable::default()).await?;
    }
    client.publish(&[SAMPLE.to_owned()]).await?;

    let folder = tempfile::tempdir()?;
    let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
    let start = || Posthaste::spawn(folder.path(), &["orders"], &settings);
    let (first, second) = (start()?, start()?);
    for replica in [&first, &second] {
        replica.answers("/health", 200).await?;
    }
    let mut market = Market {
        url: &url,
        names: BTreeSet::new(),
        told: BTreeMap::new(),
    };
    market.names.insert("order-101".to_owned());
    market.all_processed().await.context("the sample")?;
    // As whoever comes later declares them.
    for queue in [INCOMING, PROCESSED, FAILED, "order_dlq"] {
        client.declare(queue, FieldTable::default()).await.context("406")?;
    }

    let conflict = SAMPLE.replace("unique-key-001", "unique-key-002");
    client
        .publish(&[SAMPLE.to_owned(), conflict, "no JSON".to_owned(), SAMPLE.to_owned()])
        .await?;
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        let failure = wait_until("a failure", STEP, || market.take(FAILED)).await?.0;
        let members: Vec<&String> = failure.as_object().context("an object")?.keys().collect();
        ensure!(members == ["errorDetails", "orderId", "reason"], "{failure}");
        reasons.push(format!(
            "{} {}",
            failure["orderId"].as_str().unwrap_or_default(),
            failure["reason"]
        ));
    }
    reasons.sort();
    ensure!(
        reasons == [r#"UNKNOWN "VALIDATION_ERROR""#, r#"order-101 "ORDER_ID_CONFLICT""#],
        "{reasons:?}"
    );

    // Both replicas get some of each.
    let orders: Vec<String> = (0..50).map(|n| market.order(&format!("many-{n}"))).collect();
    for n in (0..400).map(|n| n * 7 % 400) {
        client.publish(&orders[n % 50..=n % 50]).await?;
    }
    market.all_processed().await.context("eight of each")?;

    for disturbance in disturbances {
        disturbance
            .happen(&broker, &url)
            .await
            .with_context(|| format!("{disturbance:?}"))?;
        market
            .round(&[&first, &second], &format!("{disturbance:?}"), 20)
            .await?;
        for replica in [&first, &second] {
            replica.answers("/health", 200).await?;
        }
    }

    broker.stop().await?;
    market.post(&[&first, &second], "away", 40).await?;
    broker.start().await?;
    market.all_processed().await.context("placed without a broker")?;

    let client = Client::connect(&url).await?;
    let orders: Vec<String> = (0..200).map(|n| market.order(&format!("killed-{n}"))).collect();
    client.publish(&orders[..100]).await?;
    first.kill9().await?;
    client.publish(&orders[100..]).await?;
    market.all_processed().await.context("with one replica killed")?;
    second.answers("/health", 200).await?;
    second.terminate().await?;
    market.expect_rows(database.url()).await?;
    database.finish().await
}

/// What happens to queues and channels.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    IncomingDeleted,
    OutgoingDeleted,
    /// Declaring it as before closes the channel.
    IncomingDeclaredOtherwise,
    OutgoingDeclaredOtherwise,
    ConnectionsClosed,
    BrokerRestarted,
}

impl Disturbance {
    const ALL: [Self; 6] = [
        Self::IncomingDeleted,
        Self::OutgoingDeleted,
        Self::IncomingDeclaredOtherwise,
        Self::OutgoingDeclaredOtherwise,
        Self::ConnectionsClosed,
        Self::BrokerRestarted,
    ];

    async fn happen(self, broker: &PrivateRabbitmq, url: &str) -> Result<()> {
        match self {
            Self::IncomingDeleted => Client::connect(url).await?.delete(INCOMING).await,
            Self::OutgoingDeleted => Client::connect(url).await?.delete(PROCESSED).await,
            Self::IncomingDeclaredOtherwise => declare_otherwise(url, INCOMING).await,
            Self::OutgoingDeclaredOtherwise => declare_otherwise(url, PROCESSED).await,
            Self::ConnectionsClosed => broker.close_all_connections().await,
            Self::BrokerRestarted => {
                broker.stop().await?;
                broker.start().await
            }
        }
    }
}

/// Until it has come before anybody else who declares it.
async fn declare_otherwise(url: &str, queue: &str) -> Result<()> {
    wait_until("another declaration", STEP, || async {
        let client = Client::connect(url).await.ok()?;
        client.delete(queue).await.ok()?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(3_600_000));
        client.declare(queue, arguments).await.ok()
    })
    .await
}

/// A client that knows nothing of posthaste.
struct Client {
    _connection: Connection,
    channel: Channel,
}

impl Client {
    async fn connect(url: &str) -> Result<Self> {
        let connect = async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(Self {
                _connection: connection,
                channel,
            })
        };
        tokio::time::timeout(STEP, connect).await?
    }

    async fn declare(&self, queue: &str, arguments: FieldTable) -> Result<()> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel.queue_declare(queue.into(), options, arguments).await?;
        Ok(())
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
        Ok(())
    }

    async fn is_there(&self, queue: &str) -> bool {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .is_ok()
    }

    async fn publish(&self, bodies: &[String]) -> Result<()> {
        for body in bodies {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let none = BasicProperties::default();
            let sent = self
                .channel
                .basic_publish("".into(), INCOMING.into(), options, body.as_bytes(), none);
            let confirmed = tokio::time::timeout(STEP, sent.await?).await??;
            ensure!(confirmed.is_ack() && confirmed.take_message().is_none(), "not taken");
        }
        Ok(())
    }
}

/// What was ordered, and what was told of it under which message ids.
struct Market<'u> {
    url: &'u str,
    names: BTreeSet<String>,
    told: BTreeMap<String, BTreeSet<String>>,
}

impl Market<'_> {
    fn order(&mut self, name: &str) -> String {
        self.names.insert(name.to_owned());
        json!({"orderId": name, "userId": "user-456", "totalAmount": 99.99, "idempotencyKey": name, "items": []})
            .to_string()
    }

    /// Orders by the queue, as soon as it is there, and over HTTP.
    async fn round(&mut self, replicas: &[&Posthaste], what: &str, count: usize) -> Result<()> {
        self.post(replicas, &format!("{what}-posted"), count).await?;
        let orders: Vec<String> = (0..count).map(|n| self.order(&format!("{what}-{n}"))).collect();
        let url = self.url;
        let client = wait_until("the queue", STEP, || async {
            let client = Client::connect(url).await.ok()?;
            client.is_there(INCOMING).await.then_some(client)
        });
        client.await.with_context(|| what.to_owned())?.publish(&orders).await?;
        self.all_processed().await.with_context(|| what.to_owned())
    }

    async fn post(&mut self, replicas: &[&Posthaste], what: &str, count: usize) -> Result<()> {
        let client = reqwest::Client::new();
        for n in 0..count {
            let body = self.order(&format!("{what}-{n}"));
            let request = client.post(format!("{}/api/v1/orders", replicas[n % replicas.len()].base));
            let answer = request
                .header("Content-Type", "application/json")
                .body(body)
                .send()
                .await?;
            ensure!(answer.status() == 202, "{what}: {answer:?}");
        }
        Ok(())
    }

    /// One message of `queue`, if it is there and has one.
    async fn take(&self, queue: &str) -> Option<(Value, String)> {
        let client = Client::connect(self.url).await.ok()?;
        let got = client.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
        read(got.await.ok()??.delivery)
    }

    /// Reads outcomes until there is one for each order that was made.
    async fn all_processed(&mut self) -> Result<()> {
        let read_so_far = tokio::sync::Mutex::new((std::mem::take(&mut self.told), None));
        let (url, names) = (self.url, &self.names);
        let done = wait_until("an outcome of each order", STEP, || async {
            let mut read_so_far = read_so_far.lock().await;
            let (told, kept) = &mut *read_so_far;
            let client = match kept.take() {
                Some(client) => client,
                None => Client::connect(url).await.ok()?,
            };
            let options = BasicGetOptions { no_ack: true };
            while let Some(got) = client.channel.basic_get(PROCESSED.into(), options).await.ok()? {
                let (outcome, id) = read(got.delivery)?;
                let name = outcome["orderId"].as_str()?.to_owned();
                told.entry(name).or_default().insert(id);
            }
            // One that has failed is not kept.
            *kept = Some(client);
            names.iter().all(|name| told.contains_key(name)).then_some(())
        })
        .await;
        self.told = read_so_far.into_inner().0;
        let missing: Vec<&String> = self
            .names
            .iter()
            .filter(|name| !self.told.contains_key(*name))
            .collect();
        done.with_context(|| format!("no outcome of {missing:?}"))?;
        // A crash may have it told again, under the same id.
        let twice: Vec<_> = self.told.iter().filter(|(_, ids)| ids.len() > 1).collect();
        ensure!(twice.is_empty(), "two outcomes: {twice:?}");
        ensure!(self.told.len() == self.names.len(), "outcomes of what nobody ordered");
        Ok(())
    }

    async fn expect_rows(&self, database: &str) -> Result<()> {
        let store = Store::open(database, StoreOptions::default())?;
        let count = async |from: &str| -> Result<i64> {
            let sql = format!("SELECT COUNT(*) AS n FROM {from}");
            Ok(store.query(&sql, vec![]).await?.first().context("no row")?.get("n")?)
        };
        let orders = self.names.len() as i64;
        ensure!(
            count("orders WHERE status = 'PROCESSED'").await? == orders,
            "not a row for each order"
        );
        ensure!(count("orders").await? == orders, "rows nobody ordered");
        let told = count("outbox_messages WHERE topic = 'order_processed_queue'").await?;
        ensure!(told == orders, "{told} outcomes of {orders} orders");
        ensure!(
            count("outbox_messages WHERE topic = 'order_failed_queue'").await? == 2,
            "a failure nobody caused"
        );
        ensure!(
            count("inbox_messages WHERE status <> 'processed'").await? == 1,
            "more than one dead letter"
        );
        store.close().await;
        Ok(())
    }
}

/// A message's body and its id.
fn read(delivery: lapin::message::Delivery) -> Option<(Value, String)> {
    let id = delivery.properties.message_id().as_ref()?.as_str().to_owned();
    Some((serde_json::from_slice(&delivery.data).ok()?, id))
}
