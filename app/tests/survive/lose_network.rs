//! The way to the database fails in the manners in which networks fail, under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use posthaste_testkit::servers::PostgresUrl;
use posthaste_testkit::{Cut, Direction, Fault, FaultProxy, TestDatabase, wait_until};

use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

/// How long nothing arrives.
const SILENT: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_loses_and_doubles_nothing_on_postgres() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let direct = PostgresUrl::parse(database.url())?;
    let proxy = FaultProxy::start(direct.address().await?, 20_260_421).await?;
    let proxied = direct.with_address(proxy.address())?;
    let folder = tempfile::tempdir()?;
    let running = Posthaste::start(folder.path(), proxied.as_str()).await?;
    let load = Load::start(&running.base, 4);
    load.acknowledge(200).await?;

    // Established connections go silent.
    proxy.inject(Fault::HalfOpen);
    let since = Instant::now();
    let health = format!("{}/health", running.base);
    wait_until("/health to say 503 while nothing arrives", LIMIT, || async {
        (reqwest::get(&health).await.ok()?.status() == 503).then_some(())
    })
    .await?;
    wait_until("the silence to have lasted", LIMIT, || async {
        (since.elapsed() >= SILENT).then_some(())
    })
    .await?;
    proxy.heal();
    load.acknowledge(200).await.context("after the silence")?;

    // Answers stop in the middle, again and again, at places of chance: whether a commit happened is
    // not known.
    for by in [Cut::Reset, Cut::Finish] {
        let before = proxy.accepted();
        proxy.inject(Fault::Cut {
            direction: Direction::ToClient,
            after: 1_000..6_000,
            by,
        });
        wait_until("twenty connections to be cut", LIMIT, || async {
            (proxy.accepted() >= before + 20).then_some(())
        })
        .await?;
        proxy.heal();
        load.acknowledge(200).await.context("after the cuts")?;
    }

    // Statements arrive, answers do not.
    let refused = load.refused();
    proxy.inject(Fault::Drop(Direction::ToClient));
    wait_until("a client to be told", LIMIT, || async {
        (load.refused() > refused).then_some(())
    })
    .await?;
    proxy.heal();
    load.acknowledge(200).await.context("after the lost answers")?;

    proxy.inject(Fault::Latency {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(30),
    });
    load.acknowledge(40).await.context("over a slow line")?;
    proxy.heal();

    let seen = load.finish().await;
    expect_all_processed(database.url(), &seen).await?;
    running.terminate().await?;
    database.finish().await
}
