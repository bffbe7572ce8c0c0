//! Where a test takes place: on one database and nothing else, or on PostgreSQL, RabbitMQ and Redis. The test does not know
//! which; the program it is part of says so in `STACK`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use posthaste::Store;
use posthaste_testkit::servers::{PrivateRedis, TestVhost};
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(90);

/// What the service stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// A database that is the queue and the counter too.
    Embedded,
    /// PostgreSQL, RabbitMQ and Redis.
    Servers,
}

/// A database, and where it is part of it a broker and a Redis, that no other test sees.
pub struct Stage {
    database: TestDatabase,
    servers: Option<Servers>,
}

struct Servers {
    vhost: TestVhost,
    redis: PrivateRedis,
}

/// What of a stage a running service is told of.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    broker: Option<String>,
    redis: Option<String>,
}

impl Stage {
    /// One as the program has it.
    pub async fn open() -> Result<Self> {
        match crate::STACK {
            Stack::Embedded => Ok(Self::of(TestDatabase::sqlite()?)),
            Stack::Servers => Self::on_servers().await,
        }
    }

    pub async fn on_servers() -> Result<Self> {
        Self::with_servers(TestDatabase::postgres().await?).await
    }

    /// `database` and nothing else.
    pub fn of(database: TestDatabase) -> Self {
        Self {
            database,
            servers: None,
        }
    }

    /// `database` with what else the program has.
    pub async fn over(database: TestDatabase) -> Result<Self> {
        match crate::STACK {
            Stack::Embedded => Ok(Self::of(database)),
            Stack::Servers => Self::with_servers(database).await,
        }
    }

    async fn with_servers(database: TestDatabase) -> Result<Self> {
        let (vhost, redis) = tokio::try_join!(TestVhost::create(), PrivateRedis::launch(26_800))?;
        Ok(Self {
            database,
            servers: Some(Servers { vhost, redis }),
        })
    }

    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            broker: self.servers.as_ref().map(|servers| servers.vhost.url().to_owned()),
            redis: self.servers.as_ref().map(|servers| servers.redis.url().to_owned()),
        }
    }

    pub async fn finish(self) -> Result<()> {
        self.database.finish().await
    }
}

impl Surroundings {
    /// As the environment has them.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        let named = [("BROKER_URL", &self.broker), ("REDIS_URL", &self.redis)];
        named
            .into_iter()
            .filter_map(|(name, url)| Some((name, url.as_deref()?)))
            .collect()
    }

    /// As if the windows in which is counted had ended.
    pub async fn end_windows(&self, store: &Store) -> Result<()> {
        if let Some(redis) = &self.redis {
            empty_redis(redis).await?;
        }
        store.execute("DELETE FROM rate_limits", vec![]).await?;
        Ok(())
    }

    /// Puts `body` into the queue `topic` by hand, without an id.
    pub async fn put(&self, store: &Store, topic: &str, body: Vec<u8>) -> Result<()> {
        let Some(broker) = &self.broker else {
            let sql = "INSERT INTO queue_messages (topic, body) VALUES ($1, $2)";
            store.execute(sql, vec![topic.into(), body.into()]).await?;
            return Ok(());
        };
        let connection = Connection::connect(broker, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        // The service may not have made the queue yet; then nobody takes it, and it comes back.
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        wait_until(topic, LIMIT, || async {
            let kept = BasicProperties::default().with_delivery_mode(2);
            let sent = channel.basic_publish("".into(), topic.into(), options, &body, kept);
            let taken = sent.await.ok()?.await.ok()?;
            matches!(taken, Confirmation::Ack(None)).then_some(())
        })
        .await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }

    /// The bodies of what was published to `topic`.
    pub async fn told(&self, store: &Store, topic: &str) -> Result<Vec<Value>> {
        let sql = match self.broker {
            Some(_) => "SELECT body FROM outbox_messages WHERE topic = $1 AND status = 'published' ORDER BY seq",
            None => "SELECT body FROM queue_messages WHERE topic = $1 ORDER BY seq",
        };
        let rows = store.query(sql, vec![topic.into()]).await?;
        rows.iter()
            .map(|row| Ok(serde_json::from_slice(&row.get::<Vec<u8>>("body")?)?))
            .collect()
    }
}

/// Waits until everything that the service has asked itself for is worked off. What was put into a queue by hand over a
/// broker is not known here.
pub async fn settled(store: &Store) -> Result<()> {
    let topics = "('user_onboarding_queue', 'user_mail_queue', 'user_password_reset_queue')";
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
         + (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) \
         + (SELECT COUNT(*) FROM queue_messages WHERE topic IN {topics}) \
         + (SELECT COUNT(*) FROM outbox_messages o WHERE o.topic IN {topics} AND NOT EXISTS \
         (SELECT 1 FROM inbox_messages i WHERE i.message_id = o.event_id)) AS n"
    );
    wait_until("the queues to be worked off", LIMIT, || async {
        let rows = store.query(&sql, vec![]).await.ok()?;
        (rows.first()?.get::<i64>("n").ok()? == 0).then_some(())
    })
    .await
}

/// `redis://:PASSWORD@HOST:PORT` in two.
pub fn redis_parts(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("redis://:").context("no URL of ours")?;
    rest.split_once('@').context("no password")
}

/// Makes Redis forget everything; waits while the server still reads what it knew.
pub async fn empty_redis(url: &str) -> Result<()> {
    wait_until("Redis to be empty", LIMIT, || async { try_empty(url).await.ok() }).await
}

async fn try_empty(url: &str) -> Result<()> {
    let (password, address) = redis_parts(url)?;
    let mut socket = tokio::net::TcpStream::connect(address).await?;
    let lines = format!("AUTH {password}\r\nFLUSHALL\r\n");
    socket.write_all(lines.as_bytes()).await?;
    let mut answers = [0; 10];
    socket.read_exact(&mut answers).await?;
    ensure!(&answers == b"+OK\r\n+OK\r\n", "{:?}", String::from_utf8_lossy(&answers));
    Ok(())
}
