//! A Redis server of one test, which may stop, kill and start it.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::redis_server::RedisServer;
use super::{TestCertificate, places, remove_orphans};

const DIRECTORY: &str = "private-redis";

/// A server that no other test uses. It is stopped and its data removed when this value is dropped.
pub struct PrivateRedis {
    server: RedisServer,
    port: places::ReservedPort,
    tls_port: Mutex<Option<places::ReservedPort>>,
    url: String,
}

impl PrivateRedis {
    /// Starts one on the first free port from `first_port` up (choose one below 32768).
    ///
    /// # Errors
    /// When Redis is missing or does not start; says what to install.
    pub async fn launch(first_port: u16) -> Result<Self> {
        blocking(move || {
            let name = format!("{}-{}", std::process::id(), Uuid::new_v4().simple());
            let server = RedisServer::at(places::servers_directory()?.join(DIRECTORY).join(name))?;
            let port = places::reserve_port(first_port)?;
            let (url, _) = server.start(port.number)?;
            Ok(Self {
                server,
                port,
                tls_port: Mutex::default(),
                url,
            })
        })
        .await
    }

    /// Where it is, whether it runs or not.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it again so that it listens for TLS with `certificate` as well; its URL there.
    ///
    /// # Errors
    /// When it does not end or start.
    pub async fn encrypt(&self, certificate: &TestCertificate) -> Result<String> {
        let reserved = places::reserve_port(self.port.number + 1)?;
        let port = reserved.number;
        *self.tls_port.lock().unwrap_or_else(PoisonError::into_inner) = Some(reserved);
        let (server, chain, key) = (self.server.clone(), certificate.certificate(), certificate.key());
        blocking(move || {
            server.stop("TERM")?;
            server.encrypt(port, &chain, &key)
        })
        .await?;
        let (user, _) = self.url.rsplit_once('@').context("a URL without a password")?;
        Ok(format!("{}@localhost:{port}", user.replacen("redis", "rediss", 1)))
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn kill9(&self) -> Result<()> {
        let server = self.server.clone();
        blocking(move || server.stop("KILL")).await
    }

    /// Starts it again where it was, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<()> {
        let server = self.server.clone();
        blocking(move || server.start_again()).await
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        if let Err(error) = self.server.remove() {
            eprintln!("a private Redis server is left behind: {error:#}");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Stops and removes the servers of test processes that were killed.
pub(super) fn remove_orphans() -> Result<()> {
    let directory = places::servers_directory()?.join(DIRECTORY);
    remove_orphans::in_directory(&directory, |home| RedisServer::at(home)?.remove())
}
