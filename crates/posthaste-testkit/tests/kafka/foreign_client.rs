//! Records as other clients read and write them, and the group as Kafka's own tools see it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste::Message;
use posthaste_testkit::servers::{self, kafka_tool};
use posthaste_testkit::{TestDatabase, wait_until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::shop::{LIMIT, Sale, Shop, Step, topic};
use crate::transport;

/// All `count` records of `topic`, as a client that knows nothing of posthaste reads them.
async fn read(topic: &str, count: usize) -> Result<Vec<OwnedMessage>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers::kafka()?)
        .set("group.id", format!("reader-of-{topic}"))
        .set("auto.offset.reset", "earliest");
    let topic = topic.to_owned();
    let reading = tokio::task::spawn_blocking(move || -> Result<Vec<OwnedMessage>> {
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[&topic])?;
        let (mut records, end) = (Vec::new(), Instant::now() + LIMIT);
        while records.len() < count {
            ensure!(Instant::now() < end, "{} of {count} records", records.len());
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
                records.push(record.detach());
            }
        }
        Ok(records)
    });
    reading.await?
}

fn headers(record: &OwnedMessage) -> Result<BTreeMap<String, String>> {
    let headers = record.headers().context("no headers")?;
    let text = |header: Header<'_, &[u8]>| {
        let value = String::from_utf8_lossy(header.value.unwrap_or_default());
        (header.key.to_owned(), value.into_owned())
    };
    Ok(headers.iter().map(text).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_clients_read_what_is_published() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let mut message: Message = shop.message(&Step {
        key: "käse".to_owned(),
        n: 1,
    })?;
    message.source = "shop".to_owned();
    message.correlation_id = Some("c-1".to_owned());
    message.causation_id = Some("cause".to_owned());
    message.headers.insert("event_version".to_owned(), "1.0".to_owned());
    let keyless = shop.message(&Sale {
        n: 2,
        text: String::new(),
    })?;
    for confirmed in shop.broker.publish(vec![message.clone(), keyless.clone()]).await {
        confirmed?;
    }
    let records = read(&shop.topic, 2).await?;
    let find = |body: &[u8]| records.iter().find(|record| record.payload() == Some(body));
    let record = find(&message.body).context("no record with the body")?;
    ensure!(record.key() == Some("käse".as_bytes()), "{:?}", record.key());
    let found = headers(record)?;
    let id = message.id.to_string();
    let time = message.time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", "shop"),
        ("ce_type", "step"),
        ("ce_time", &time),
        ("ce_partitionkey", "käse"),
        ("ce_correlationid", "c-1"),
        ("ce_causationid", "cause"),
        ("content-type", "application/json"),
        ("event_version", "1.0"),
    ] {
        ensure!(found.get(name).map(String::as_str) == Some(value), "{name}: {found:?}");
    }
    ensure!(find(&keyless.body).is_some_and(|record| record.key().is_none()));

    let servers = servers::kafka()?;
    let arguments = [
        "--bootstrap-server",
        &servers,
        "--topic",
        &shop.topic,
        "--from-beginning",
        "--max-messages",
        "2",
    ];
    let printed = kafka_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments).await?;
    ensure!(printed.contains(std::str::from_utf8(&message.body)?), "{printed}");
    Ok(())
}

/// As schema registries write them.
const BINARY_KEY: &[u8] = b"\x00\x00\x00\x00\x07\xff\xfe";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_foreign_clients_are_handled_or_dead() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let mut subscription = shop.selling();
    subscription.dead_letter_queue = Some(format!("{}.dlq", shop.topic));
    let engine = shop.start(vec![subscription]);

    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka()?)
        .create()?;
    let send = async |value: Option<&[u8]>, key: &[u8], headers: &[(&str, &[u8])]| -> Result<()> {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&shop.topic).key(key);
        record.payload = value;
        let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let sent = producer.send(record.headers(all), LIMIT).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    };
    let id: &[(&str, &[u8])] = &[("event_id", b"evt-1"), ("junk", b"\xff\xfe")];
    // No envelope at all.
    send(Some(br#"{"n":0}"#), b"", &[]).await?;
    // The same id and bytes twice: one effect.
    send(Some(br#"{"n":1}"#), b"\xff\x00key", id).await?;
    send(Some(br#"{"n":1}"#), b"\xff\x00key", id).await?;
    // None of these can ever be handled.
    send(Some(b"\xff no json"), BINARY_KEY, &[]).await?;
    send(None, b"k", &[]).await?;
    send(Some(br#"{"n":2}"#), b"k", &[]).await?;
    shop.sold_once(0..3).await?;
    wait_until("two dead letters", LIMIT, || async {
        (shop.dead().await.ok()? == 2).then_some(())
    })
    .await?;
    let copies = read(&format!("{}.dlq", shop.topic), 2).await?;
    let has = |body: &[u8]| copies.iter().any(|copy| copy.payload().unwrap_or_default() == body);
    ensure!(has(b"\xff no json") && has(b""), "{copies:?}");
    let mut keys: Vec<&[u8]> = copies.iter().filter_map(|copy| copy.key()).collect();
    keys.sort_unstable();
    ensure!(keys == [BINARY_KEY, b"k"], "{keys:?}");
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_reset_to_earliest_repeats_no_effect() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let engine = shop.sales();
    shop.append_sales(0..200).await?;
    shop.sold_once(0..200).await?;
    // Everything is done and has been committed, and the group has been left.
    engine.stop(LIMIT).await;
    let servers = servers::kafka()?;
    let group = ["--bootstrap-server", &servers, "--group", &shop.topic];
    let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let described = kafka_tool(tool, &[&group[..], &["--describe", "--offsets"]].concat()).await?;
    // GROUP, TOPIC, PARTITION, CURRENT-OFFSET, LOG-END-OFFSET, LAG
    let rows = described.lines().filter(|line| line.starts_with(&shop.topic));
    let columns: Vec<Vec<&str>> = rows.map(|line| line.split_whitespace().collect()).collect();
    let done: i64 = columns.iter().filter_map(|row| row[3].parse::<i64>().ok()).sum();
    ensure!(
        done == 200 && columns.iter().all(|row| row[5] == "0" || row[5] == "-"),
        "{described}"
    );

    let reset = ["--topic", &shop.topic, "--reset-offsets", "--to-earliest", "--execute"];
    kafka_tool(tool, &[&group[..], &reset].concat()).await?;
    let engine = shop.sales();
    shop.append_sales(200..210).await?;
    shop.sold_once(0..210).await?;
    engine.stop(LIMIT).await;
    let described = kafka_tool(tool, &[&group[..], &["--describe", "--offsets"]].concat()).await?;
    ensure!(
        shop.count("SELECT COUNT(*) AS n FROM inbox_messages").await? == 210,
        "{described}"
    );
    Ok(())
}
