//! Queues that are no queues, and queues that nobody here reads.

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use posthaste_testkit::{TestDatabase, servers, wait_until};

use crate::foreign_client::Client;
use crate::log::{self, lines_with};
use crate::shop::{LIMIT, Shop, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_not_read_and_that_is_said() -> Result<()> {
    log::start();
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let client = Client::connect(&url).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    client.declare(&topic, arguments).await?;
    client
        .publish(&topic, br#"{"n":1}"#, BasicProperties::default())
        .await?;
    let engine = shop.sales();
    let said = ["WARN", &topic, "is a stream"];
    wait_until("the cause", LIMIT, || async {
        (!lines_with(&said).is_empty()).then_some(())
    })
    .await?;
    ensure!(shop.effects("").await?.is_empty());
    client.delete(&topic).await?;
    client.declare(&topic, FieldTable::default()).await?;
    client
        .publish(&topic, br#"{"n":0}"#, BasicProperties::default())
        .await?;
    shop.sold_once(0..1).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_for_others_exist_before_their_first_message() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let (written, dead) = (format!("{topic}.out"), format!("{topic}.dlq"));
    let mut subscription = shop.selling();
    subscription.writes = vec![written.clone()];
    subscription.dead_letter_queue = Some(dead.clone());
    let engine = shop.start(vec![subscription]);
    for queue in [written, dead] {
        wait_until("the queue", LIMIT, || async {
            // A refusal closes the channel.
            let client = Client::connect(&url).await.ok()?;
            client.declare_passively(&queue).await.ok()
        })
        .await?;
    }
    engine.stop(LIMIT).await;
    Ok(())
}
