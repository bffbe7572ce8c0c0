//! The ways to RabbitMQ and to PostgreSQL fail in the manners in which networks fail, and RabbitMQ in mid-publish.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::servers::{PostgresUrl, PrivateRabbitmq};
use posthaste_testkit::{Cut, Direction, Fault, FaultProxy, TestDatabase, wait_until};

use crate::alone;
use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

const LIMIT: Duration = Duration::from_secs(600);
/// No fault lasts longer, and no healing.
const STEP: Duration = Duration::from_secs(120);
const SILENCES: [Fault; 3] = [
    Fault::HalfOpen,
    Fault::Drop(Direction::ToServer),
    Fault::Drop(Direction::ToClient),
];

struct Scene<'a> {
    running: &'a Posthaste,
    load: &'a Load,
}

impl Scene<'_> {
    /// Traffic is cut at places of chance, in the middle of frames, until `cuts` connections have gone.
    async fn cut(&self, proxy: &FaultProxy, cuts: u64) -> Result<()> {
        for (direction, by) in [
            (Direction::ToServer, Cut::Reset),
            (Direction::ToClient, Cut::Finish),
            (Direction::ToClient, Cut::Reset),
        ] {
            let before = proxy.accepted();
            proxy.inject(Fault::Cut {
                direction,
                after: 1_500..9_000,
                by,
            });
            wait_until("connections to be cut", STEP, || async {
                (proxy.accepted() >= before + cuts).then_some(())
            })
            .await?;
            proxy.heal();
            self.heals(&format!("{direction:?} {by:?}")).await?;
        }
        Ok(())
    }

    /// Nothing arrives, in each of the ways of `silences`, until `/health` says so.
    async fn silence(&self, proxy: &FaultProxy, silences: &[Fault], shows: &str) -> Result<()> {
        for fault in silences {
            proxy.inject(fault.clone());
            let health = self.running.answers_with("/health", 503, shows).await;
            health.with_context(|| format!("{fault:?}"))?;
            proxy.heal();
            self.heals(&format!("{fault:?}")).await?;
        }
        Ok(())
    }

    async fn heals(&self, after: &str) -> Result<()> {
        let began = std::time::Instant::now();
        self.load.acknowledge(100).await.with_context(|| after.to_owned())?;
        let taken = began.elapsed();
        self.running
            .answers("/health", 200)
            .await
            .with_context(|| after.to_owned())?;
        println!("{after}: 100 taken after {taken:?}, well after {:?}", began.elapsed());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_links_lose_and_double_nothing() -> Result<()> {
    alone(LIMIT, async {
        let broker = PrivateRabbitmq::launch(26_860).await?;
        let database = TestDatabase::postgres().await?;
        let direct = PostgresUrl::parse(database.url())?;
        let to_database = FaultProxy::start(direct.address().await?, 20_261_121).await?;
        let to_broker = FaultProxy::start(([127, 0, 0, 1], broker.port()).into(), 20_261_122).await?;
        let database_url = direct.with_address(to_database.address())?;
        let broker_url = broker
            .url()
            .replace(&broker.port().to_string(), &to_broker.address().port().to_string());
        let folder = tempfile::tempdir()?;
        let settings = [
            ("DATABASE_URL", database_url.as_str()),
            ("BROKER_URL", broker_url.as_str()),
        ];
        let running = Posthaste::spawn(folder.path(), &["notifications"], &settings)?;
        running.answers("/readyz", 200).await?;
        let load = Load::start(&running.base, 16);
        let scene = Scene {
            running: &running,
            load: &load,
        };
        load.acknowledge(300).await?;

        broker.close_all_connections().await?;
        scene.heals("connections closed by the broker").await?;
        broker.stop().await?;
        broker.start().await?;
        scene.heals("a restart of the broker").await?;
        broker.kill9().await?;
        broker.start().await?;
        scene.heals("a killed broker").await?;

        scene.cut(&to_broker, 4).await.context("to the broker")?;
        scene.cut(&to_database, 20).await.context("to the database")?;
        scene
            .silence(&to_broker, &SILENCES, r#""mq":"disconnected""#)
            .await
            .context("to the broker")?;
        // The other two are in `lose_network`.
        scene
            .silence(
                &to_database,
                &[Fault::Drop(Direction::ToServer)],
                r#""db":"disconnected""#,
            )
            .await
            .context("to the database")?;

        let seen = load.finish().await;
        expect_all_processed(database.url(), &seen).await?;
        running.terminate().await?;
        database.finish().await
    })
    .await
}
