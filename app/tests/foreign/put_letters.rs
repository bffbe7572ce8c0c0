//! Clients that know nothing of posthaste.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::wait_until;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::describe_letters::Letter;

const LIMIT: Duration = Duration::from_secs(60);

/// A way to the queues.
pub enum Door {
    Amqp {
        largest: usize,
        _connection: Box<Connection>,
        channel: Channel,
    },
    Kafka {
        servers: String,
        producer: FutureProducer,
    },
    /// A person with the database's own client.
    Sql {
        store: Store,
        largest: usize,
    },
}

impl Door {
    /// A queue of RabbitMQ, with bodies of up to `largest` bytes.
    pub async fn amqp(url: &str, largest: usize) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self::Amqp {
            largest,
            _connection: Box::new(connection),
            channel,
        })
    }

    pub fn kafka(servers: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", servers)
            .set("message.max.bytes", "2000000");
        Ok(Self::Kafka {
            servers: servers.to_owned(),
            producer: config.create()?,
        })
    }

    /// The rows of `database`, with bodies of up to `largest` bytes.
    pub fn sql(database: &str, largest: usize) -> Result<Self> {
        let store = Store::open(database, StoreOptions::default())?;
        Ok(Self::Sql { store, largest })
    }

    /// The largest body that is worth a try.
    pub fn largest(&self) -> usize {
        match self {
            Self::Amqp { largest, .. } | Self::Sql { largest, .. } => *largest,
            Self::Kafka { .. } => 900_000,
        }
    }

    /// The largest that it takes from anybody.
    pub fn most(&self) -> usize {
        match self {
            Self::Amqp { .. } | Self::Sql { .. } => self.largest(),
            Self::Kafka { .. } => 1_048_400,
        }
    }

    /// Declares `queue` as most clients do, where there is something to declare.
    pub async fn declare(&self, queue: &str) -> Result<()> {
        if let Self::Amqp { channel, .. } = self {
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(queue.into(), options, FieldTable::default())
                .await?;
        }
        Ok(())
    }

    /// Puts `letter` on `queue`, and has the transport's word for it.
    pub async fn put(&self, queue: &str, letter: &Letter) -> Result<()> {
        let put = async {
            match self {
                Self::Amqp { channel, .. } => {
                    let options = BasicPublishOptions::default();
                    let sent =
                        channel.basic_publish("".into(), queue.into(), options, &letter.body, properties(letter));
                    ensure!(sent.await?.await?.is_ack(), "not taken");
                    Ok(())
                }
                Self::Kafka { producer, .. } => {
                    // One key: one partition keeps the order that repeats need.
                    let record = FutureRecord::to(queue)
                        .key("hand")
                        .payload(&letter.body)
                        .headers(headers(letter));
                    let sent = producer.send(record, LIMIT).await;
                    sent.map(drop).map_err(|(error, _)| error.into())
                }
                Self::Sql { store, .. } => insert(store, queue, letter).await,
            }
        };
        let put = tokio::time::timeout(LIMIT, put).await.context("no answer")?;
        put.with_context(|| letter.what.clone())
    }

    /// The bodies of `count` messages on `queue`, which has no more, in any order.
    pub async fn take(&self, queue: &str, count: usize) -> Result<Vec<Vec<u8>>> {
        let mut bodies = Vec::new();
        match self {
            Self::Amqp { channel, .. } => {
                let options = BasicGetOptions { no_ack: true };
                while bodies.len() < count {
                    let what = format!("{} of {count} on {queue}", bodies.len() + 1);
                    let got = wait_until(&what, LIMIT, || async {
                        channel.basic_get(queue.into(), options).await.ok()?
                    });
                    bodies.push(got.await?.delivery.data);
                }
                ensure!(
                    channel.basic_get(queue.into(), options).await?.is_none(),
                    "more than {count} on {queue}"
                );
            }
            Self::Kafka { servers, .. } => bodies = read_topic(servers, queue).await?,
            Self::Sql { store, .. } => {
                // What a lease that lapsed has published twice is one message, by its id.
                let sql = "SELECT seq, message_id, body FROM queue_messages WHERE topic = $1";
                let mut by_id = BTreeMap::new();
                for row in store.query(sql, vec![queue.into()]).await? {
                    // One without an id, by its number.
                    let id = match row.uuid_or_null("message_id")? {
                        Some(id) => id.to_string(),
                        None => row.get::<i64>("seq")?.to_string(),
                    };
                    by_id.insert(id, row.get("body")?);
                }
                bodies.extend(by_id.into_values());
            }
        }
        ensure!(bodies.len() == count, "{} on {queue}, and not {count}", bodies.len());
        Ok(bodies)
    }

    /// That nobody has anything left to do on `queue`, of which `group` is the reader that has stopped.
    pub async fn expect_done(&self, queue: &str, group: &str) -> Result<()> {
        match self {
            Self::Amqp { channel, .. } => {
                let options = QueueDeclareOptions {
                    passive: true,
                    ..QueueDeclareOptions::default()
                };
                let found = channel
                    .queue_declare(queue.into(), options, FieldTable::default())
                    .await?;
                ensure!(found.message_count() == 0, "{} left on {queue}", found.message_count());
            }
            Self::Kafka { servers, .. } => expect_committed(servers, queue, group).await?,
            Self::Sql { .. } => drop(self.take(queue, 0).await?),
        }
        Ok(())
    }
}

