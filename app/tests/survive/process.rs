//! The real binary as a child process.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::wait_until;
use tokio::process::{Child, Command};

/// A start, or the healing of what was broken, takes no longer.
const ANSWERS: Duration = Duration::from_secs(60);

/// How much of what a process said is shown of a test that failed.
const LAST_WORDS: usize = 3_000;

/// A running posthaste; killed when dropped.
pub struct Posthaste {
    child: Child,
    pub base: String,
    /// What it prints, with its log.
    output: PathBuf,
    ended: bool,
}

impl Posthaste {
    /// Starts `posthaste serve --migrate` in `folder` on `database` and waits until it is ready.
    pub async fn start(folder: &Path, database: &str) -> Result<Self> {
        let running = Self::spawn(folder, &[], &[("DATABASE_URL", database)])?;
        running.answers("/readyz", 200).await?;
        Ok(running)
    }

    /// Starts `posthaste serve --migrate` with more arguments and settings, and waits for nothing.
    pub fn spawn(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Result<Self> {
        let port = free_port()?;
        let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("posthaste-{port}.log"));
        let log = File::create(&output)?;
        let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(["serve", "--migrate"])
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("PORT", port.to_string())
            .env(
                "LOG_LEVEL",
                std::env::var("LOG_LEVEL").unwrap_or_else(|_| "warn".to_owned()),
            )
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("the posthaste binary does not start")?;
        Ok(Self {
            child,
            base: format!("http://127.0.0.1:{port}"),
            output,
            ended: false,
        })
    }

    /// Waits until `path` answers with `status`; that answer.
    pub async fn answers(&self, path: &str, status: u16) -> Result<String> {
        let url = format!("{}{path}", self.base);
        let client = reqwest::Client::new();
        wait_until(&format!("{path} to say {status}"), ANSWERS, || async {
            let answer = client.get(&url).send().await.ok()?;
            if answer.status() != status {
                return None;
            }
            answer.text().await.ok()
        })
        .await
    }

    /// SIGKILL.
    pub async fn kill9(mut self) -> Result<()> {
        self.child.kill().await.context("kill -9")?;
        self.ended = true;
        Ok(())
    }

    /// SIGSTOP: it is there and does nothing.
    pub async fn stand_still(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id().context("already ended")?;
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status().await?;
        ensure!(sent.success(), "kill {signal} failed");
        Ok(())
    }

    /// SIGTERM; it has to exit with 0 in time.
    pub async fn terminate(mut self) -> Result<()> {
        self.signal("-TERM").await?;
        let status = tokio::time::timeout(Duration::from_secs(15), self.child.wait())
            .await
            .context("did not stop")??;
        ensure!(status.success(), "exit status {status}");
        self.ended = true;
        Ok(())
    }
}

/// One that no test ended saw its test fail: what it said last is shown at once, past the test harness.
impl Drop for Posthaste {
    fn drop(&mut self) {
        if !self.ended {
            let said = std::fs::read(&self.output).unwrap_or_default();
            let last = String::from_utf8_lossy(&said[said.len().saturating_sub(LAST_WORDS)..]);
            // Nobody could be told of a standard error that cannot be written.
            drop(writeln!(std::io::stderr(), "{} said last:\n{last}", self.base));
        }
    }
}

/// The next port to try; never given out twice, because a process takes a moment to bind its own.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago, below the range that outgoing connections use.
fn free_port() -> Result<u16> {
    let start = 20_000 + (std::process::id() % 4_000) as u16;
    (0..2_000)
        .map(|_| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
}
