//! RabbitMQ, PostgreSQL and both go away under load and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::{PrivatePostgres, PrivateRabbitmq};
use posthaste_testkit::{TestDatabase, wait_until};

use crate::alone;
use crate::expect_rows::{expect_all_processed, expect_rows};
use crate::load::{Kind, Load};
use crate::process::Posthaste;

const LIMIT: Duration = Duration::from_secs(600);

/// How long RabbitMQ is away, in seconds, unless `POSTHASTE_OUTAGE_SECONDS` says.
const AWAY: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_takes_requests_takes_them() -> Result<()> {
    alone(LIMIT, async {
        let (broker, database) = (
            PrivateRabbitmq::launch(26_840).await?,
            PrivatePostgres::launch(27_460).await?,
        );
        let folder = tempfile::tempdir()?;
        let url = broker.url();
        let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
        let running = Posthaste::spawn(folder.path(), &["notifications", "orders"], &settings)?;
        running.answers("/readyz", 200).await?;
        let events = Load::of(Kind::Event, &running.base, 4, usize::MAX);
        let orders = Load::of(Kind::Order, &running.base, 4, usize::MAX);
        let acknowledge = async |what: &str, more: usize| {
            tokio::try_join!(events.acknowledge(more), orders.acknowledge(more)).with_context(|| what.to_owned())
        };
        acknowledge("with everything there", 200).await?;
        let none_refused = |what: &str| -> Result<()> {
            for load in [&events, &orders] {
                ensure!(load.refused() == 0, "{what}: {}", load.last_refusal());
            }
            Ok(())
        };
        none_refused("refused without a reason")?;

        broker.stop().await?;
        acknowledge("without the broker", 500).await?;
        running
            .answers_with("/health", 503, r#""db":"connected","mq":"disconnected""#)
            .await?;
        running.answers("/readyz", 200).await?;
        broker.start().await?;
        acknowledge("with the broker back", 200).await?;
        running.answers("/health", 200).await?;
        none_refused("the broker's absence is nobody's business")?;

        database.stop_immediate().await?;
        events.acknowledge(500).await.context("events without the database")?;
        // Each waits for the database first.
        orders.acknowledge(20).await.context("orders without the database")?;
        running
            .answers_with("/health", 503, r#""db":"disconnected","mq":"connected""#)
            .await?;
        running.answers("/readyz", 503).await?;
        ensure!(
            events.refused() == 0,
            "the broker takes events without the database: {}",
            events.last_refusal()
        );

        broker.stop().await?;
        // `Retry-After` is looked for in each.
        wait_until("503 from both services", LIMIT, || async {
            (events.refused() > 8 && orders.refused() > 8).then_some(())
        })
        .await?;
        running.answers("/livez", 200).await?;

        database.start().await?;
        acknowledge("with the database back and no broker", 200).await?;
        broker.start().await?;
        acknowledge("with everything back", 200).await?;
        running.answers("/health", 200).await?;

        let (events, orders) = (events.finish().await, orders.finish().await);
        expect_rows(Kind::Event, database.url(), &events).await?;
        expect_rows(Kind::Order, database.url(), &orders).await?;
        running.terminate().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_taken_through_a_long_outage_and_delivered_after_it() -> Result<()> {
    let away = match std::env::var("POSTHASTE_OUTAGE_SECONDS") {
        Ok(number) => number.parse().context("POSTHASTE_OUTAGE_SECONDS")?,
        Err(_unset) => AWAY,
    };
    alone(LIMIT + Duration::from_secs(3 * away), async {
        let broker = PrivateRabbitmq::launch(26_880).await?;
        let database = TestDatabase::postgres().await?;
        let folder = tempfile::tempdir()?;
        let url = broker.url();
        let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
        let running = Posthaste::spawn(folder.path(), &["notifications"], &settings)?;
        running.answers("/readyz", 200).await?;
        broker.kill9().await?;
        let load = Load::of(Kind::Event, &running.base, 2, usize::MAX);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(away) {
            load.acknowledge(1).await?;
        }
        let seen = load.finish().await;
        ensure!(
            seen.refused + seen.unanswered == 0 && seen.acknowledged == seen.sent,
            "{} refused, {} unanswered; {}",
            seen.refused,
            seen.unanswered,
            seen.last_refusal
        );
        broker.start().await?;
        expect_all_processed(database.url(), &seen).await?;
        println!(
            "{} events taken in {away} s without RabbitMQ, delivered after",
            seen.sent.len()
        );
        running.terminate().await?;
        database.finish().await
    })
    .await
}
