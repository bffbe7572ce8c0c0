//! A partition that was paused leaves a member and comes back to it.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste::{Cx, Engine, Handle, Handled, Subscription};
use posthaste_testkit::{TestDatabase, wait_until};
use tokio::sync::watch;

use crate::shop::{LIMIT, Sale, Shop, sale, topic};
use crate::transport;

/// More of each of two partitions than a member fetches ahead.
const SALES: i64 = 14_000;

/// Books a sale once the gate is open; tells that it was called.
struct Gated {
    gate: watch::Receiver<bool>,
    called: watch::Sender<bool>,
}

impl Handle<Sale> for Gated {
    async fn handle(&self, sale: Sale, cx: &mut Cx<'_>) -> Handled {
        self.called.send_replace(true);
        let opened = self.gate.clone().wait_for(|open| *open).await.map(drop);
        opened.map_err(std::io::Error::other)?;
        let insert = "INSERT INTO effects (effect_key, n) VALUES ('', $1)";
        cx.tx().execute(insert, vec![sale.n.into()]).await?;
        Ok(())
    }
}

/// A member of the group, and whether its handler was called.
fn join(shop: &Shop, gate: &watch::Sender<bool>) -> (Engine, watch::Receiver<bool>) {
    let (called, seen) = watch::channel(false);
    let handler = Gated {
        gate: gate.subscribe(),
        called,
    };
    let mut subscription = Subscription::new::<Sale, _>("shop.sales", &shop.topic, handler);
    subscription.group = Some(shop.topic.clone());
    subscription.batch = 50;
    subscription.deadline = 2 * LIMIT;
    (shop.start(vec![subscription]), seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_fetched_again() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let (topic, url) = (topic(), format!("{}?partitions=2", transport()?));
    let one = Shop::open(&database, &url, &topic).await?;
    let two = Shop::open(&database, &url, &topic).await?;
    let numbers: Vec<i64> = (0..SALES).collect();
    for some in numbers.chunks(500) {
        let messages = some.iter().map(|n| {
            let mut message = one.message(&sale(*n))?;
            message.key = Some(format!("k{n}"));
            anyhow::Ok(message)
        });
        let messages = messages.collect::<Result<Vec<_>>>()?;
        // The first confirmations may be late: the topic has to be made.
        wait_until("confirmations", LIMIT, || async {
            let confirmed = one.broker.publish(messages.clone()).await;
            confirmed.iter().all(Result::is_ok).then_some(())
        })
        .await?;
    }
    let gate = watch::Sender::new(false);
    let (staying, mut called) = join(&one, &gate);
    let limit = tokio::time::timeout(LIMIT, called.wait_for(|called| *called));
    limit.await.context("the first member")??;
    // It fetches ahead what it may, which takes less time than the other's joining.
    let (leaving, mut called) = join(&two, &gate);
    let limit = tokio::time::timeout(LIMIT, called.wait_for(|called| *called));
    limit.await.context("the second member")??;
    leaving.stop(Duration::from_secs(1)).await;
    gate.send_replace(true);
    one.sold_once(0..SALES).await?;
    staying.stop(LIMIT).await;
    Ok(())
}
