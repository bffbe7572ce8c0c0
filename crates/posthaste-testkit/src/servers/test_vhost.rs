//! A RabbitMQ vhost of one test's own: queues have fixed names, vhosts keep them apart.

use anyhow::{Context, Result};
use uuid::Uuid;

use super::rabbitmq_node::Node;
use super::{RABBITMQ_PORT, rabbitmq_url, shared_rabbitmq};

/// An empty vhost that no other test sees, on the shared server on this machine; another one that `AMQP_URL` may name is
/// not asked, because only its owner can make vhosts on it. It is removed when this value is dropped, with its queues.
pub struct TestVhost {
    node: Node,
    name: String,
    url: String,
}

impl TestVhost {
    /// A new one.
    ///
    /// # Errors
    /// When RabbitMQ is missing or does not obey; says what to install.
    pub async fn create() -> Result<Self> {
        tokio::task::spawn_blocking(Self::create_now).await?
    }

    fn create_now() -> Result<Self> {
        let node = shared_rabbitmq()?;
        let (port, _) = node.start(RABBITMQ_PORT)?;
        let name = format!("test_{}", Uuid::new_v4().simple());
        // One call for both: each starts an Erlang machine.
        let made = format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"test\">>), ok = rabbit_auth_backend_internal:set_permissions(\
             <<\"guest\">>, <<\"{name}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
        );
        node.control(&["eval", &made]).context("cannot make a vhost")?;
        let url = format!("{}/{name}", rabbitmq_url(port));
        Ok(Self { node, name, url })
    }

    /// Where it is: `amqp://…/VHOST`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        if let Err(error) = self.node.control(&["delete_vhost", &self.name]) {
            eprintln!("a vhost is left behind: {error:#}");
        }
    }
}
