//! Several members of one group: partitions move under load.

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;

use crate::shop::{LIMIT, Shop, Step, topic};
use crate::transport;

const KEYS: i64 = 12;

async fn append(shop: &Shop, numbers: std::ops::Range<i64>) -> Result<()> {
    let step = |n: i64| {
        (0..KEYS).map(move |key| Step {
            key: format!("k{key}"),
            n,
        })
    };
    shop.append(numbers.flat_map(step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_per_key_holds_while_members_come_and_go() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let topic = topic();
    let one = Shop::open(&database, &transport()?, &topic).await?;
    let two = Shop::open(&database, &transport()?, &topic).await?;
    let three = Shop::open(&database, &transport()?, &topic).await?;
    let staying = one.steps(20);
    append(&one, 0..60).await?;
    one.wait_for(100).await?;
    let vanishing = two.steps(20);
    append(&one, 60..120).await?;
    one.wait_for(900).await?;
    // Without a word: what it had in hand is another's.
    drop(vanishing);
    append(&one, 120..180).await?;
    let late = three.steps(20);
    append(&one, 180..240).await?;
    one.wait_for(2500).await?;
    staying.stop(LIMIT).await;
    append(&three, 240..260).await?;
    three.wait_for(260 * KEYS).await?;
    late.stop(LIMIT).await;
    for key in 0..KEYS {
        let effects = three.effects(&format!("k{key}")).await?;
        ensure!(effects == (0..260).collect::<Vec<_>>(), "k{key}: {effects:?}");
    }
    Ok(())
}
