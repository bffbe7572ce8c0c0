//! RabbitMQ's programs: where they are, and how they come to be there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::install_package;
use super::places;

const NEEDED: [&str; 2] = ["rabbitmq-server", "rabbitmqctl"];

/// Where packages keep the programs themselves; those in PATH there are wrappers that change the user.
const PACKAGED: &str = "/usr/lib/rabbitmq/bin";

/// How long another process may take over the installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

const ADVICE: &str = "RabbitMQ is not installed and could not be installed from here. Install it (Debian, Ubuntu: \
    `apt-get install rabbitmq-server`), put its `rabbitmq-server` and `rabbitmqctl` into PATH, or set AMQP_URL to a \
    server whose user may declare queues.";

/// The directory of RabbitMQ's programs; installs the system's package when there is none and we may.
pub(super) fn programs() -> Result<PathBuf> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    // Tests that find it missing at the same time install it once.
    let _lock = places::lock(&places::servers_directory()?.join("install.lock"), INSTALL_LIMIT)?;
    if let Some(found) = installed() {
        return Ok(found);
    }
    install_package::install(&["rabbitmq-server"]).context(ADVICE)?;
    installed().context(ADVICE)
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(PathBuf::from(PACKAGED))
        .chain(std::env::split_paths(&path))
        .find(|directory| NEEDED.iter().all(|program| directory.join(program).is_file()))
}
