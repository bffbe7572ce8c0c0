//! What a process holds of its queues is bounded in bytes, whatever RabbitMQ has on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use posthaste::{Cx, Event, HandleBatch, Handled, Received, Subscription};
use posthaste_testkit::servers::PrivateRabbitmq;
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};

use crate::foreign_client::Client;
use crate::shop::{LIMIT, Shop, topic};

/// A server of its own: so many bytes at once block everybody who publishes to it.
const PORT: u16 = 27_880;
const LARGE: usize = 4 << 20;
/// The budget of a process, and one delivery more for the second channel of an ordered subscription.
const MOST: usize = (32 << 20) + LARGE + (1 << 20);
const SMALL: usize = 300;
const LARGE_ONES: usize = 24;
const FEW: i64 = 4;

#[derive(Serialize, Deserialize)]
struct Picture {
    n: usize,
    pixels: String,
}

impl Event for Picture {
    const TYPE: &'static str = "picture";
    const TOPIC: &'static str = "pictures";
}

#[derive(Serialize, Deserialize)]
struct Frame {
    film: String,
    n: usize,
    pixels: String,
}

impl Event for Frame {
    const TYPE: &'static str = "frame";
    const TOPIC: &'static str = "frames";
    const ORDERED: bool = true;

    fn key(&self) -> Option<String> {
        Some(self.film.clone())
    }
}

/// The batches, each with the films, numbers and bytes of its messages.
#[derive(Clone, Default)]
struct Look(Arc<Mutex<Vec<Vec<(String, usize, usize)>>>>);

impl Look {
    fn note(&self, batch: Vec<(String, usize, usize)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    fn batches(&self) -> Vec<Vec<(String, usize, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self) -> usize {
        self.batches().iter().map(Vec::len).sum()
    }

    /// Ensures that no batch was larger than a process may hold, and returns the numbers of each film in their order.
    fn check(&self) -> Result<HashMap<String, Vec<usize>>> {
        let batches = self.batches();
        let bytes = |batch: &Vec<(String, usize, usize)>| batch.iter().map(|(_, _, bytes)| bytes).sum::<usize>();
        let largest = batches.iter().map(bytes).max().unwrap_or(0);
        ensure!(largest <= MOST, "{largest} bytes at a time");
        let mut films: HashMap<String, Vec<usize>> = HashMap::new();
        for (film, n, _) in batches.into_iter().flatten() {
            films.entry(film).or_default().push(n);
        }
        Ok(films)
    }
}

impl HandleBatch<Picture> for Look {
    async fn handle_batch(&self, events: Vec<Received<Picture>>, _cx: &mut Cx<'_>) -> Handled {
        let batch = events.iter().map(|received| {
            let bytes = received.message.body.len();
            (String::new(), received.event.n, bytes)
        });
        self.note(batch.collect());
        Ok(())
    }
}

impl HandleBatch<Frame> for Look {
    async fn handle_batch(&self, events: Vec<Received<Frame>>, _cx: &mut Cx<'_>) -> Handled {
        let batch = events.iter().map(|received| {
            let bytes = received.message.body.len();
            (received.event.film.clone(), received.event.n, bytes)
        });
        self.note(batch.collect());
        Ok(())
    }
}

async fn start(shop: &Shop, mut subscription: Subscription, look: &Look, count: usize) -> Result<()> {
    subscription.group = Some(shop.topic.clone());
    subscription.concurrency = 1;
    subscription.batch = 500;
    let engine = shop.start(vec![subscription]);
    wait_until(&format!("{count} pictures"), LIMIT, || async {
        (look.count() >= count).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    // What was asked for again has killed nobody. A few may come from a channel that was lost on a busy machine.
    let alone = shop
        .count("SELECT COUNT(*) AS n FROM inbox_messages WHERE attempts > 0")
        .await?;
    ensure!(alone <= FEW, "{alone} were handled alone");
    Ok(())
}

/// The small ones open the prefetch wide; what follows them is on its way all at once.
async fn of_one_queue(arguments: &str) -> Result<()> {
    let (database, broker) = (TestDatabase::sqlite()?, PrivateRabbitmq::launch(PORT).await?);
    let shop = Shop::open(&database, &format!("{}{arguments}", broker.url()), &topic()).await?;
    let (count, look) = (SMALL + LARGE_ONES, Look::default());
    for first in (0..count).step_by(6) {
        let messages = (first..first + 6).map(|n| {
            let bytes = if n < SMALL { 10 } else { LARGE };
            let pixels = "x".repeat(bytes);
            shop.message(&Picture { n, pixels })
        });
        let confirmed = shop.broker.publish(messages.collect::<Result<_>>()?).await;
        ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    }
    let subscription = Subscription::batch::<Picture, _>("shop.look", &shop.topic, look.clone());
    start(&shop, subscription, &look, count).await?;
    let mut seen = look.check()?.remove("").unwrap_or_default();
    seen.sort_unstable();
    ensure!(seen == (0..count).collect::<Vec<_>>(), "{seen:?}");
    drop(broker);
    database.finish().await
}

/// The partition queues and the plain one, where another client has published.
async fn of_partitions(arguments: &str) -> Result<()> {
    let (database, broker) = (TestDatabase::sqlite()?, PrivateRabbitmq::launch(PORT).await?);
    let shop = Shop::open(&database, &format!("{}{arguments}", broker.url()), &topic()).await?;
    let look = Look::default();
    let films = LARGE_ONES / 4;
    for n in 0..4 {
        let messages = (0..films).map(|film| {
            let (film, pixels) = (format!("film {film}"), "x".repeat(LARGE));
            shop.message(&Frame { film, n, pixels })
        });
        let confirmed = shop.broker.publish(messages.collect::<Result<_>>()?).await;
        ensure!(confirmed.iter().all(Result::is_ok), "{confirmed:?}");
    }
    let subscription = || {
        let mut subscription = Subscription::batch::<Frame, _>("shop.look", &shop.topic, look.clone());
        subscription.ordered = true;
        subscription
    };
    // The first start declares the plain queue.
    start(&shop, subscription(), &look, LARGE_ONES).await?;
    let client = Client::connect(&broker.url()).await?;
    for n in 0..6 {
        let (film, pixels) = ("by hand".to_owned(), "x".repeat(LARGE));
        let body = serde_json::to_vec(&Frame { film, n, pixels })?;
        client.publish(&shop.topic, &body, Default::default()).await?;
    }
    start(&shop, subscription(), &look, LARGE_ONES + 6).await?;
    let seen = look.check()?;
    ensure!(seen.len() == films + 1, "{} films", seen.len());
    for (film, numbers) in seen {
        let frames = if film == "by hand" { 6 } else { 4 };
        ensure!(numbers == (0..frames).collect::<Vec<_>>(), "{film}: {numbers:?}");
    }
    drop(broker);
    database.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_classic_queue() -> Result<()> {
    of_one_queue("").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_quorum_queue() -> Result<()> {
    of_one_queue("?queue_type=quorum").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic_partition_queues_in_order() -> Result<()> {
    of_partitions("").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_partition_queues_in_order() -> Result<()> {
    of_partitions("?queue_type=quorum").await
}
