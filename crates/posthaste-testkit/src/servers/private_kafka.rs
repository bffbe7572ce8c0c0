//! A Kafka broker of one test, which may stop, kill and start it; and Kafka's own tools.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::kafka_instance::{CONTROLLER, Instance, java};
use super::places::{self, ReservedPort};
use super::{find_kafka, remove_orphans as orphans};

/// No step of starting or stopping takes longer, except the first with an installation before it.
const STEP_LIMIT: Duration = Duration::from_secs(1200);
/// How long one of Kafka's tools may take.
const TOOL_LIMIT: &str = "180";
const DIRECTORY: &str = "private-kafka";

/// A broker that no other test uses: its own data, its own port, the same address after every start.
///
/// It is killed and its data removed when this value is dropped.
pub struct PrivateKafka {
    instance: Instance,
    port: ReservedPort,
    _controller: ReservedPort,
}

impl PrivateKafka {
    /// Starts one on the first free port from `first_port` up (choose one below 32568).
    ///
    /// # Errors
    /// When Kafka is missing or does not start; says what to install.
    pub async fn launch(first_port: u16) -> Result<Self> {
        let kafka = Self::prepare(first_port).await?;
        kafka.start().await?;
        Ok(kafka)
    }

    /// As [`PrivateKafka::launch`], but nothing listens on its port before [`PrivateKafka::start`].
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn prepare(first_port: u16) -> Result<Self> {
        step(move || {
            let name = format!("{}-{}", std::process::id(), Uuid::new_v4().simple());
            let instance = Instance::at(places::servers_directory()?.join(DIRECTORY).join(name))?;
            let mut first = first_port;
            loop {
                let port = places::reserve_port(first)?;
                let controller = places::reserve_port(port.number + CONTROLLER)?;
                if controller.number == port.number + CONTROLLER {
                    return Ok(Self {
                        instance,
                        port,
                        _controller: controller,
                    });
                }
                first = port.number + 1;
            }
        })
        .await
    }

    /// Its `host:port`, whether it runs or not.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// The URL of the transport on it.
    pub fn url(&self) -> String {
        format!("kafka://{}", self.servers())
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> Result<()> {
        let instance = self.instance.clone();
        step(move || instance.stop()).await
    }

    /// Kills it, as a power failure of its process would.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn kill9(&self) -> Result<()> {
        let instance = self.instance.clone();
        step(move || instance.kill9()).await
    }

    /// Starts it after any kind of stop, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, also because it runs.
    pub async fn start(&self) -> Result<()> {
        let (instance, port) = (self.instance.clone(), self.port.number);
        step(move || instance.start_on(port)).await
    }
}

impl Drop for PrivateKafka {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("a private Kafka is left behind: {error:#}");
        }
    }
}

/// Runs one of Kafka's own tools, for example `org.apache.kafka.tools.consumer.ConsoleConsumer`; what it printed.
///
/// # Errors
/// When it fails or takes longer than a minute.
pub async fn kafka_tool(class: &str, arguments: &[&str]) -> Result<String> {
    let class = class.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
    step(move || {
        let java = java(&find_kafka::class_path()?, &class);
        let mut command = std::process::Command::new("timeout");
        command.arg(TOOL_LIMIT).arg(java.get_program()).args(java.get_args());
        let said = command.args(&arguments).output().context("cannot run java")?;
        let printed = String::from_utf8_lossy(&said.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&said.stderr);
        ensure!(
            said.status.success(),
            "{class} ended with {}: {printed}{complaint}",
            said.status
        );
        Ok(printed)
    })
    .await
}

/// Runs `work`, which blocks, beside the runtime's own threads.
async fn step<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::time::timeout(STEP_LIMIT, tokio::task::spawn_blocking(work)).await;
    done.with_context(|| format!("Kafka was not done within {STEP_LIMIT:?}"))??
}

/// Stops and removes the brokers of test processes that were killed.
pub(super) fn remove_orphans() -> Result<()> {
    orphans::in_directory(&places::servers_directory()?.join(DIRECTORY), |home| {
        Instance::at(home)?.remove()
    })
}
