//! The server closes connections, dies, refuses and hangs; nothing is lost and nothing happens twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste::publish::Via;
use posthaste_testkit::fault_proxy::{Cut, Direction, Fault, FaultProxy};
use posthaste_testkit::servers::{self, PrivateRabbitmq};
use posthaste_testkit::{TestDatabase, wait_until};

use crate::shop::{LIMIT, Shop, Step, sale, topic};

const PING: Duration = Duration::from_secs(2);
/// Less than the 5 s that a publish may wait for a connection.
const AT_ONCE: Duration = Duration::from_millis(4500);

async fn healthy(shop: &Shop) -> Result<()> {
    wait_until("a healthy broker", LIMIT, || async {
        shop.broker.ping(PING).await.ok()
    })
    .await
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_a_server_under_load() -> Result<()> {
    let server = PrivateRabbitmq::launch(26_700).await?;
    let database = TestDatabase::postgres().await?;
    let shop = Shop::open(&database, &server.url(), &topic()).await?;
    let engine = shop.sales();

    // Connections closed from the other side, under load.
    let loading = load(&shop, 0..3000);
    shop.wait_for(200).await?;
    server.close_all_connections().await?;
    shop.wait_for(1000).await?;
    server.close_all_connections().await?;
    loading.await??;
    shop.sold_once(0..3000).await?;

    // Killed and started again, under load.
    let loading = load(&shop, 3000..6000);
    shop.wait_for(3500).await?;
    server.kill9().await?;
    loading.await??;
    let refused = shop.broker.ping(PING).await;
    ensure!(refused.is_err(), "a dead server answered");

    // Away: accepted all the same, at once.
    let started = Instant::now();
    let message = shop.message(&sale(6000))?;
    ensure!(shop.publisher().publish(message).await? == Via::Outbox);
    ensure!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    server.start().await?;
    shop.sold_once(0..6001).await?;
    healthy(&shop).await?;

    // Blocked: health says so, the outbox takes what comes, and it goes on by itself.
    server.block(true).await?;
    wait_until("a blocked connection", LIMIT, || async {
        let message = shop.message(&sale(6001)).ok()?;
        // The same effect each time it is tried.
        let message = posthaste::Message {
            id: posthaste::MessageId::of_body(b"6001"),
            ..message
        };
        drop(shop.publisher().publish(message).await);
        shop.broker.ping(PING).await.err()
    })
    .await?;
    let started = Instant::now();
    let message = shop.message(&sale(6002))?;
    ensure!(shop.publisher().publish(message).await? == Via::Outbox);
    ensure!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    shop.append_sales(6003..6100).await?;
    server.block(false).await?;
    shop.sold_once(0..6100).await?;
    healthy(&shop).await?;

    // Stopped in good order.
    shop.append_sales(6100..6500).await?;
    server.stop().await?;
    shop.append_sales(6500..7000).await?;
    server.start().await?;
    shop.sold_once(0..7000).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_through_kills() -> Result<()> {
    let server = PrivateRabbitmq::launch(26_800).await?;
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &server.url(), &topic()).await?;
    let engine = shop.steps(100);
    let step = |n: i64| Step {
        key: format!("k{}", n % 20),
        n,
    };
    shop.append((0..1000).map(step)).await?;
    shop.wait_for(200).await?;
    server.close_all_connections().await?;
    shop.append((1000..2000).map(step)).await?;
    shop.wait_for(1200).await?;
    server.kill9().await?;
    shop.append((2000..3000).map(step)).await?;
    server.start().await?;
    shop.wait_for(3000).await?;
    engine.stop(LIMIT).await;
    for key in 0..20 {
        let effects = shop.effects(&format!("k{key}")).await?;
        let expected: Vec<i64> = (0..3000).filter(|n| n % 20 == key).collect();
        ensure!(effects == expected, "k{key}: {effects:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_hangs_and_cuts() -> Result<()> {
    let mut url = url::Url::parse(&servers::rabbitmq()?)?;
    let upstream = url.socket_addrs(|| Some(5672))?;
    let proxy = FaultProxy::start(*upstream.first().context("no address")?, 7).await?;
    ensure!(url.set_port(Some(proxy.address().port())).is_ok());
    url.set_query(Some("heartbeat=1"));
    let database = TestDatabase::postgres().await?;
    let shop = Shop::open(&database, url.as_str(), &topic()).await?;
    let engine = shop.sales();
    shop.append_sales(0..500).await?;
    shop.wait_for(100).await?;

    // Connections stay and nothing arrives; new ones get no answer.
    proxy.inject(Fault::HalfOpen);
    wait_until("the silence to be noticed", LIMIT, || async {
        shop.broker.ping(PING).await.err()
    })
    .await?;
    let started = Instant::now();
    let message = shop.message(&sale(500))?;
    ensure!(shop.publisher().publish(message).await? == Via::Outbox);
    ensure!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    shop.append_sales(501..1000).await?;
    wait_until("an attempt that waits for an answer", LIMIT, || async {
        (proxy.accepted() >= 6).then_some(())
    })
    .await?;
    proxy.heal();
    shop.sold_once(0..1000).await?;

    // Cut in the middle of frames.
    for (round, direction) in [Direction::ToServer, Direction::ToClient].into_iter().enumerate() {
        let first = 1000 + i64::try_from(round)? * 2000;
        proxy.inject(Fault::Cut {
            direction,
            after: 10_000..300_000,
            by: Cut::Reset,
        });
        shop.append_sales(first..first + 2000).await?;
        // A reset takes with it what its receiver had not read, so nothing need get through before the network heals.
        let before = proxy.accepted();
        wait_until("six connections after cuts", LIMIT, || async {
            (proxy.accepted() >= before + 6).then_some(())
        })
        .await?;
        proxy.heal();
        shop.sold_once(0..first + 2000).await?;
    }
    healthy(&shop).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_at_the_start() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, "amqp://127.0.0.1:1", &topic()).await?;
    let engine = shop.sales();
    let message = shop.message(&sale(0))?;
    ensure!(shop.publisher().publish(message).await? == Via::Outbox);
    ensure!(shop.broker.ping(PING).await.is_err());
    let stopping = Instant::now();
    engine.stop(LIMIT).await;
    ensure!(stopping.elapsed() < LIMIT / 2);
    Ok(())
}
