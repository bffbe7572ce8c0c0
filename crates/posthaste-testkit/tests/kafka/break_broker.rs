//! The broker is not there yet, dies and comes back; nothing is lost and nothing happens twice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use posthaste::publish::Via;
use posthaste_testkit::servers::PrivateKafka;
use posthaste_testkit::{TestDatabase, wait_until};

use crate::shop::{LIMIT, Sale, Shop, topic};

const PING: Duration = Duration::from_secs(2);

/// Appends sales in the background, a hundred at a time.
fn load(shop: &Shop, numbers: std::ops::Range<i64>) -> tokio::task::JoinHandle<Result<()>> {
    let shop = Shop {
        store: shop.store.clone(),
        broker: shop.broker.clone(),
        topic: shop.topic.clone(),
    };
    tokio::spawn(async move {
        let mut next = numbers.start;
        while next < numbers.end {
            shop.append_sales(next..(next + 100).min(numbers.end)).await?;
            next += 100;
            tokio::task::yield_now().await;
        }
        Ok(())
    })
}

async fn healthy(shop: &Shop) -> Result<()> {
    wait_until("a healthy broker", LIMIT, || async {
        shop.broker.ping(PING).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_killed_and_stopped_under_load() -> Result<()> {
    let kafka = PrivateKafka::prepare(27_400).await?;
    let database = TestDatabase::postgres().await?;
    let shop = Shop::open(&database, &kafka.url(), &topic()).await?;
    let engine = shop.sales();

    // Not there yet: accepted all the same.
    ensure!(shop.broker.ping(PING).await.is_err(), "nobody listens there");
    let message = shop.message(&Sale {
        n: 0,
        text: String::new(),
    })?;
    let started = Instant::now();
    ensure!(shop.publisher().publish(message).await? == Via::Outbox);
    ensure!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    shop.append_sales(1..100).await?;
    kafka.start().await?;
    shop.sold_once(0..100).await?;
    healthy(&shop).await?;

    // Killed and started again, under load.
    let loading = load(&shop, 100..4000);
    shop.wait_for(1000).await?;
    kafka.kill9().await?;
    ensure!(shop.broker.ping(PING).await.is_err(), "a dead broker answered");
    loading.await??;
    kafka.start().await?;
    shop.sold_once(0..4000).await?;
    healthy(&shop).await?;

    // Stopped in good order and started again, under load.
    let loading = load(&shop, 4000..7000);
    shop.wait_for(4500).await?;
    kafka.stop().await?;
    kafka.start().await?;
    loading.await??;
    shop.sold_once(0..7000).await?;
    ensure!(shop.dead().await? == 0, "dead letters");
    engine.stop(LIMIT).await;
    Ok(())
}
