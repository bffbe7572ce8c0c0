//! Kafka comes late, is killed under load; one of two workers is killed.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateKafka;

use crate::alone;
use crate::expect_rows::{expect_order_per_sender, expect_rows};
use crate::load::{Kind, Load};
use crate::process::Posthaste;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_once_and_in_order() -> Result<()> {
    alone(Duration::from_secs(900), async {
        let kafka = PrivateKafka::prepare(27_780).await?;
        let database = TestDatabase::postgres().await?;
        let url = kafka.url();
        let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
        let folder = tempfile::tempdir()?;
        let start = |roles| Posthaste::spawn(folder.path(), &["messages", "--role", roles], &settings);
        let (api, worker, other) = (start("api,relay")?, start("worker")?, start("worker")?);
        for process in [&api, &worker, &other] {
            process.answers("/readyz", 200).await?;
        }
        let load = Load::of(Kind::Message, &api.base, 8, usize::MAX);
        load.acknowledge(200).await?;
        api.answers_with("/health", 503, r#""mq":"disconnected""#).await?;

        kafka.start().await?;
        api.answers("/health", 200).await?;
        load.acknowledge(300).await?;

        kafka.kill9().await?;
        load.acknowledge(200).await?;
        kafka.start().await?;
        load.acknowledge(300).await?;

        worker.kill9().await?;
        load.acknowledge(300).await?;
        let third = start("worker")?;
        load.acknowledge(300).await?;

        let seen = load.finish().await;
        ensure!(
            seen.refused == 0,
            "{} refused; Kafka's absence is nobody's business: {}",
            seen.refused,
            seen.last_refusal
        );
        expect_rows(Kind::Message, database.url(), &seen).await?;
        expect_order_per_sender(database.url()).await?;
        for process in [api, other, third] {
            process.terminate().await?;
        }
        database.finish().await
    })
    .await
}
