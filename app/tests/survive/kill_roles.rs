//! Torture: the roles as processes of their own, RabbitMQ and the worker killed again and again under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;

use crate::alone;
use crate::expect_rows::expect_all_processed;
use crate::load::{Kind, Load};
use crate::process::Posthaste;

/// How many events, unless `POSTHASTE_TORTURE_EVENTS` says.
const EVENTS: usize = 5_000;
const CLIENTS: usize = 64;

enum Victim {
    Broker,
    Worker,
}
use Victim::{Broker, Worker};

const VICTIMS: [Victim; 8] = [Worker, Broker, Worker, Worker, Broker, Worker, Broker, Worker];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_kills_of_the_broker_and_five_of_the_worker() -> Result<()> {
    let events = match std::env::var("POSTHASTE_TORTURE_EVENTS") {
        Ok(number) => number.parse().context("POSTHASTE_TORTURE_EVENTS")?,
        Err(_unset) => EVENTS,
    };
    // Ten minutes, and twenty milliseconds for each event.
    let limit = Duration::from_secs(600) + Duration::from_millis(20) * events as u32;
    alone(limit, torture(events, limit)).await
}

async fn torture(events: usize, limit: Duration) -> Result<()> {
    let broker = PrivateRabbitmq::launch(26_820).await?;
    let database = TestDatabase::postgres().await?;
    let folder = tempfile::tempdir()?;
    let url = broker.url();
    let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
    let start = |role| Posthaste::spawn(folder.path(), &["notifications", "--role", role], &settings);
    let (api, relay) = (start("api")?, start("relay")?);
    let mut worker = start("worker")?;
    for process in [&api, &relay, &worker] {
        process.answers("/readyz", 200).await?;
    }

    let began = Instant::now();
    let load = Load::of(Kind::Event, &api.base, CLIENTS, events);
    for (number, victim) in VICTIMS.iter().enumerate() {
        load.reach(events * (number + 1) / (VICTIMS.len() + 1), limit).await?;
        match victim {
            Broker => {
                broker.kill9().await?;
                broker.start().await?;
            }
            Worker => {
                worker.kill9().await?;
                worker = start("worker")?;
            }
        }
    }
    load.reach(events, limit).await?;
    let taken = began.elapsed();
    let seen = load.finish().await;
    ensure!(seen.sent.len() == events && seen.acknowledged == seen.sent);
    expect_all_processed(database.url(), &seen).await?;
    println!(
        "{events} events taken in {taken:?}, processed after {:?}",
        began.elapsed()
    );
    for process in [api, relay, worker] {
        process.terminate().await?;
    }
    database.finish().await
}