fn properties(letter: &Letter) -> BasicProperties {
    let mut properties = BasicProperties::default();
    let mut headers = FieldTable::default();
    let mut put = |name: String, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    if letter.odd {
        for (name, value) in odd_values() {
            put(format!("cloudEvents_{name}"), value.clone());
            put(format!("cloudEvents:{name}"), value.clone());
            put(format!("odd-{name}"), value);
        }
    }
    for (name, value) in &letter.attributes {
        put(
            format!("cloudEvents_{name}"),
            AMQPValue::LongString(value.as_str().into()),
        );
    }
    if letter.padding > 0 {
        put(
            "x-padding".to_owned(),
            AMQPValue::LongString("p".repeat(letter.padding).into()),
        );
    }
    match &letter.id {
        // A property has room for 255 bytes.
        Some(id) if !id.is_empty() && id.len() <= 255 => properties = properties.with_message_id(id.as_str().into()),
        Some(id) => {
            put("cloudEvents_id".to_owned(), AMQPValue::LongString(id.as_str().into()));
        }
        None => {}
    }
    if let Some(timestamp) = letter.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    properties.with_headers(headers)
}

fn odd_values() -> [(&'static str, AMQPValue); 10] {
    let decimal = DecimalValue { scale: 2, value: 5 };
    [
        ("source", AMQPValue::FieldTable(FieldTable::default())),
        ("type", AMQPValue::LongLongInt(-7)),
        ("time", AMQPValue::Boolean(true)),
        ("subject", AMQPValue::ByteArray(ByteArray::from(vec![0, 255]))),
        ("partitionkey", AMQPValue::LongString(vec![0xff_u8, 0xfe].into())),
        ("correlationid", AMQPValue::LongString("a b\0c".into())),
        ("causationid", AMQPValue::FieldArray(FieldArray::default())),
        ("expirytime", AMQPValue::DecimalValue(decimal)),
        ("traceparent", AMQPValue::Void),
        ("datacontenttype", AMQPValue::Double(1e300)),
    ]
}

fn headers(letter: &Letter) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    let mut put = |key: &str, value: Option<&[u8]>| {
        headers = std::mem::take(&mut headers).insert(Header { key, value });
    };
    if letter.odd {
        for name in [
            "source",
            "type",
            "time",
            "subject",
            "correlationid",
            "expirytime",
            "traceparent",
            "id",
        ] {
            put(&format!("ce_{name}"), Some(b"\xff\x00\xfe"));
            put(&format!("ce_{name}"), None);
            put(name, Some(b"a\0b"));
        }
        put("", Some(b""));
    }
    for (name, value) in &letter.attributes {
        put(&format!("ce_{name}"), Some(value.as_bytes()));
    }
    if letter.padding > 0 {
        put("x-padding", Some("p".repeat(letter.padding).as_bytes()));
    }
    if let Some(id) = &letter.id {
        put("ce_id", Some(id.as_bytes()));
    }
    headers
}

