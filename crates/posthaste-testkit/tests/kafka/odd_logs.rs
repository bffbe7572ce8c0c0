//! Logs that are not one record after the other: compressed, transactional, cut off at their beginning; and a group that
//! cannot be joined.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{TestDatabase, servers, wait_until};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::log::{self, lines_with};
use crate::shop::{LIMIT, Shop, topic};
use crate::transport;

fn client() -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka()?);
    Ok(config)
}

async fn send(producer: &FutureProducer, topic: &str, n: i64) -> Result<()> {
    let body = format!(r#"{{"n":{n},"text":"{}"}}"#, "long ".repeat(200));
    let record = FutureRecord::to(topic).key("k").payload(&body);
    producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_read() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let mut n = 0;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let producer: FutureProducer = client()?.set("compression.type", codec).create()?;
        for _ in 0..5 {
            send(&producer, &shop.topic, n).await.context(codec)?;
            n += 1;
        }
    }
    let engine = shop.sales();
    shop.sold_once(0..n).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

/// What the group has committed of partition 0.
async fn committed(topic: &str) -> Result<i64> {
    let mut config = client()?;
    config.set("group.id", topic);
    let topic = topic.to_owned();
    let asked = tokio::task::spawn_blocking(move || -> Result<i64> {
        let consumer: BaseConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        let found = consumer.committed_offsets(list, LIMIT)?;
        let found = found.find_partition(&topic, 0).context("no answer")?.offset();
        Ok(match found {
            Offset::Offset(offset) => offset,
            _ => -1,
        })
    });
    asked.await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_behind_transactions_is_reached() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let url = format!("{}?partitions=1", transport()?);
    let shop = Shop::open(&database, &url, &topic()).await?;
    let engine = shop.sales();
    shop.append_sales(0..1).await?;
    shop.sold_once(0..1).await?;
    let producer: FutureProducer = client()?.set("transactional.id", &shop.topic).create()?;
    let step = async |step: fn(&FutureProducer) -> rdkafka::error::KafkaResult<()>| -> Result<()> {
        let producer = producer.clone();
        Ok(tokio::task::spawn_blocking(move || step(&producer)).await??)
    };
    step(|producer| producer.init_transactions(LIMIT)).await?;
    step(|producer| producer.begin_transaction()).await?;
    for n in 1..4 {
        send(&producer, &shop.topic, n).await?;
    }
    step(|producer| producer.commit_transaction(LIMIT)).await?;
    step(|producer| producer.begin_transaction()).await?;
    for n in 90..130 {
        send(&producer, &shop.topic, n).await?;
    }
    step(|producer| producer.abort_transaction(LIMIT)).await?;
    shop.sold_once(0..4).await?;
    // 4 records, a marker, 40 records that never happened, a marker.
    wait_until("everything committed", LIMIT, || async {
        (committed(&shop.topic).await.ok()? == 46).then_some(())
    })
    .await?;
    shop.append_sales(4..6).await?;
    shop.sold_once(0..6).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_deleted_unread_are_an_error() -> Result<()> {
    log::start();
    let database = TestDatabase::sqlite()?;
    let url = format!("{}?partitions=1", transport()?);
    let shop = Shop::open(&database, &url, &topic()).await?;
    let engine = shop.sales();
    shop.append_sales(0..2).await?;
    shop.sold_once(0..2).await?;
    engine.stop(LIMIT).await;
    let producer: FutureProducer = client()?.create()?;
    for n in [90, 91, 92, 93, 2, 3] {
        send(&producer, &shop.topic, n).await?;
    }
    let admin: AdminClient<DefaultClientContext> = client()?.create()?;
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset(&shop.topic, 0, Offset::Offset(6))?;
    admin.delete_records(&upto, &AdminOptions::new()).await?;
    let engine = shop.sales();
    shop.sold_once(0..4).await?;
    wait_until("the error", LIMIT, || async {
        (!lines_with(&["ERROR", &shop.topic, "deleted=4"]).is_empty()).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    ensure!(
        lines_with(&["ERROR", &shop.topic]).len() == 1,
        "{:?}",
        lines_with(&[&shop.topic])
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_joined_is_said_and_joined_later() -> Result<()> {
    log::start();
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    shop.append_sales(0..3).await?;
    let relaying = shop.start(vec![]);
    let mut config = client()?;
    config
        .set("group.id", &shop.topic)
        .set("partition.assignment.strategy", "range");
    let other: BaseConsumer = config.create()?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (joined, has_joined) = tokio::sync::oneshot::channel();
    let name = shop.topic.clone();
    let polling = std::thread::spawn(move || -> Result<()> {
        other.subscribe(&[&name])?;
        let mut joined = Some(joined);
        while stopped.try_recv().is_err() {
            drop(other.poll(Duration::from_millis(100)));
            if other.assignment()?.count() > 0
                && let Some(joined) = joined.take()
            {
                joined.send(()).map_err(|()| anyhow::anyhow!("the test has ended"))?;
            }
        }
        Ok(())
    });
    tokio::time::timeout(LIMIT, has_joined).await??;
    let engine = shop.sales();
    let said = ["WARN", &shop.topic, "assigns partitions in another way"];
    wait_until("the cause", LIMIT, || async {
        (!lines_with(&said).is_empty()).then_some(())
    })
    .await?;
    ensure!(shop.effects("").await?.is_empty());
    stop.send(())?;
    polling
        .join()
        .map_err(|_panic| anyhow::anyhow!("the other client panicked"))??;
    shop.sold_once(0..3).await?;
    ensure!(lines_with(&said).len() == 1, "{:?}", lines_with(&said));
    engine.stop(LIMIT).await;
    relaying.stop(LIMIT).await;
    Ok(())
}
