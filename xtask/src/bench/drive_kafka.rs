//! Kafka's own limit: what one bare consumer reads of a topic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(120);

/// Reads `count` records of `topic` from its beginning as a group of its own, its joining included; per second.
///
/// # Errors
/// When Kafka does not hand out so many in 120 s.
pub async fn consume(servers: &str, topic: &str, count: usize) -> Result<f64> {
    let start = Instant::now();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    let read = async {
        for _ in 0..count {
            consumer.recv().await?;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, read).await.context("Kafka is late")??;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
