//! RabbitMQ's own limits: what one bare connection publishes and reads.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::timeout;
use uuid::Uuid;

const QUEUE: &str = "bench.raw";
/// Publications that wait for their confirms at once.
const WINDOW: usize = 1_000;
/// Deliveries that wait for their ack at once; one ack is for a fifth of them.
const PREFETCH: u16 = 500;
const LIMIT: Duration = Duration::from_secs(120);

/// Publishes `bodies` with pipelined confirms to a queue of `kind`, then reads and acks them; each per second.
///
/// # Errors
/// When the server refuses, loses or doubles one, or takes longer than 120 s.
pub async fn drive(url: &str, kind: &str, bodies: &[String]) -> Result<(f64, f64)> {
    timeout(LIMIT, both(url, kind, bodies))
        .await
        .context("RabbitMQ is late")?
}

async fn both(url: &str, kind: &str, bodies: &[String]) -> Result<(f64, f64)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(QUEUE.into(), options, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let messages: Vec<BasicProperties> = bodies.iter().map(|_| properties()).collect();
    let start = Instant::now();
    publish(&channel, QUEUE, bodies.iter().map(String::as_str).zip(messages)).await?;
    let published = bodies.len() as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel
        .basic_consume(QUEUE.into(), "bench".into(), options, FieldTable::default())
        .await?;
    let mut read = Vec::with_capacity(bodies.len());
    while read.len() < bodies.len() {
        let delivery = deliveries.next().await.context("RabbitMQ ended the reading")??;
        read.push(delivery.data.to_vec());
        if read.len().is_multiple_of(usize::from(PREFETCH / 5)) || read.len() == bodies.len() {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    let consumed = bodies.len() as f64 / start.elapsed().as_secs_f64();
    let distinct: BTreeSet<&[u8]> = read.iter().map(Vec::as_slice).collect();
    let sent: BTreeSet<&[u8]> = bodies.iter().map(String::as_bytes).collect();
    ensure!(
        distinct == sent,
        "void: the bare client read something else than it sent"
    );
    connection.close(200, "done".into()).await?;
    Ok((published, consumed))
}

async fn publish(
    channel: &Channel,
    queue: &str,
    messages: impl Iterator<Item = (impl AsRef<[u8]>, BasicProperties)>,
) -> Result<()> {
    let mut waiting = VecDeque::with_capacity(WINDOW);
    for (body, properties) in messages {
        if waiting.len() == WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            confirm(oldest).await?;
        }
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sent = channel.basic_publish("".into(), queue.into(), options, body.as_ref(), properties);
        waiting.push_back(sent.await?);
    }
    for oldest in waiting {
        confirm(oldest).await?;
    }
    Ok(())
}

/// A queue of the measured services, as its own bare client sees it.
pub struct Queue {
    _connection: Connection,
    channel: Channel,
    name: &'static str,
}

impl Queue {
    /// `name`, which has been declared.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn open(url: &str, name: &'static str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            _connection: connection,
            channel,
            name,
        })
    }

    /// Publishes `bodies`, each with an id of its own.
    ///
    /// # Errors
    /// When one is not confirmed, or all are not within 10 minutes.
    pub async fn fill(&self, bodies: impl Iterator<Item = String>) -> Result<()> {
        let filled = publish(&self.channel, self.name, bodies.map(|body| (body, properties())));
        timeout(5 * LIMIT, filled).await.context("RabbitMQ is late")?
    }

    /// Messages that wait in it.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn depth(&self) -> Result<usize> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = self
            .channel
            .queue_declare(self.name.into(), options, FieldTable::default());
        Ok(timeout(LIMIT, declared)
            .await
            .context("RabbitMQ is late")??
            .message_count() as usize)
    }

    /// Removes what waits in it.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn purge(&self) -> Result<()> {
        let purged = self.channel.queue_purge(self.name.into(), QueuePurgeOptions::default());
        timeout(LIMIT, purged).await.context("RabbitMQ is late")??;
        Ok(())
    }
}

async fn confirm(sent: impl Future<Output = lapin::Result<Confirmation>>) -> Result<()> {
    let confirmed = sent.await?;
    ensure!(matches!(confirmed, Confirmation::Ack(None)), "void: not confirmed");
    Ok(())
}

/// As many properties and headers as posthaste's messages have.
fn properties() -> BasicProperties {
    let (id, time) = (Uuid::now_v7().to_string(), "2026-01-01T00:00:00.000000Z");
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_id", id.as_str()),
        ("cloudEvents_source", "/notifications"),
        ("cloudEvents_type", "user_registered"),
        ("cloudEvents_time", time),
        ("cloudEvents_datacontenttype", "application/json"),
        ("cloudEvents_correlationid", id.as_str()),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id.as_str().into())
        .with_correlation_id(id.as_str().into())
        .with_timestamp(1_767_225_600)
        .with_type("user_registered".into())
        .with_content_type("application/json".into())
        .with_headers(headers)
}
