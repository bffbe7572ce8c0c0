//! Which server, and how to reach it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::broker::BrokerError;
use crate::handle::Unread;

/// For one answer of the server.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Seconds; a silent server counts as lost after two of them.
const HEARTBEAT: u16 = 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("connecting to RabbitMQ")]
    Failed(#[from] lapin::Error),
    #[error("RabbitMQ takes the connection but does not answer")]
    Silent,
    #[error("the connection to RabbitMQ was lost")]
    Gone,
    #[error("RabbitMQ takes no messages now: memory or disk are short there")]
    Blocked,
    #[error("this end is stopping")]
    Stopped,
}

impl From<Lost> for BrokerError {
    fn from(lost: Lost) -> Self {
        Self::Unavailable(Arc::new(lost))
    }
}

/// The server, and what is asked of it.
pub(super) struct Target {
    uri: AMQPUri,
    pub(super) quorum: bool,
    /// The queues that are bounded in time.
    bounded: Mutex<HashMap<String, Unread>>,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, BrokerError> {
        let wrong = |why: String| BrokerError::Url(format!("{}: {why}", crate::store::mask(text)));
        let mut url = url::Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        let quorum = match url.query_pairs().find(|(key, _)| key == "queue_type") {
            None => false,
            Some((_, kind)) => match kind.as_ref() {
                "quorum" => true,
                "classic" => false,
                other => return Err(wrong(format!("queue_type is classic or quorum, not {other}"))),
            },
        };
        let rest: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(key, _)| key != "queue_type")
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        let mut uri: AMQPUri = url.as_str().parse().map_err(wrong)?;
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        // lapin would take localhost for an address in brackets.
        if let Some(url::Host::Ipv6(address)) = url.host() {
            uri.authority.host = address.to_string();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self {
            uri,
            quorum,
            bounded: Mutex::default(),
        })
    }

    /// From now on `queue` is declared with a bound.
    pub(super) fn bound(&self, queue: &str, unread: &Unread) {
        let mut bounded = self.bounded.lock().unwrap_or_else(PoisonError::into_inner);
        bounded.insert(queue.to_owned(), unread.clone());
    }

    /// The bound of `queue`.
    pub(super) fn bound_of(&self, queue: &str) -> Option<Unread> {
        let bounded = self.bounded.lock().unwrap_or_else(PoisonError::into_inner);
        bounded.get(queue).cloned()
    }

    /// A connection; where the attempt before met with silence, not before the server has said something.
    pub(super) async fn attempt(&self, silent: bool) -> Result<Connection, Lost> {
        if silent && !self.answers().await {
            return Err(Lost::Silent);
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<Connection, Lost> {
        let properties = ConnectionProperties::default().with_connection_name("posthaste".into());
        match tokio::time::timeout(LIMIT, Connection::connect_uri(self.uri.clone(), properties)).await {
            Ok(connected) => Ok(connected?),
            Err(_elapsed) => Err(Lost::Silent),
        }
    }

    /// Whether the server says anything. A connection attempt that hangs keeps its thread, so after one that did
    /// the next waits for a sign of life.
    async fn answers(&self) -> bool {
        let asked = async {
            let address = (self.uri.authority.host.as_str(), self.uri.authority.port);
            let mut stream = TcpStream::connect(address).await?;
            if self.uri.scheme == AMQPScheme::AMQP {
                stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
                stream.read_u8().await?;
            }
            Ok::<(), std::io::Error>(())
        };
        matches!(tokio::time::timeout(LIMIT, asked).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn urls_are_read_as_people_mean_them() {
        let uri = |text: &str| Target::parse(text).unwrap().uri;
        assert_eq!(uri("amqp://h").vhost, "/");
        assert_eq!(uri("amqp://h/").vhost, "/");
        assert_eq!(uri("amqp://h/%2f").vhost, "/");
        assert_eq!(uri("amqp://h/shop").vhost, "shop");
        assert_eq!(uri("amqp://h").authority.port, 5672);
        assert_eq!(uri("amqps://h").authority.port, 5671);
        assert_eq!(uri("amqp://[::1]:5673").authority.host, "::1");
        assert_eq!(uri("amqp://h?heartbeat=3&queue_type=quorum").query.heartbeat, Some(3));
        assert_eq!(uri("amqp://u:p%40ss@h").authority.userinfo.password, "p@ss");
        assert!(Target::parse("amqp://h?queue_type=quorum").unwrap().quorum);
        assert!(!Target::parse("amqp://h").unwrap().quorum);
    }

    #[test]
    fn a_wrong_url_is_named_without_its_password() {
        let wrong = Target::parse("amqp://u:secret@h?queue_type=best").err().unwrap();
        assert!(wrong.to_string().contains("not best"), "{wrong}");
        assert!(!wrong.to_string().contains("secret"), "{wrong}");
        assert!(Target::parse("amqp://h?heartbeat=often").is_err());
    }
}
