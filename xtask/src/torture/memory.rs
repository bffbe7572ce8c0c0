//! Many large messages on a queue: what the worker that handles them holds at most.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::Broker;
use posthaste_testkit::servers::{PrivateKafka, PrivateRabbitmq};
use posthaste_testkit::{bare_message, wait_until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use super::figure::Figure;
use super::place::Place;

const RABBITMQ_PORT: u16 = 28_200;
const KAFKA_PORT: u16 = 28_300;
const TOPIC: &str = "order_created_queue";
/// Megabytes that the process may have had resident at any time.
const RESIDENT: f64 = 300.0;
/// Kafka's limit is 1 MB unless the topic says otherwise.
const RECORD: &str = "20000000";
const LIMIT: Duration = Duration::from_secs(600);

/// How many messages, and the bytes of each.
#[derive(Clone, Copy)]
struct Load {
    count: usize,
    bytes: usize,
}

const LOADS: [Load; 2] = [
    Load {
        count: 400,
        bytes: 2_000_000,
    },
    Load {
        count: 40,
        bytes: 16_000_000,
    },
];

const MANY: Load = Load {
    count: 1_000,
    bytes: 16_000_000,
};

/// Where the messages wait.
enum Transport {
    Sql,
    Rabbitmq(PrivateRabbitmq),
    Kafka(PrivateKafka),
}

impl Transport {
    fn name(&self) -> &'static str {
        match self {
            Self::Sql => "sql:",
            Self::Rabbitmq(_) => "rabbitmq",
            Self::Kafka(_) => "kafka",
        }
    }

    fn url(&self) -> Option<String> {
        match self {
            Self::Sql => None,
            Self::Rabbitmq(server) => Some(server.url()),
            Self::Kafka(server) => Some(server.url()),
        }
    }
}

/// Measures 400 messages of 2 MB and 40 of 16 MB over each transport.
///
/// # Errors
/// When a server does not start, or messages are not handled.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for load in LOADS {
        figures.extend(over_all(place, load).await?);
    }
    Ok(figures)
}

/// Measures 1 000 messages of 16 MB.
///
/// # Errors
/// As [`run`].
pub async fn run_many(place: &Place) -> Result<Vec<Figure>> {
    over_all(place, MANY).await
}

async fn over_all(place: &Place, load: Load) -> Result<Vec<Figure>> {
    let mut figures = vec![handled(place, &Transport::Sql, load).await?];
    let server = PrivateRabbitmq::launch(RABBITMQ_PORT).await?;
    figures.push(handled(place, &Transport::Rabbitmq(server), load).await?);
    let server = PrivateKafka::launch(KAFKA_PORT).await?;
    create_topic(&server.servers()).await?;
    figures.push(handled(place, &Transport::Kafka(server), load).await?);
    Ok(figures)
}

async fn handled(place: &Place, transport: &Transport, load: Load) -> Result<Figure> {
    let Load { count, bytes } = load;
    let name = transport.name();
    let before = place.number("SELECT COUNT(*) AS n FROM orders").await?;
    put(place, transport, load)
        .await
        .with_context(|| format!("{count} messages of {bytes} bytes, {name}"))?;
    let worker = place
        .serve(&["orders", "--role", "worker"], transport.url().as_deref())
        .await?;
    wait_until(&format!("{count} orders, {name}"), LIMIT, || async {
        let now = place.number("SELECT COUNT(*) AS n FROM orders").await.ok()?;
        (now - before >= count as i64).then_some(())
    })
    .await?;
    let resident = worker.most_resident()?;
    worker.stop().await?;
    let odd = "SELECT COUNT(*) AS n FROM inbox_messages WHERE status <> 'processed'";
    let odd = place.number(odd).await?;
    ensure!(odd == 0, "{odd} of the messages failed, {name}");
    let what = format!("{count} messages of {} MB, resident at most", bytes / 1_000_000);
    Ok(Figure::below(name, &what, resident, RESIDENT, "MB"))
}

/// One after the other: this process need not hold them all.
async fn put(place: &Place, transport: &Transport, load: Load) -> Result<()> {
    let url = match transport {
        Transport::Kafka(server) => return produce(&server.servers(), load).await,
        Transport::Sql => "sql:".to_owned(),
        Transport::Rabbitmq(server) => server.url(),
    };
    let broker = Broker::open(&url, place.store())?;
    for _ in 0..load.count {
        let mut message = bare_message(TOPIC, None);
        message.body = order(load.bytes).into_bytes();
        for confirmed in broker.publish(vec![message]).await {
            confirmed?;
        }
    }
    Ok(())
}

fn order(bytes: usize) -> String {
    let (id, note) = (Uuid::now_v7(), "x".repeat(bytes - 200));
    format!(
        r#"{{"orderId":"{id}","userId":"user-456","totalAmount":"99.99","idempotencyKey":"{id}","items":[{{"note":"{note}"}}]}}"#
    )
}

async fn create_topic(servers: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", servers).create()?;
    let topic = NewTopic::new(TOPIC, 6, TopicReplication::Fixed(1)).set("max.message.bytes", RECORD);
    for created in admin.create_topics([&topic], &AdminOptions::new()).await? {
        created.map_err(|(name, code)| anyhow::anyhow!("{name} is not created: {code}"))?;
    }
    Ok(())
}

async fn produce(servers: &str, load: Load) -> Result<()> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("message.max.bytes", RECORD)
        .create()?;
    for number in 0..load.count {
        let (key, body) = (number.to_string(), order(load.bytes));
        let record = FutureRecord::to(TOPIC).key(&key).payload(&body);
        producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}
