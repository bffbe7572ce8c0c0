//! Real servers for tests, on private ports under `target/servers/`.
//!
//! [`postgres`], [`mysql`], [`rabbitmq`], [`kafka`] and [`redis`] hand out the servers that all tests share, from `POSTGRES_URL`
//! and so on when those are set (as `cargo xtask test` does) and started on the spot otherwise; they then run until
//! `cargo xtask services down`. A test that needs queues of its own takes a [`TestVhost`]. A test that needs to break its server takes a [`PrivatePostgres`], [`PrivateMysql`],
//! [`PrivateRabbitmq`], [`PrivateKafka`] or [`PrivateRedis`].

mod find_kafka;
mod find_mysql;
mod find_postgres;
mod find_rabbitmq;
mod install_package;
mod kafka_instance;
mod mysql_instance;
mod places;
mod postgres_instance;
mod private_kafka;
mod private_mysql;
mod private_postgres;
mod private_rabbitmq;
mod private_redis;
mod rabbitmq_node;
mod redis_server;
mod remove_orphans;
mod test_certificate;
pub mod test_database;
mod test_vhost;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use url::Url;

pub(crate) use places::reserve;
pub use places::{ReservedPort, reserve_port};
pub use private_kafka::{PrivateKafka, kafka_tool};
pub use private_mysql::PrivateMysql;
pub use private_postgres::PrivatePostgres;
pub use private_rabbitmq::PrivateRabbitmq;
pub use private_redis::PrivateRedis;
pub use test_certificate::TestCertificate;
pub use test_vhost::TestVhost;

use postgres_instance::{Instance, Shutdown};
use rabbitmq_node::Node;
use redis_server::RedisServer;

/// Ports from here up are tried. Below 32768, where the kernel takes the ports of outgoing connections:
/// a client that keeps reconnecting to a stopped server could otherwise be given that very port.
const POSTGRES_PORT: u16 = 25432;
const RABBITMQ_PORT: u16 = 25800;

const KAFKA_PORT: u16 = 27192;

/// The variable that names the Kafka cluster to test with, `host:port`.
pub const KAFKA_BOOTSTRAP_SERVERS: &str = "KAFKA_BOOTSTRAP_SERVERS";
const MYSQL_PORT: u16 = 23306;
const REDIS_PORT: u16 = 26379;

/// The variable that names the PostgreSQL server to test with.
pub const POSTGRES_URL: &str = "POSTGRES_URL";
/// The variable that names the RabbitMQ server to test with.
pub const AMQP_URL: &str = "AMQP_URL";

/// The variable that names the MariaDB or MySQL server to test with.
pub const MYSQL_URL: &str = "MYSQL_URL";
/// The variable that names the Redis server to test with.
pub const REDIS_URL: &str = "REDIS_URL";

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

/// The Kafka cluster that all tests share, as `host:port`. It must not be stopped: other tests run on it.
///
/// # Errors
/// When `KAFKA_BOOTSTRAP_SERVERS` is unset and the server cannot be fetched or started; says what is missing.
pub fn kafka() -> Result<String> {
    match std::env::var(KAFKA_BOOTSTRAP_SERVERS) {
        Ok(servers) if !servers.is_empty() => Ok(servers),
        _ => Ok(shared_kafka()?.start(KAFKA_PORT)?.0),
    }
}

fn shared_kafka() -> Result<kafka_instance::Instance> {
    kafka_instance::Instance::at(places::servers_directory()?.join("kafka"))
}

fn shared_postgres() -> Result<Instance> {
    Instance::at(places::servers_directory()?.join("postgres"))
}

/// The URL of the RabbitMQ server that all tests share. It must not be stopped: other tests run on it.
///
/// # Errors
/// When `AMQP_URL` is unset and the server cannot be installed or started; says what is missing.
pub fn rabbitmq() -> Result<String> {
    match std::env::var(AMQP_URL) {
        Ok(url) if !url.is_empty() => Ok(url),
        _ => Ok(rabbitmq_url(shared_rabbitmq()?.start(RABBITMQ_PORT)?.0)),
    }
}

