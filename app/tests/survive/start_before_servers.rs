//! Processes that start while nothing they need is there, and heal when it comes.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste_testkit::servers::{PrivateKafka, PrivatePostgres, PrivateRabbitmq};

use crate::alone;
use crate::expect_rows::expect_rows;
use crate::load::{Kind, Load};
use crate::process::Posthaste;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_there_at_the_start() -> Result<()> {
    alone(Duration::from_secs(600), async {
        let kafka = PrivateKafka::prepare(27_760).await?;
        let broker = PrivateRabbitmq::launch(26_920).await?;
        let database = PrivatePostgres::launch(27_480).await?;
        broker.stop().await?;
        database.stop().await?;
        let (broker_url, kafka_url) = (broker.url(), kafka.url());
        let settings = [
            ("DATABASE_URL", database.url()),
            ("BROKER_URL", broker_url.as_str()),
            ("MESSAGES_BROKER_URL", kafka_url.as_str()),
        ];
        let folder = tempfile::tempdir()?;
        let start = |role| Posthaste::spawn(folder.path(), &["--role", role], &settings);
        // Who reads comes before who writes.
        let (worker, relay, api) = (start("worker")?, start("relay")?, start("api")?);
        let processes = [&worker, &relay, &api];
        for process in processes {
            process.answers("/livez", 200).await?;
            process.answers("/readyz", 503).await?;
        }
        let kinds = [Kind::Event, Kind::Order, Kind::Message];
        let loads = kinds.map(|kind| Load::of(kind, &api.base, 2, usize::MAX));
        // The broker that comes first takes what needs no database.
        broker.start().await?;
        loads[0].acknowledge(20).await?;
        database.start().await?;
        for process in processes {
            process.answers("/readyz", 200).await?;
        }
        for load in &loads {
            load.acknowledge(100).await?;
        }
        for process in processes {
            process.answers("/health", 503).await?;
        }
        kafka.start().await?;
        for process in processes {
            process.answers("/health", 200).await?;
        }
        let mut seen = Vec::new();
        for load in loads {
            load.acknowledge(100).await?;
            seen.push(load.finish().await);
        }
        // After the last load: while another still sends there is hardly a moment with nothing left over.
        for (seen, kind) in seen.iter().zip(kinds) {
            ensure!(!seen.acknowledged.is_empty());
            expect_rows(kind, database.url(), seen).await?;
        }
        for process in [worker, relay, api] {
            process.terminate().await?;
        }
        Ok(())
    })
    .await
}
