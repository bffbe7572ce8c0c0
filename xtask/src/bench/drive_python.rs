//! The same flows as the Python services write them: FastAPI, pika and psycopg2, one row per message, started here.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::Command;
use tokio::time::timeout;

use super::measure_flows::CONNECTIONS;
use super::send_load;
use crate::run_binary::Running;

/// One flow, and the installation before the first.
const LIMIT: Duration = Duration::from_secs(300);

/// A Python with the packages that `python/requirements.txt` pins.
pub struct Python {
    interpreter: PathBuf,
    scripts: PathBuf,
}

impl Python {
    /// Makes an environment beside this program, unless it is there.
    ///
    /// # Errors
    /// When there is no `python3` with venv, or a package cannot be installed.
    pub async fn prepare() -> Result<Self> {
        let home = std::env::current_exe()?.with_file_name("bench-python");
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/python");
        let (interpreter, done) = (home.join("bin/python"), home.join("installed"));
        if !done.exists() {
            let advice = "Python is missing: apt-get install python3-venv";
            run(Command::new("python3").args(["-m", "venv"]).arg(&home))
                .await
                .context(advice)?;
            let packages = scripts.join("requirements.txt");
            let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"];
            run(Command::new(&interpreter).args(install).arg(packages)).await?;
            std::fs::write(done, "")?;
        }
        Ok(Self { interpreter, scripts })
    }

    /// `POST /api/events` to a confirmed publish; accepted per second. The events are left in the scripts' queue.
    ///
    /// # Errors
    /// When it does not start or refuses one.
    pub async fn accept(&self, broker: &str, bodies: &[String], folder: &Path) -> Result<f64> {
        let script = self.script("accept_events.py");
        let server = Running::start_over(&self.interpreter, &[&script], "", Some(broker), folder).await?;
        let rate = send_load::post(server.port, "/api/events", bodies, CONNECTIONS).await?;
        server.stop().await?;
        Ok(rate)
    }

    /// Reads `count` events from the scripts' queue into `raw_rows`, `batch` of them per commit and ack; per second.
    ///
    /// # Errors
    /// When one is lost or doubled.
    pub async fn record(&self, broker: &str, database: &str, count: usize, batch: usize) -> Result<f64> {
        let mut connection = PgConnection::connect(database).await?;
        connection.execute("TRUNCATE raw_rows").await?;
        let rate = self.tell("record_events.py", broker, database, count, batch).await?;
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM raw_rows")
            .fetch_one(&mut connection)
            .await?;
        ensure!(rows == count as i64, "void: {rows} of {count} rows by Python");
        connection.close().await?;
        Ok(rate)
    }

    /// Publishes `bodies` from an outbox with confirms into the scripts' queue and marks them; per second.
    ///
    /// # Errors
    /// When one is not marked.
    pub async fn relay(&self, broker: &str, database: &str, bodies: &[String]) -> Result<f64> {
        let mut connection = PgConnection::connect(database).await?;
        connection
            .execute(
                "DROP TABLE IF EXISTS python_outbox; CREATE TABLE python_outbox (id bigint GENERATED ALWAYS AS IDENTITY
                 PRIMARY KEY, body text NOT NULL, published_at timestamptz);
                 CREATE INDEX python_outbox_pending ON python_outbox (id) WHERE published_at IS NULL",
            )
            .await?;
        sqlx::query("INSERT INTO python_outbox (body) SELECT * FROM UNNEST($1::text[])")
            .bind(bodies)
            .execute(&mut connection)
            .await?;
        let rate = self.tell("relay_outbox.py", broker, database, bodies.len(), 1).await?;
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM python_outbox WHERE published_at IS NULL")
            .fetch_one(&mut connection)
            .await?;
        ensure!(left == 0, "void: {left} are not marked by Python");
        connection.close().await?;
        Ok(rate)
    }

    /// What `script` prints.
    async fn tell(&self, script: &str, broker: &str, database: &str, count: usize, batch: usize) -> Result<f64> {
        let mut command = Command::new(&self.interpreter);
        command
            .arg(self.script(script))
            .env("BROKER_URL", broker)
            .env("DATABASE_URL", database)
            .env("COUNT", count.to_string())
            .env("BATCH", batch.to_string());
        let told = run(&mut command).await?;
        told.trim()
            .parse()
            .with_context(|| format!("{script} printed {told:?}"))
    }

    fn script(&self, name: &str) -> String {
        self.scripts.join(name).display().to_string()
    }
}

async fn run(command: &mut Command) -> Result<String> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let ended = timeout(LIMIT, command.output())
        .await
        .context("Python is late")?
        .context("Python does not start")?;
    ensure!(ended.status.success(), "Python ended with {}", ended.status);
    Ok(String::from_utf8(ended.stdout)?)
}
