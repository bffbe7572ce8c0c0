//! The keys for access tokens: one is made at a time, and a database that is away is waited for once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use posthaste::message::now;
use posthaste_testkit::fault_proxy::{Cut, Direction, Fault, FaultProxy};
use posthaste_testkit::servers::postgres;
use posthaste_testkit::{TestDatabase, wait_until};

use crate::house::{House, LIMIT, Pass};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";

on_each_stage!(of_many_that_need_a_key_one_makes_it);

async fn published(house: &House) -> Result<usize> {
    let reply = house.act("GET", "/.well-known/jwks.json", &[]).await?;
    Ok(reply.body["keys"].as_array().context("no keys")?.len())
}

async fn of_many_that_need_a_key_one_makes_it(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let mut passes = Vec::new();
    for _ in 0..6 {
        passes.push(house.login(ANN).await?);
    }
    house.age("signing_keys", "active_from", 31 * 24 * 3600).await?;
    house.close().await?;

    // Both know the old key only, and know it for a second.
    let houses = [House::open(&stage).await?, House::open(&stage).await?];
    for house in &houses {
        ensure!(published(house).await? == 1);
    }
    let replies = try_join_all((0..6).map(|n| houses[n % 2].refresh(&passes[n].refresh))).await?;
    let passes = replies.iter().map(Pass::of).collect::<Result<Vec<_>>>()?;
    ensure!(houses[0].service.count("signing_keys").await? == 2, "one successor");

    // There is none any more.
    let store = houses[0].service.store();
    let sql = "UPDATE signing_keys SET revoked_at = $1";
    store.execute(sql, vec![store.dialect().time(now())]).await?;
    wait_until("no key at either", LIMIT, || async {
        let none = published(&houses[0]).await.ok()? + published(&houses[1]).await.ok()? == 0;
        none.then_some(())
    })
    .await?;
    let replies = try_join_all((0..6).map(|n| houses[n % 2].refresh(&passes[n].refresh))).await?;
    for reply in &replies {
        let pass = Pass::of(reply)?;
        wait_until("the token to be good at both", LIMIT, || async {
            let good = houses[0].calls(&pass).await.ok()? == 200 && houses[1].calls(&pass).await.ok()? == 200;
            good.then_some(())
        })
        .await?;
    }
    let good = houses[0].service.count("signing_keys WHERE revoked_at IS NULL").await?;
    ensure!(good == 1, "{good} new ones");
    let [one, two] = houses;
    one.close().await?;
    two.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wait_once_for_a_database_that_is_away() -> Result<()> {
    let server = tokio::task::spawn_blocking(postgres).await??;
    let proxy = FaultProxy::start(server.address().await?, 3).await?;
    let stage = Stage::over(TestDatabase::on(server.with_address(proxy.address())?).await?).await?;
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    ensure!(house.calls(&pass).await? == 200);
    proxy.inject(Fault::Refuse);
    proxy.inject(Fault::Cut {
        direction: Direction::ToServer,
        after: 0..1,
        by: Cut::Reset,
    });
    // One wait for a connection lasts five seconds; connections that were cut fail at once. After the first wait nobody
    // has a list of keys.
    let waited = async || -> Result<Duration> {
        let since = Instant::now();
        ensure!(house.calls(&pass).await? == 503);
        Ok(since.elapsed())
    };
    while waited().await? < Duration::from_secs(2) {}
    let since = Instant::now();
    for status in join_all((0..8).map(|_| house.calls(&pass))).await {
        ensure!(status? == 503);
    }
    ensure!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    // The failure that they share is kept for a second; a slow machine may be too late for it.
    let mut again = waited().await?;
    for _ in 0..2 {
        again = again.min(waited().await?);
    }
    ensure!(again < Duration::from_secs(3), "{again:?}");
    proxy.heal();
    wait_until("the database to be back", LIMIT, || async {
        (house.calls(&pass).await.ok()? == 200).then_some(())
    })
    .await?;
    house.close().await?;
    stage.finish().await
}
