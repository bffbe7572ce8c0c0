//! A MariaDB server of one test, which may stop, kill and start it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use url::Url;
use uuid::Uuid;

use super::mysql_instance::{Instance, Signal};
use super::places::{self, ReservedPort};

/// No step of starting or stopping takes longer, except the first with an installation before it.
const STEP_LIMIT: Duration = Duration::from_secs(900);

/// Beside those of PostgreSQL, whose orphans are removed as what they are.
const DIRECTORY: &str = "private-mysql";

/// A server that no other test uses: its own data, its own port, the same URL after every start.
///
/// It is stopped and its data removed when this value is dropped.
pub struct PrivateMysql {
    instance: Instance,
    port: ReservedPort,
    url: Url,
}

impl PrivateMysql {
    /// Starts one on the first free port from `first_port` up (choose one below 32768).
    ///
    /// # Errors
    /// When MariaDB is missing or does not start; says what to install.
    pub async fn launch(first_port: u16) -> Result<Self> {
        step(move || {
            let directory = places::servers_directory()?.join(DIRECTORY);
            let name = format!("{}-{}", std::process::id(), Uuid::new_v4().simple());
            let instance = Instance::at(directory.join(name))?;
            let port = places::reserve_port(first_port)?;
            let url = instance.start(port.number)?.url;
            Ok(Self { instance, port, url })
        })
        .await
    }

    /// Where its database `mysql` is, whether it runs or not.
    pub fn url(&self) -> &Url {
        &self.url
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
        self.end(Signal::Term).await
    }

    /// Kills it at once, as a power failure would.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn kill9(&self) -> Result<()> {
        self.end(Signal::Kill).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        let instance = self.instance.clone();
        step(move || instance.stop(signal)).await
    }

    /// Starts it again after any kind of stop, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, also because it runs.
    pub async fn start(&self) -> Result<()> {
        let (instance, port) = (self.instance.clone(), self.port.number);
        step(move || instance.start_on(port)).await
    }
}

impl Drop for PrivateMysql {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("a private MariaDB server is left behind: {error:#}");
        }
    }
}

/// Runs `work`, which blocks, beside the runtime's own threads.
async fn step<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::time::timeout(STEP_LIMIT, tokio::task::spawn_blocking(work)).await;
    done.with_context(|| format!("MariaDB was not done within {STEP_LIMIT:?}"))??
}

/// Stops and removes the servers of test processes that were killed.
pub(super) fn remove_orphans() -> Result<()> {
    let directory = places::servers_directory()?.join(DIRECTORY);
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.split(['-', '.']).next()?.parse::<u32>().ok());
        let lives = owner.is_some_and(|id| places::living(id).is_some());
        if entry.path().is_dir() && !lives {
            Instance::at(entry.path())?.remove()?;
        } else if !lives {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
