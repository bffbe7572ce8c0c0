//! Any AMQP client publishes to our queues and reads them.

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use posthaste_testkit::{TestDatabase, servers};

use crate::shop::{LIMIT, Sale, Shop, topic};

/// A client that knows nothing of posthaste.
pub struct Client {
    _connection: Connection,
    pub channel: Channel,
}

impl Client {
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            _connection: connection,
            channel,
        })
    }

    pub async fn declare(&self, queue: &str, arguments: FieldTable) -> Result<()> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel.queue_declare(queue.into(), options, arguments).await?;
        Ok(())
    }

    pub async fn declare_passively(&self, queue: &str) -> Result<()> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let nothing = FieldTable::default();
        self.channel.queue_declare(queue.into(), options, nothing).await?;
        Ok(())
    }

    pub async fn delete(&self, queue: &str) -> Result<()> {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(queue.into(), options).await?;
        Ok(())
    }

    pub async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions::default();
        let sent = self
            .channel
            .basic_publish("".into(), queue.into(), options, body, properties);
        let confirmed = tokio::time::timeout(LIMIT, sent.await?).await??;
        ensure!(confirmed.is_ack());
        Ok(())
    }
}

fn odd_headers(prefix: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    let decimal = DecimalValue { scale: 2, value: 5 };
    for (n, (name, value)) in [
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
        ("x", AMQPValue::Timestamp(u64::MAX)),
    ]
    .into_iter()
    .enumerate()
    {
        headers.insert(format!("{prefix}{name}").into(), value.clone());
        headers.insert(format!("odd-{n}").into(), value);
    }
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_publish_is_taken() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let client = Client::connect(&url).await?;
    client.declare(&topic, FieldTable::default()).await?;
    let engine = shop.sales();
    let none = BasicProperties::default;
    let sale = |n: i64| format!(r#"{{"n":{n}}}"#).into_bytes();
    client.publish(&topic, &sale(0), none()).await?;
    for (n, prefix) in (1..).zip(["cloudEvents_", "cloudEvents:", "", "ce_"]) {
        let properties = none().with_headers(odd_headers(prefix)).with_timestamp(u64::MAX);
        client.publish(&topic, &sale(n), properties).await?;
    }
    // The same long id twice is one message; a clock in the future and a huge body are nobody's business.
    let mut long = FieldTable::default();
    let id = "i".repeat(10_000);
    long.insert("cloudEvents:id".into(), AMQPValue::LongString(id.as_str().into()));
    for _ in 0..2 {
        client
            .publish(&topic, &sale(5), none().with_headers(long.clone()))
            .await?;
    }
    let future = none().with_timestamp(7_000_000_000).with_message_id("mine".into());
    client.publish(&topic, &sale(6), future).await?;
    let mut huge = br#"{"n":7,"text":""#.to_vec();
    huge.resize(10_000_000, b'x');
    huge.extend(br#""}"#);
    client.publish(&topic, &huge, none()).await?;
    client.publish(&topic, b"{\"n\":", none()).await?;
    client.publish(&topic, b"", none()).await?;
    client.publish(&topic, &sale(8), none()).await?;
    shop.sold_once(0..9).await?;
    posthaste_testkit::wait_until("two dead letters", LIMIT, || async {
        (shop.dead().await.ok()? == 2).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_read_what_is_published() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let sent = shop.message(&Sale {
        n: 1,
        text: "a".to_owned(),
    })?;
    let confirmed = shop.broker.publish(vec![sent.clone()]).await;
    ensure!(confirmed[0].is_ok(), "{confirmed:?}");
    let client = Client::connect(&url).await?;
    let options = BasicConsumeOptions::default();
    let consume = client
        .channel
        .basic_consume(topic.as_str().into(), "".into(), options, FieldTable::default());
    let mut consumer = consume.await?;
    let arrived = tokio::time::timeout(LIMIT, consumer.next()).await?;
    let arrived = arrived.context("no message")??;
    let properties = &arrived.properties;
    ensure!(arrived.data == br#"{"n":1,"text":"a"}"#);
    ensure!(properties.delivery_mode() == &Some(2), "{properties:?}");
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    ensure!(
        text(properties.message_id()) == Some(sent.id.to_string()),
        "{properties:?}"
    );
    ensure!(text(properties.kind()).as_deref() == Some("sale"), "{properties:?}");
    ensure!(text(properties.content_type()).as_deref() == Some("application/json"));
    ensure!(properties.timestamp().is_some());
    let headers = properties.headers().as_ref().context("no headers")?;
    for (name, value) in [
        ("cloudEvents_type", "sale".to_owned()),
        ("cloudEvents_id", sent.id.to_string()),
    ] {
        let found = headers.inner().get(name);
        ensure!(
            found == Some(&AMQPValue::LongString(value.as_str().into())),
            "{name}: {found:?}"
        );
    }
    Ok(())
}
