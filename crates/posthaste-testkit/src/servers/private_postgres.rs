//! A PostgreSQL server of one test, which may stop, kill and start it.

use std::time::Duration;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::places::{self, ReservedPort};
use super::postgres_instance::{Instance, Shutdown};
use super::{PostgresUrl, TestCertificate, remove_orphans};

/// No step of starting or stopping takes longer, except the first with an installation before it.
const STEP_LIMIT: Duration = Duration::from_secs(900);

/// A server that no other test uses: its own data, its own port, the same URL after every start.
///
/// It is stopped and its data removed when this value is dropped.
pub struct PrivatePostgres {
    instance: Instance,
    port: ReservedPort,
    url: PostgresUrl,
}

impl PrivatePostgres {
    /// Starts one on the first free port from `first_port` up (choose one below 32768).
    ///
    /// # Errors
    /// When PostgreSQL is missing or does not start; says what to install.
    pub async fn launch(first_port: u16) -> Result<Self> {
        step(move || {
            let directory = places::servers_directory()?.join("private");
            let name = format!("{}-{}", std::process::id(), Uuid::new_v4().simple());
            let instance = Instance::at(directory.join(name))?;
            let port = places::reserve_port(first_port)?;
            let url = instance.start(port.number)?.url;
            Ok(Self { instance, port, url })
        })
        .await
    }

    /// Where its database `postgres` is, whether it runs or not.
    pub fn url(&self) -> &str {
        self.url.as_str()
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
        let instance = self.instance.clone();
        step(move || instance.stop(Shutdown::Fast)).await
    }

    /// Stops it without writing anything; its next start recovers.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop_immediate(&self) -> Result<()> {
        let instance = self.instance.clone();
        step(move || instance.stop(Shutdown::Immediate)).await
    }

    /// Kills all its processes at once, as a power failure would.
    ///
    /// # Errors
    /// When they do not end in time.
    pub async fn kill9(&self) -> Result<()> {
        let instance = self.instance.clone();
        step(move || instance.kill9()).await
    }

    /// Starts it again after any kind of stop, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, also because it runs.
    pub async fn start(&self) -> Result<()> {
        let (instance, port) = (self.instance.clone(), self.port.number);
        step(move || instance.start_on(port)).await
    }

    /// Starts it again with `certificate`, for connections over TLS alone; its URL for a client that checks it.
    ///
    /// # Errors
    /// As [`PrivatePostgres::restart`].
    pub async fn encrypt(&self, certificate: &TestCertificate) -> Result<String> {
        self.stop().await?;
        let (instance, chain, key) = (self.instance.clone(), certificate.certificate(), certificate.key());
        step(move || instance.encrypt(&chain, &key)).await?;
        self.start().await?;
        let url = self.url().replace("127.0.0.1", "localhost");
        let authority = certificate.authority();
        Ok(format!("{url}?sslmode=verify-full&sslrootcert={}", authority.display()))
    }

    /// Stops it in good order and starts it again.
    ///
    /// # Errors
    /// As [`PrivatePostgres::stop`] and [`PrivatePostgres::start`].
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("a private PostgreSQL server is left behind: {error:#}");
        }
    }
}

/// Runs `work`, which blocks, beside the runtime's own threads.
async fn step<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::time::timeout(STEP_LIMIT, tokio::task::spawn_blocking(work)).await;
    done.with_context(|| format!("PostgreSQL was not done within {STEP_LIMIT:?}"))??
}

/// Stops and removes the servers of test processes that were killed.
pub(super) fn remove_orphans() -> Result<()> {
    remove_orphans::in_directory(&places::servers_directory()?.join("private"), |home| {
        Instance::at(home)?.remove()
    })
}