async fn insert(store: &Store, queue: &str, letter: &Letter) -> Result<()> {
    let id = letter.id.as_deref().filter(|id| !id.is_empty());
    // The column takes UUIDs; who has other ids makes some.
    let id = id.map(|id| id.parse().unwrap_or_else(|_| Uuid::new_v5(&Uuid::nil(), id.as_bytes())));
    let mut headers: Map<String, Value> = letter
        .attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let mut event_type = None;
    if let Some(Value::String(text)) = headers.remove("type") {
        // The database has the last word on what its columns take.
        event_type = Some(text.replace('\0', "").chars().take(255).collect::<String>());
    }
    let key = match headers.remove("partitionkey") {
        Some(Value::String(text)) => Some(text.replace('\0', "")),
        _ => None,
    };
    if letter.odd {
        headers.extend([
            ("source".to_owned(), json!(7)),
            ("headers".to_owned(), json!([[], {"a": 1}])),
        ]);
    }
    if letter.padding > 0 {
        headers.insert("headers".to_owned(), json!({"x-padding": "p".repeat(letter.padding)}));
    }
    let headers = if letter.odd && letter.timestamp.is_some() {
        "{no JSON".to_owned()
    } else {
        Value::from(headers).to_string()
    };
    let sql = "INSERT INTO queue_messages (topic, message_id, event_type, message_key, headers, body) VALUES ($1, $2, $3, $4, $5, $6)";
    let id = store.dialect().uuid_or_null(id);
    let values = vec![
        queue.into(),
        id,
        event_type.into(),
        key.into(),
        headers.into(),
        letter.body.clone().into(),
    ];
    store.execute(sql, values).await?;
    Ok(())
}

fn consumer(servers: &str, group: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false");
    Ok(config.create()?)
}

/// Partition, offset after the last record, and the offset that `group` has committed.
fn offsets(servers: &str, topic: &str, group: &str) -> Result<Vec<(i32, i64, i64)>> {
    let consumer = consumer(servers, group)?;
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let partitions = metadata.topics().first().context("no such topic")?.partitions();
    let mut asked = rdkafka::TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, partition.id());
    }
    let committed = consumer.committed_offsets(asked, LIMIT)?;
    let elements = committed.elements();
    let offsets = elements.iter().map(|element| {
        let (_, end) = consumer.fetch_watermarks(topic, element.partition(), LIMIT)?;
        Ok((element.partition(), end, element.offset().to_raw().unwrap_or(-1)))
    });
    offsets.collect()
}

async fn expect_committed(servers: &str, topic: &str, group: &str) -> Result<()> {
    let (servers, topic, group) = (servers.to_owned(), topic.to_owned(), group.to_owned());
    tokio::task::spawn_blocking(move || {
        for (partition, end, committed) in offsets(&servers, &topic, &group)? {
            ensure!(
                end == 0 || committed == end,
                "{topic} {partition}: {committed} of {end} done"
            );
        }
        Ok(())
    })
    .await?
}

/// The bodies on `topic` now.
async fn read_topic(servers: &str, topic: &str) -> Result<Vec<Vec<u8>>> {
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer = consumer(&servers, "reads-all")?;
        let (mut list, mut left) = (rdkafka::TopicPartitionList::new(), 0);
        for (partition, end, _) in offsets(&servers, &topic, "reads-all")? {
            list.add_partition_offset(&topic, partition, rdkafka::Offset::Beginning)?;
            left += end;
        }
        consumer.assign(&list)?;
        let mut bodies = Vec::new();
        while left > 0 {
            match consumer.poll(LIMIT) {
                Some(record) => bodies.push(record?.payload().unwrap_or_default().to_vec()),
                None => bail!("{left} records of {topic} do not come"),
            }
            left -= 1;
        }
        Ok(bodies)
    })
    .await?
}
