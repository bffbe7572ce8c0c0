//! A RabbitMQ vhost of one test's own: queues have fixed names, vhosts keep them apart.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::rabbitmq_node::Node;
use super::{RABBITMQ_PORT, rabbitmq_url, shared_rabbitmq};

/// An empty vhost that no other test sees, on the shared server on this machine; another one that `AMQP_URL` may name is
/// not asked, because only its owner can make vhosts on it. After this value is dropped it is removed with its queues: when
/// the next one of this process is made, or at once where no other one is in use.
pub struct TestVhost {
    node: Node,
    name: String,
    url: String,
}

/// The vhosts of this process. Each call to the server starts an Erlang machine, so removals wait for a call that is made
/// anyway.
static VHOSTS: Mutex<Vhosts> = Mutex::new(Vhosts {
    used: 0,
    done: Vec::new(),
});

struct Vhosts {
    used: usize,
    done: Vec<String>,
}

fn vhosts() -> MutexGuard<'static, Vhosts> {
    VHOSTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Erlang that removes the vhosts `names`.
fn removal(names: &[String]) -> String {
    let one = |name: &String| format!("rabbit_vhost:delete(<<\"{name}\">>, <<\"test\">>), ");
    names.iter().map(one).collect()
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
        let done = {
            let mut vhosts = vhosts();
            vhosts.used += 1;
            std::mem::take(&mut vhosts.done)
        };
        // It counts from here, also where it cannot be made.
        let vhost = Self {
            url: format!("{}/{name}", rabbitmq_url(port)),
            node,
            name,
        };
        let name = &vhost.name;
        let made = format!(
            "{}ok = rabbit_vhost:add(<<\"{name}\">>, <<\"test\">>), ok = rabbit_auth_backend_internal:set_permissions(\
             <<\"guest\">>, <<\"{name}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>).",
            removal(&done)
        );
        vhost.node.control(&["eval", &made]).context("cannot make a vhost")?;
        Ok(vhost)
    }

    /// Where it is: `amqp://…/VHOST`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        let done = {
            let mut vhosts = vhosts();
            vhosts.used -= 1;
            vhosts.done.push(std::mem::take(&mut self.name));
            if vhosts.used > 0 {
                return;
            }
            std::mem::take(&mut vhosts.done)
        };
        let removal = format!("{}ok.", removal(&done));
        if let Err(error) = self.node.control(&["eval", &removal]) {
            eprintln!("vhosts are left behind: {error:#}");
        }
    }
}
