//! A RabbitMQ server of one test, which may stop, kill and start it.

use std::time::Duration;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::places::{self, ReservedPort};
use super::rabbitmq_node::{self, Node};
use super::{TestCertificate, rabbitmq_url, remove_orphans as orphans};

/// No step of starting or stopping takes longer, except the first with an installation before it.
const STEP_LIMIT: Duration = Duration::from_secs(900);
const DIRECTORY: &str = "private-rabbitmq";

/// A server that no other test uses: its own data, its own port, the same URL after every start.
///
/// It is stopped and its data removed when this value is dropped.
pub struct PrivateRabbitmq {
    node: Node,
    port: ReservedPort,
    _erlang: [ReservedPort; 2],
}

impl PrivateRabbitmq {
    /// Starts one on the first free port from `first_port` up. Choose one below 28600: two more ports lie 2000 and
    /// 4000 above it.
    ///
    /// # Errors
    /// When RabbitMQ is missing or does not start; says what to install.
    pub async fn launch(first_port: u16) -> Result<Self> {
        step(move || {
            let name = format!("{}-{}", std::process::id(), Uuid::new_v4().simple());
            let [port, names, nodes] = rabbitmq_node::reserve_ports(first_port)?;
            let server = Self {
                node: Node::at(places::servers_directory()?.join(DIRECTORY).join(name))?,
                port,
                _erlang: [names, nodes],
            };
            server.node.start_on(server.port.number)?;
            Ok(server)
        })
        .await
    }

    /// Where it is, whether it runs or not.
    pub fn url(&self) -> String {
        rabbitmq_url(self.port.number)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Stops it in good order: connections are closed, everything is written.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> Result<()> {
        let node = self.node.clone();
        step(move || node.stop()).await
    }

    /// Kills it at once, as a power failure would.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn kill9(&self) -> Result<()> {
        let node = self.node.clone();
        step(move || node.kill9()).await
    }

    /// Starts it again after any kind of stop, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<()> {
        let (node, port) = (self.node.clone(), self.port.number);
        step(move || node.start_on(port)).await
    }

    /// Closes all connections of all clients from its side.
    ///
    /// # Errors
    /// When it does not obey.
    pub async fn close_all_connections(&self) -> Result<()> {
        self.control(&["close_all_connections", "told to"]).await
    }

    /// Makes it take no messages (`connection.blocked`), or take them again.
    ///
    /// # Errors
    /// When it does not obey.
    pub async fn block(&self, block: bool) -> Result<()> {
        let share = if block { "0" } else { "0.4" };
        self.control(&["set_vm_memory_high_watermark", share]).await
    }

    /// Makes it refuse messages of more than `bytes` on channels that are opened from now on.
    ///
    /// # Errors
    /// When it does not obey.
    pub async fn limit_messages(&self, bytes: usize) -> Result<()> {
        let limit = format!("application:set_env(rabbit, max_message_size, {bytes}).");
        self.control(&["eval", &limit]).await
    }

    /// Makes quorum queues drop what was given back more than `times` times.
    ///
    /// # Errors
    /// When it does not obey.
    pub async fn limit_deliveries(&self, times: usize) -> Result<()> {
        let limit = format!("{{\"delivery-limit\":{times}}}");
        self.control(&["set_policy", "limit", ".*", &limit, "--apply-to", "queues"])
            .await
    }

    /// Deletes a queue with what is in it.
    ///
    /// # Errors
    /// When it does not obey, also because there is no such queue.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.control(&["delete_queue", queue]).await
    }

    /// Makes it listen for TLS with `certificate` as well; its URL there.
    ///
    /// # Errors
    /// When it does not obey.
    pub async fn encrypt(&self, certificate: &TestCertificate) -> Result<String> {
        let port = places::reserve_port(self.port.number + 1)?;
        let start = format!(
            "{{ok, _}} = application:ensure_all_started(ssl), \
            ok = rabbit_networking:start_ssl_listener({}, [{{certfile, \"{}\"}}, {{keyfile, \"{}\"}}], 2).",
            port.number,
            certificate.certificate().display(),
            certificate.key().display()
        );
        self.control(&["eval", &start]).await?;
        Ok(format!("amqps://guest:guest@localhost:{}", port.number))
    }

    async fn control(&self, arguments: &[&str]) -> Result<()> {
        let node = self.node.clone();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        step(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            node.control(&arguments)
        })
        .await
    }
}

impl Drop for PrivateRabbitmq {
    fn drop(&mut self) {
        if let Err(error) = self.node.remove() {
            eprintln!("a private RabbitMQ server is left behind: {error:#}");
        }
    }
}

/// Runs `work`, which blocks, beside the runtime's own threads.
async fn step<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::time::timeout(STEP_LIMIT, tokio::task::spawn_blocking(work)).await;
    done.with_context(|| format!("RabbitMQ was not done within {STEP_LIMIT:?}"))??
}

/// Stops and removes the servers of test processes that were killed.
pub(super) fn remove_orphans() -> Result<()> {
    orphans::in_directory(&places::servers_directory()?.join(DIRECTORY), |home| {
        Node::at(home)?.remove()
    })
}
