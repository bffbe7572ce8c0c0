//! Real servers for tests, on private ports under `target/servers/`.
//!
//! [`postgres`] and [`mysql`] hand out the servers that all tests share, from `POSTGRES_URL` and `MYSQL_URL`
//! when those are set (as `cargo xtask test` does) and started on the spot otherwise; they then run until
//! `cargo xtask services down`. A test that needs to break its server takes a [`PrivatePostgres`] or a
//! [`PrivateMysql`].

mod find_mysql;
mod find_postgres;
mod mysql_instance;
mod places;
mod postgres_instance;
mod private_mysql;
mod private_postgres;
pub mod test_database;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use url::Url;

pub use private_mysql::PrivateMysql;
pub use private_postgres::PrivatePostgres;

use postgres_instance::{Instance, Shutdown};

/// Ports from here up are tried. Below 32768, where the kernel takes the ports of outgoing connections:
/// a client that keeps reconnecting to a stopped server could otherwise be given that very port.
const POSTGRES_PORT: u16 = 25432;
const MYSQL_PORT: u16 = 23306;

/// The variable that names the PostgreSQL server to test with.
pub const POSTGRES_URL: &str = "POSTGRES_URL";

/// The variable that names the MariaDB or MySQL server to test with.
pub const MYSQL_URL: &str = "MYSQL_URL";

/// The URL of a PostgreSQL server and of one database on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl(Url);

impl PostgresUrl {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is no `postgres://` URL.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).context("the PostgreSQL URL cannot be read")?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            bail!("expected a postgres:// URL, found {}://", url.scheme());
        }
        Ok(Self(url))
    }

    /// The same server, another database.
    pub fn with_database(&self, database: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(database);
        Self(url)
    }

    /// The same server and database, at another address: that of a [`crate::FaultProxy`].
    ///
    /// # Errors
    /// When the URL has no host that could be replaced.
    pub fn with_address(&self, address: SocketAddr) -> Result<Self> {
        let mut url = self.0.clone();
        let replaced = url.set_ip_host(address.ip()).is_ok() && url.set_port(Some(address.port())).is_ok();
        ensure!(replaced, "the PostgreSQL URL names no host");
        Ok(Self(url))
    }

    /// Where the server listens.
    ///
    /// # Errors
    /// When the name of its host is not known.
    pub async fn address(&self) -> Result<SocketAddr> {
        let host = self.0.host_str().context("the PostgreSQL URL names no host")?;
        let mut found = tokio::net::lookup_host((host, self.0.port().unwrap_or(5432))).await?;
        found.next().with_context(|| format!("{host} has no address"))
    }

    /// The whole URL with its password.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The PostgreSQL server that all tests share. It must not be stopped: other tests run on it.
///
/// # Errors
/// When `POSTGRES_URL` is unset and the server cannot be installed or started; says what is missing.
pub fn postgres() -> Result<PostgresUrl> {
    match std::env::var(POSTGRES_URL) {
        Ok(url) if !url.is_empty() => PostgresUrl::parse(&url).context("POSTGRES_URL"),
        _ => Ok(shared_postgres()?.start(POSTGRES_PORT)?.url),
    }
}

fn shared_postgres() -> Result<Instance> {
    Instance::at(places::servers_directory()?.join("postgres"))
}

/// The MariaDB server that all tests share. It must not be stopped: other tests run on it.
///
/// # Errors
/// When `MYSQL_URL` is unset and the server cannot be installed or started; says what is missing.
pub fn mysql() -> Result<Url> {
    match std::env::var(MYSQL_URL) {
        Ok(url) if !url.is_empty() => Url::parse(&url).context("MYSQL_URL"),
        _ => Ok(shared_mysql()?.start(MYSQL_PORT)?.url),
    }
}

fn shared_mysql() -> Result<mysql_instance::Instance> {
    mysql_instance::Instance::at(places::servers_directory()?.join("mysql"))
}

/// The servers that the tests can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL 13 or later.
    Postgres,
    /// MariaDB 10.6 or later.
    Mysql,
}

impl Server {
    /// All of them, in the order they are started.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::Mysql];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }

    /// The server called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|server| server.name() == name)
    }

    /// The variable that tells tests where it is; whoever sets it brings a server of their own.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Postgres => POSTGRES_URL,
            Self::Mysql => MYSQL_URL,
        }
    }

    /// Starts the shared server unless it runs, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or started.
    pub fn start(self) -> Result<Started> {
        match self {
            Self::Postgres => {
                let running = shared_postgres()?.start(POSTGRES_PORT)?;
                Ok(Started {
                    url: running.url.as_str().to_owned(),
                    was_running: running.was_running,
                })
            }
            Self::Mysql => {
                let running = shared_mysql()?.start(MYSQL_PORT)?;
                Ok(Started {
                    url: running.url.into(),
                    was_running: running.was_running,
                })
            }
        }
    }

    /// Where the shared server is, if it runs.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn running(self) -> Result<Option<String>> {
        match self {
            Self::Postgres => Ok(shared_postgres()?.running()?.map(|url| url.as_str().to_owned())),
            Self::Mysql => Ok(shared_mysql()?.running()?.map(String::from)),
        }
    }

    /// Stops the shared server in good order and keeps its data.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(self) -> Result<()> {
        match self {
            Self::Postgres => shared_postgres()?.stop(Shutdown::Fast),
            Self::Mysql => shared_mysql()?.stop(mysql_instance::Signal::Term),
        }
    }

    /// Ends every process of the shared server at once, as a power failure would.
    ///
    /// # Errors
    /// When its processes cannot be found or do not end.
    pub fn kill(self) -> Result<()> {
        match self {
            Self::Postgres => shared_postgres()?.kill9(),
            Self::Mysql => shared_mysql()?.stop(mysql_instance::Signal::Kill),
        }
    }

    /// Stops the shared server, and those that crashed tests left behind, and removes their data.
    ///
    /// # Errors
    /// When one does not stop in time or its files cannot be removed.
    pub fn remove(self) -> Result<()> {
        match self {
            Self::Postgres => {
                private_postgres::remove_orphans()?;
                shared_postgres()?.remove()
            }
            Self::Mysql => {
                private_mysql::remove_orphans()?;
                shared_mysql()?.remove()
            }
        }
    }
}

/// A server that answers.
#[derive(Clone, Debug)]
pub struct Started {
    /// How to reach it.
    pub url: String,
    /// Someone else had started it, so it is theirs to stop.
    pub was_running: bool,
}

/// Where the servers' data and logs are.
///
/// # Errors
/// When the directory cannot be made.
pub fn directory() -> Result<PathBuf> {
    places::servers_directory()
}

#[cfg(test)]
mod tests {
    use super::{PostgresUrl, Server};

    #[test]
    fn the_database_is_replaced_and_the_rest_kept() {
        let url = PostgresUrl::parse("postgres://me:p%40ss@127.0.0.1:25432/postgres?sslmode=disable").unwrap();
        let other = url.with_database("t_1");
        assert_eq!(
            other.as_str(),
            "postgres://me:p%40ss@127.0.0.1:25432/t_1?sslmode=disable"
        );
    }

    #[test]
    fn another_database_kind_is_refused() {
        assert!(PostgresUrl::parse("mysql://localhost/x").is_err());
    }

    #[test]
    fn servers_are_found_by_name() {
        for server in Server::ALL {
            assert_eq!(Server::named(server.name()), Some(server));
        }
        assert_eq!(Server::named("oracle"), None);
    }
}
