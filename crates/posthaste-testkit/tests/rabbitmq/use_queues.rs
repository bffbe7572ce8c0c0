//! Queues that operators declare, delete or share.

use std::time::Duration;

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use posthaste::Unread;
use posthaste::dead_letter::{self, Selection};
use posthaste_testkit::{TestDatabase, servers, wait_until};

use crate::foreign_client::Client;
use crate::shop::{LIMIT, Shop, Step, sale, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_comes_back_with_its_reader() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let client = Client::connect(&url).await?;
    let engine = shop.sales();
    let mut sent = 0;
    for _ in 0..3 {
        let messages = (sent..sent + 50)
            .map(|n| shop.message(&sale(n)))
            .collect::<Result<Vec<_>>>()?;
        let confirmed = shop.broker.publish(messages).await;
        ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
        sent += 50;
        shop.sold_once(0..sent).await?;
        // Settled too: what is in a deleted queue is gone.
        client.delete(&topic).await?;
    }
    // The outbox finds out on its way.
    shop.append_sales(sent..sent + 100).await?;
    shop.sold_once(0..sent + 100).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_with_other_arguments_are_used() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let client = Client::connect(&url).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(600_000));
    client.declare(&topic, arguments.clone()).await?;
    for n in 0..16 {
        client.declare(&format!("{topic}.p{n}"), arguments.clone()).await?;
    }
    let shop = Shop::open(&database, &url, &topic).await?;
    let engine = shop.steps(50);
    shop.append((0..60).map(|n| Step {
        key: format!("k{}", n % 3),
        n,
    }))
    .await?;
    client
        .publish(&topic, br#"{"key":"hand","n":1}"#, BasicProperties::default())
        .await?;
    shop.wait_for(61).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_order_holds() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let client = Client::connect(&url).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    for n in 0..16 {
        client.declare(&format!("{topic}.p{n}"), arguments.clone()).await?;
    }
    let shop = Shop::open(&database, &url, &topic).await?;
    let steps = (0..40).map(|n| shop.message(&Step { key: "k".to_owned(), n }));
    let confirmed = shop.broker.publish(steps.collect::<Result<_>>()?).await;
    let taken = confirmed.iter().take_while(|result| result.is_ok()).count();
    ensure!(
        taken < 40 && confirmed[taken..].iter().all(Result::is_err),
        "{confirmed:?}"
    );
    let engine = shop.steps(2);
    shop.append((taken as i64..300).map(|n| Step { key: "k".to_owned(), n }))
        .await?;
    shop.wait_for(300).await?;
    ensure!(shop.effects("k").await? == (0..300).collect::<Vec<_>>());
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_when_one_of_two_processes_dies() -> Result<()> {
    let (database, url, topic) = (TestDatabase::postgres().await?, servers::rabbitmq()?, topic());
    let dying = Shop::open(&database, &url, &topic).await?;
    let staying = Shop::open(&database, &url, &topic).await?;
    let client = Client::connect(&url).await?;
    client.declare(&topic, FieldTable::default()).await?;
    let (first, second) = (dying.steps(20), staying.steps(20));
    let step = |n: i64| Step {
        key: format!("k{}", n % 8),
        n,
    };
    staying.append((0..1000).map(step)).await?;
    for n in 0..100 {
        let body = format!(r#"{{"key":"hand","n":{n}}}"#);
        client
            .publish(&topic, body.as_bytes(), BasicProperties::default())
            .await?;
    }
    staying.wait_for(300).await?;
    drop(first);
    drop(dying);
    staying.append((1000..1500).map(step)).await?;
    staying.wait_for(1600).await?;
    second.stop(LIMIT).await;
    for key in 0..8 {
        let effects = staying.effects(&format!("k{key}")).await?;
        let expected: Vec<i64> = (0..1500).filter(|n| n % 8 == key).collect();
        ensure!(effects == expected, "k{key}: {effects:?}");
    }
    let by_hand = staying.effects("hand").await?;
    ensure!(by_hand.len() == 100, "{by_hand:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_queues_by_url() -> Result<()> {
    let (database, topic) = (TestDatabase::sqlite()?, topic());
    let url = format!("{}?queue_type=quorum", servers::rabbitmq()?);
    let shop = Shop::open(&database, &url, &topic).await?;
    let engine = shop.steps(50);
    shop.append((0..100).map(|n| Step {
        key: format!("k{}", n % 3),
        n,
    }))
    .await?;
    shop.wait_for(100).await?;
    wait_until("a queue of another type", LIMIT, || async {
        // Refused, because it is there and of another type; before, it is not there.
        let asked = Client::connect(&url).await.ok()?;
        asked.declare_passively(&topic).await.ok()?;
        asked.declare(&topic, FieldTable::default()).await.err()
    })
    .await?;
    let client = Client::connect(&servers::rabbitmq()?).await?;
    client
        .publish(&topic, br#"{"key":"hand","n":1}"#, BasicProperties::default())
        .await?;
    shop.wait_for(101).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_in_time_is_a_dead_letter() -> Result<()> {
    let (database, url, topic) = (TestDatabase::sqlite()?, servers::rabbitmq()?, topic());
    let shop = Shop::open(&database, &url, &topic).await?;
    let mut selling = shop.selling();
    selling.unread = Some(Unread {
        // What is read in time is read within it, on a busy machine too.
        after: Duration::from_secs(5),
        queue: format!("{topic}.unread"),
    });
    // A process that only publishes declares the queue as its reader would.
    shop.broker.learn(std::slice::from_ref(&selling));
    let messages = (0..30).map(|n| shop.message(&sale(n))).collect::<Result<Vec<_>>>()?;
    let confirmed = shop.broker.publish(messages).await;
    ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    let client = Client::connect(&url).await?;
    wait_until("the messages to be moved", LIMIT, || async {
        let options = lapin::options::QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let queue = format!("{topic}.unread").into();
        let moved = client.channel.queue_declare(queue, options, FieldTable::default());
        (moved.await.ok()?.message_count() == 30).then_some(())
    })
    .await?;
    let engine = shop.start(vec![selling]);
    wait_until("the dead letters", LIMIT, || async {
        (shop.dead().await.ok()? == 30).then_some(())
    })
    .await?;
    ensure!(shop.effects("").await?.is_empty());
    ensure!(dead_letter::replay(&shop.store, &Selection::default()).await? == 30);
    shop.sold_once(0..30).await?;
    // What is read in time is handled as ever.
    shop.append_sales(30..40).await?;
    shop.sold_once(0..40).await?;
    engine.stop(LIMIT).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_plain_queue() -> Result<()> {
    let (database, url, topic) = (TestDatabase::postgres().await?, servers::rabbitmq()?, topic());
    let one = Shop::open(&database, &url, &topic).await?;
    let other = Shop::open(&database, &url, &topic).await?;
    let engines = [one.sales(), other.sales()];
    one.append_sales(0..3000).await?;
    one.sold_once(0..3000).await?;
    wait_until("an empty outbox", LIMIT, || async {
        let sql = "SELECT COUNT(*) AS n FROM outbox_messages WHERE status = 'pending'";
        (one.count(sql).await.ok()? == 0).then_some(())
    })
    .await?;
    for engine in engines {
        engine.stop(LIMIT).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_processes_reads_a_plain_quorum_queue() -> Result<()> {
    let (database, topic) = (TestDatabase::postgres().await?, topic());
    let plain = servers::rabbitmq()?;
    let url = format!("{plain}?queue_type=quorum");
    let one = Shop::open(&database, &url, &topic).await?;
    let two = Shop::open(&database, &url, &topic).await?;
    // Of few messages at a time, so that there is something left for the other one.
    let (first, second) = (one.steps(3), two.steps(3));
    // Both are reading what they may.
    one.append((0..50).map(|n| Step {
        key: format!("k{n}"),
        n,
    }))
    .await?;
    one.wait_for(50).await?;
    let client = Client::connect(&plain).await?;
    for n in 0..300 {
        let body = format!(r#"{{"key":"hand","n":{n}}}"#);
        client
            .publish(&topic, body.as_bytes(), BasicProperties::default())
            .await?;
    }
    one.wait_for(350).await?;
    let by_hand = one.effects("hand").await?;
    ensure!(by_hand == (0..300).collect::<Vec<_>>(), "{by_hand:?}");
    // Whoever read it goes; the other one takes over.
    first.stop(LIMIT).await;
    drop(one);
    client
        .publish(&topic, br#"{"key":"late","n":1}"#, BasicProperties::default())
        .await?;
    two.wait_for(351).await?;
    second.stop(LIMIT).await;
    Ok(())
}
