//! Redis in front of SQL: a cache and counters that several replicas share. Nothing that must last
//! lives here; whoever asks knows what to do without an answer.

use std::time::Duration;

use posthaste::store::mask;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, Script};

/// A slower answer is worth less than asking the database.
const ANSWER: Duration = Duration::from_millis(250);
const CONNECT: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The URL is of no use.
    #[error("{url}: {source}")]
    Url {
        /// The URL, its password masked.
        url: String,
        /// What is wrong with it.
        source: RedisError,
    },
    /// Redis is away, slow or refuses.
    #[error("Redis does not answer")]
    Unavailable(#[from] RedisError),
    /// No answer in time.
    #[error("Redis did not answer within {0:?}")]
    Deadline(Duration),
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// This often…
    pub most: u32,
    /// … in each window of this length.
    pub window: Duration,
}

/// What a counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How often it has happened in this window, this time included.
    pub used: u32,
    /// How long the window still lasts.
    pub resets_in: Duration,
}

impl Count {
    /// Whether this time is still within `limit`.
    pub fn within(&self, limit: Limit) -> bool {
        self.used <= limit.most
    }
}

/// A connection to Redis that finds its way back by itself. Cheap to clone; opening it does not
/// connect, so that a process starts in any order.
#[derive(Clone)]
pub struct RedisCache {
    connection: ConnectionManager,
    display: String,
}

// One step, so that two replicas cannot both start the window, and a counter never stays without its end.
const COUNT: &str = "local used = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) left = tonumber(ARGV[1]) end
return {used, left}";

impl RedisCache {
    /// The cache behind `url` (`redis://[:PASSWORD@]HOST:PORT[/DB]`, `rediss://` for TLS with a certificate that
    /// the system trusts).
    ///
    /// # Errors
    /// [`CacheError::Url`] when the URL is not understood.
    pub fn open(url: &str) -> Result<Self, CacheError> {
        let wrong = |source| CacheError::Url { url: mask(url), source };
        let client = Client::open(url).map_err(wrong)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            // Whoever asks goes on without an answer; the next question connects again.
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(200));
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(wrong)?;
        Ok(Self {
            connection,
            display: mask(url),
        })
    }

    /// The URL without its password.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// Asks for an answer within `limit`.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn ping(&self, limit: Duration) -> Result<(), CacheError> {
        let mut connection = self.connection.clone();
        let ping = async move { redis::cmd("PING").query_async::<String>(&mut connection).await };
        within(limit, ping).await.map(drop)
    }

    /// What was set under `key` and has not expired.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<String>, CacheError> {
        let mut connection = self.connection.clone();
        within(ANSWER, async move {
            redis::cmd("GET").arg(key).query_async(&mut connection).await
        })
        .await
    }

    /// Sets `key` to `value` for `life`, a millisecond at least.
    ///
    /// # Errors
    /// When Redis does not answer; it may have been set all the same.
    pub async fn set(&self, key: &str, value: &str, life: Duration) -> Result<(), CacheError> {
        let mut connection = self.connection.clone();
        within(ANSWER, async move {
            let mut set = redis::cmd("SET");
            set.arg(key).arg(value).arg("PX").arg(millis(life));
            set.query_async(&mut connection).await
        })
        .await
    }

    /// Whether one of `keys` is set and has not expired.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn any(&self, keys: &[String]) -> Result<bool, CacheError> {
        let mut connection = self.connection.clone();
        within(ANSWER, async move {
            let found: u32 = redis::cmd("EXISTS").arg(keys).query_async(&mut connection).await?;
            Ok(found > 0)
        })
        .await
    }

    /// Counts one more time for `key` in a window that starts with its first one.
    ///
    /// # Errors
    /// When Redis does not answer; it may have been counted all the same.
    pub async fn count(&self, key: &str, window: Duration) -> Result<Count, CacheError> {
        let mut connection = self.connection.clone();
        let counted = within(ANSWER, async move {
            let script = Script::new(COUNT);
            let mut call = script.key(key);
            call.arg(millis(window));
            call.invoke_async::<(u32, u64)>(&mut connection).await
        });
        let (used, left) = counted.await?;
        Ok(Count {
            used,
            resets_in: Duration::from_millis(left),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The manager's own limits do not cover a reconnection that never ends.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, CacheError> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(CacheError::Deadline(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_url_is_refused_without_its_password_and_an_absent_server_is_not() {
        let error = RedisCache::open("rediss://:secret@localhost:1/no-number")
            .err()
            .map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|text| !text.contains("secret")), "{error:?}");
        let cache = RedisCache::open("redis://127.0.0.1:9").unwrap();
        assert!(cache.ping(Duration::from_secs(2)).await.is_err());
    }
}
