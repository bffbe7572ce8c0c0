//! What the server will not take, and what it will not give out again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::broker::BrokerError;
use posthaste::dead_letter::{self, DeadLetter, Selection};
use posthaste::{Cx, Handle, Handled, Store, StoreOptions, Subscription};
use posthaste_testkit::servers::{PostgresUrl, PrivateMysql, PrivatePostgres, PrivateRabbitmq, TestVhost};
use posthaste_testkit::{TestDatabase, wait_until};

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
            Err(other) => anyhow::bail!("{n}: {:?}", anyhow::Error::from(other.clone())),
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

/// Less than the large messages below, as an administrator may have set it.
const PACKET: usize = 1 << 20;

/// Keeps all of the message.
struct Keep;

impl Handle<Sale> for Keep {
    async fn handle(&self, sale: Sale, cx: &mut Cx<'_>) -> Handled {
        let insert = "INSERT INTO effects (effect_key, n) VALUES ($1, $2)";
        cx.tx().execute(insert, vec![sale.text.into(), sale.n.into()]).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_never_takes_is_dead_without_its_body_and_holds_up_no_other() -> Result<()> {
    let mysql = PrivateMysql::launch(23_940).await?;
    let server = Store::open(mysql.url().as_str(), StoreOptions::default())?;
    let limit = format!("SET GLOBAL max_allowed_packet = {PACKET}");
    server.execute(&limit, vec![]).await?;
    server.close().await;
    let database = TestDatabase::on_mysql(mysql.url().clone()).await?;
    let vhost = TestVhost::create().await?;
    let shop = Shop::open(&database, vhost.url(), &topic()).await?;
    let mut large = shop.message(&Sale {
        n: 1,
        text: "x".repeat(3 * PACKET / 2),
    })?;
    large.correlation_id = Some("the-large-one".to_owned());
    let size = large.body.len();
    // Nobody's contract, so that no handler sees it; and so large that the server hangs up in the middle.
    let mut foreign = shop.message(&sale(2))?;
    foreign.body = vec![b'x'; 12 * PACKET];
    let small = (3..303).map(|n| {
        let text = "y".repeat(8 * 1024);
        shop.message(&Sale { n, text })
    });
    let mut messages = vec![large, foreign];
    messages.extend(small.collect::<Result<Vec<_>>>()?);
    let confirmed = shop.broker.publish(messages).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    let mut keeping = Subscription::new::<Sale, _>("shop.keep", &shop.topic, Keep);
    keeping.dead_letter_queue = Some(format!("{}.dead", shop.topic));
    let engine = shop.start(vec![keeping]);
    wait_until("two dead letters", LIMIT, || async {
        (shop.dead().await.ok()? == 2).then_some(())
    })
    .await?;
    shop.wait_for(300).await?;
    engine.stop(LIMIT).await;
    let letters = dead_letter::list(&shop.store, &Selection::default(), 10).await?;
    for letter in &letters {
        ensure!(letter.message.body.is_empty(), "{}", letter.error);
        let hash = letter
            .error
            .split_once("SHA-256 ")
            .and_then(|(_, rest)| rest.split_once(')'));
        ensure!(hash.is_some_and(|(hash, _)| hash.len() == 64), "{}", letter.error);
    }
    let of_large = |letter: &&DeadLetter| letter.message.correlation_id.as_deref() == Some("the-large-one");
    let large = letters.iter().find(of_large);
    let large = large.ok_or_else(|| anyhow::anyhow!("no dead letter of the large one: {letters:?}"))?;
    ensure!(large.error.contains(&format!("{size} bytes")), "{}", large.error);
    let copies = shop.count("SELECT COUNT(*) AS n FROM outbox_messages").await?;
    ensure!(copies == 2, "{copies} copies");
    Ok(())
}