fn shared_rabbitmq() -> Result<Node> {
    Node::at(places::servers_directory()?.join("rabbitmq"))
}

/// Where a server on `port` is; its first user has this password and may come from this machine only.
fn rabbitmq_url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}")
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

/// The Redis server that all tests share. It must not be stopped: other tests run on it.
///
/// # Errors
/// When `REDIS_URL` is unset and the server cannot be installed or started; says what is missing.
pub fn redis() -> Result<String> {
    match std::env::var(REDIS_URL) {
        Ok(url) if !url.is_empty() => Ok(url),
        _ => Ok(shared_redis()?.start(REDIS_PORT)?.0),
    }
}

fn shared_redis() -> Result<RedisServer> {
    RedisServer::at(places::servers_directory()?.join("redis"))
}

/// The servers that the tests can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL 13 or later.
    Postgres,
    /// Apache Kafka.
    Kafka,
    /// RabbitMQ 3.8 or later.
    Rabbitmq,
    /// MariaDB 10.6 or later.
    Mysql,
    /// Redis 6 or later.
    Redis,
}

impl Server {
    /// All of them, in the order they are started.
    pub const ALL: [Self; 5] = [Self::Postgres, Self::Mysql, Self::Rabbitmq, Self::Kafka, Self::Redis];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
            Self::Rabbitmq => "rabbitmq",
            Self::Mysql => "mysql",
            Self::Redis => "redis",
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
            Self::Kafka => KAFKA_BOOTSTRAP_SERVERS,
            Self::Rabbitmq => AMQP_URL,
            Self::Mysql => MYSQL_URL,
            Self::Redis => REDIS_URL,
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
            Self::Kafka => {
                let (url, was_running) = shared_kafka()?.start(KAFKA_PORT)?;
                Ok(Started { url, was_running })
            }
            Self::Rabbitmq => {
                let (port, was_running) = shared_rabbitmq()?.start(RABBITMQ_PORT)?;
                Ok(Started {
                    url: rabbitmq_url(port),
                    was_running,
                })
            }
            Self::Mysql => {
                let running = shared_mysql()?.start(MYSQL_PORT)?;
                Ok(Started {
                    url: running.url.into(),
                    was_running: running.was_running,
                })
            }
            Self::Redis => {
                let (url, was_running) = shared_redis()?.start(REDIS_PORT)?;
                Ok(Started { url, was_running })
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
            Self::Kafka => shared_kafka()?.running(),
            Self::Rabbitmq => Ok(shared_rabbitmq()?.running()?.map(rabbitmq_url)),
            Self::Mysql => Ok(shared_mysql()?.running()?.map(String::from)),
            Self::Redis => shared_redis()?.running(),
        }
    }

    /// Stops the shared server in good order and keeps its data.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(self) -> Result<()> {
        match self {
            Self::Postgres => shared_postgres()?.stop(Shutdown::Fast),
            Self::Kafka => shared_kafka()?.stop(),
            Self::Rabbitmq => shared_rabbitmq()?.stop(),
            Self::Mysql => shared_mysql()?.stop(mysql_instance::Signal::Term),
            Self::Redis => shared_redis()?.stop("TERM"),
        }
    }

    /// Ends every process of the shared server at once, as a power failure would.
    ///
    /// # Errors
    /// When its processes cannot be found or do not end.
    pub fn kill(self) -> Result<()> {
        match self {
            Self::Postgres => shared_postgres()?.kill9(),
            Self::Kafka => shared_kafka()?.kill9(),
            Self::Rabbitmq => shared_rabbitmq()?.kill9(),
            Self::Mysql => shared_mysql()?.stop(mysql_instance::Signal::Kill),
            Self::Redis => shared_redis()?.stop("KILL"),
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
            Self::Kafka => {
                private_kafka::remove_orphans()?;
                shared_kafka()?.remove()
            }
            Self::Rabbitmq => {
                private_rabbitmq::remove_orphans()?;
                shared_rabbitmq()?.remove()
            }
            Self::Mysql => {
                private_mysql::remove_orphans()?;
                shared_mysql()?.remove()
            }
            Self::Redis => {
                private_redis::remove_orphans()?;
                shared_redis()?.remove()
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
