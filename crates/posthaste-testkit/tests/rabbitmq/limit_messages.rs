//! What the server will not take, and what it will not give out again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::broker::BrokerError;
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres, PrivateRabbitmq};

use crate::shop::{LIMIT, Sale, Shop, sale, topic};

/// Long enough for the pauses between several attempts to handle a message.
const OUTAGE: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_is_too_large_holds_up_no_other() -> Result<()> {
    let server = PrivateRabbitmq::launch(26_700).await?;
    server.limit_messages(1_000).await?;
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &server.url(), &topic()).await?;
    let large = [30, 99];
    let mut messages = (0..100).map(|n| shop.message(&sale(n))).collect::<Result<Vec<_>>>()?;
    for n in large {
        let text = "x".repeat(2_000);
        messages[n] = shop.message(&Sale { n: 1_000, text })?;
    }
    let confirmed = shop.broker.publish(messages).await;
    for (n, result) in confirmed.iter().enumerate() {
        match result {
            Ok(()) => ensure!(!large.contains(&n), "{n} is too large"),
            Err(BrokerError::TooLarge(_)) => ensure!(large.contains(&n), "{n} is not too large"),
            Err(other) => anyhow::bail!("{n}: {other}"),
        }
    }
    let engine = shop.sales();
    shop.wait_for(98).await?;
    engine.stop(LIMIT).await;
    let mut sold = shop.effects("").await?;
    sold.sort_unstable();
    let small: Vec<i64> = (0..100).filter(|n| !large.contains(&(*n as usize))).collect();
    ensure!(sold == small, "{sold:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_queues_drop_nothing_while_the_database_is_away() -> Result<()> {
    let (server, postgres) = tokio::try_join!(PrivateRabbitmq::launch(26_700), PrivatePostgres::launch(25_950))?;
    server.limit_deliveries(1).await?;
    let database = TestDatabase::on(PostgresUrl::parse(postgres.url())?).await?;
    let url = format!("{}?queue_type=quorum", server.url());
    let shop = Shop::open(&database, &url, &topic()).await?;
    let engine = shop.sales();
    shop.append_sales(0..1).await?;
    shop.sold_once(0..1).await?;
    postgres.stop().await?;
    let messages = (1..300).map(|n| shop.message(&sale(n))).collect::<Result<_>>()?;
    let confirmed = shop.broker.publish(messages).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    // That time passes is what it is about.
    drop(tokio::time::timeout(OUTAGE, std::future::pending::<()>()).await);
    postgres.start().await?;
    shop.sold_once(0..300).await?;
    engine.stop(LIMIT).await;
    Ok(())
}
