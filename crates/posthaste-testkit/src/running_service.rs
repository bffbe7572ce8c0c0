//! A service as its users meet it: the real host, HTTP on a port of its own, a real database.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::store::Dialect;
use posthaste::{Store, StoreOptions};
use posthaste_host::{Config, Host, RunningHost, Service, Sources};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{TestDatabase, wait_until};

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(90);

/// One service with all its roles on `sql:`, in this process.
pub struct RunningService {
    host: RunningHost,
    url: String,
    client: reqwest::Client,
    store: Store,
}

/// What an HTTP request was answered.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    headers: reqwest::header::HeaderMap,
    /// The body if it is JSON, else `null`.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Reply {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers in the order in which they came, names in lower case; bytes that are no text are replaced.
    pub fn headers(&self) -> impl Iterator<Item = (&str, String)> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    }
}

impl RunningService {
    /// Starts `service` on `database`, which it migrates.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(service: Service, database: &TestDatabase) -> Result<Self> {
        Self::start_with(service, database, &[]).await
    }

    /// As [`RunningService::start`] with settings, as the environment would have them.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with(service: Service, database: &TestDatabase, settings: &[(&str, &str)]) -> Result<Self> {
        let own = [("DATABASE_URL", database.url())];
        let variables = own.iter().chain(settings);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut config = Config::load(Sources::new().environment(variables), &[service.name])?;
        config.migrate = true;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = Host::start(&[service], &config, listener).await?;
        // A store of the test's own: it sees what any other client of the database sees.
        let store = Store::open(database.url(), StoreOptions::default())?;
        let client = reqwest::Client::builder().timeout(LIMIT).build()?;
        let url = format!("http://{}", host.addr);
        Ok(Self {
            host,
            url,
            client,
            store,
        })
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(self) -> Result<()> {
        self.store.close().await;
        let stopped = tokio::time::timeout(LIMIT, self.host.stop()).await;
        stopped.context("the service did not stop in time")
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its database, through connections of the test's own.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, &[], Vec::new()).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.post_with(path, body, &[]).await
    }

    /// `POST path` with a JSON body and further headers.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Reply> {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        self.send("POST", path, &headers, serde_json::to_vec(body)?).await
    }

    /// Any request: exactly these headers and this body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Reply> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method.parse()?, &url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.with_context(|| format!("{method} {path}"))?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Reply {
            status,
            headers,
            body,
            text,
        })
    }

    /// How many rows `table` has.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn count(&self, table: &str) -> Result<i64> {
        let rows = self
            .store
            .query(&format!("SELECT COUNT(*) AS n FROM {table}"), vec![])
            .await?;
        Ok(rows.first().context("no count")?.get("n")?)
    }

    /// Waits until the outbox has nothing pending and no queue anything to hand out.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn queue_is_empty(&self) -> Result<()> {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
            + (SELECT COUNT(*) FROM queue_messages) AS n";
        wait_until("the queues to be empty", LIMIT, || async {
            let rows = self.store.query(sql, vec![]).await.ok()?;
            (rows.first()?.get::<i64>("n").ok()? == 0).then_some(())
        })
        .await
    }

    /// Makes the database refuse new rows of `table` whose `column` is `text`, until
    /// [`RunningService::accept_rows`].
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn refuse_rows(&self, table: &str, column: &str, text: &str) -> Result<()> {
        let sql = match self.store.dialect() {
            Dialect::Postgres => {
                format!("ALTER TABLE {table} ADD CONSTRAINT refused CHECK ({column} <> '{text}') NOT VALID")
            }
            Dialect::Mysql => format!("ALTER TABLE {table} ADD CONSTRAINT refused CHECK ({column} <> '{text}')"),
            Dialect::Sqlite => format!(
                "CREATE TRIGGER refused BEFORE INSERT ON {table} WHEN NEW.{column} = '{text}' \
                 BEGIN SELECT RAISE(ABORT, 'the row is refused'); END"
            ),
        };
        self.store.execute(&sql, vec![]).await?;
        Ok(())
    }

    /// Ends [`RunningService::refuse_rows`].
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn accept_rows(&self, table: &str) -> Result<()> {
        let sql = match self.store.dialect() {
            Dialect::Postgres | Dialect::Mysql => format!("ALTER TABLE {table} DROP CONSTRAINT refused"),
            Dialect::Sqlite => "DROP TRIGGER refused".to_owned(),
        };
        self.store.execute(&sql, vec![]).await?;
        Ok(())
    }

    /// The value of a metric, summed over the label sets that contain `label` (`name="value"`). All
    /// services of a process share it: compare with an earlier value.
    ///
    /// # Errors
    /// When the service does not tell.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let reply = self.get("/metrics").await?;
        ensure!(reply.status == 200, "{reply:?}");
        let mut sum = 0.0;
        for line in reply
            .text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
        {
            sum += line.rsplit(' ').next().context("no value")?.parse::<f64>()?;
        }
        Ok(sum)
    }
}

/// Makes three tests of each function `async fn(TestDatabase) -> anyhow::Result<()>`: one on SQLite, one
/// on PostgreSQL, one on MariaDB.
#[macro_export]
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test($crate::TestDatabase::sqlite()?).await
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test($crate::TestDatabase::postgres().await?).await
            })*
        }
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test($crate::TestDatabase::mysql().await?).await
            })*
        }
    };
}
