//! The real binary as a child process.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::{ReservedPort, reserve_port};
use posthaste_testkit::wait_until;
use tokio::process::{Child, Command};

/// A start, or the healing of what was broken, takes no longer; generous, because the machine may be busy.
const ANSWERS: Duration = Duration::from_secs(180);

/// A stop takes no longer.
const STOP: Duration = Duration::from_secs(60);

/// How much of what a process said is shown of a test that failed.
const LAST_WORDS: usize = 3_000;

/// A running posthaste; killed when dropped.
pub struct Posthaste {
    child: Child,
    pub base: String,
    _port: ReservedPort,
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
        let reserved = free_port()?;
        let port = reserved.number;
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
            _port: reserved,
            output,
            ended: false,
        })
    }

    /// Waits until `path` answers with `status`; that answer.
    pub async fn answers(&self, path: &str, status: u16) -> Result<String> {
        self.answers_when(path, status, |_any| true).await
    }

    /// Waits until `path` answers with `status` and `text`: the first answer with the status may tell of one cause only.
    pub async fn answers_with(&self, path: &str, status: u16, text: &str) -> Result<String> {
        let answer = self.answers_when(path, status, |body| body.contains(text)).await;
        answer.with_context(|| format!("an answer with {text}"))
    }

    /// Waits until `path` answers with `status` and what `fits`; that answer.
    pub async fn answers_when(&self, path: &str, status: u16, fits: impl Fn(&str) -> bool) -> Result<String> {
        let url = format!("{}{path}", self.base);
        let client = reqwest::Client::new();
        let last = Mutex::new("no answer".to_owned());
        let fitting = wait_until(&format!("{path} to say {status}"), ANSWERS, || async {
            let answer = client.get(&url).send().await.ok()?;
            let said = answer.status();
            let body = answer.text().await.ok()?;
            let fitting = said == status && fits(&body);
            *last.lock().unwrap() = format!("{said} {body}");
            fitting.then_some(body)
        })
        .await;
        fitting.with_context(|| format!("last: {}", last.lock().unwrap()))
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
        let status = tokio::time::timeout(STOP, self.child.wait())
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

/// Where to begin with the search for the next port: a process gets another one than its predecessor had.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is free, and that neither another test nor a server that a test has stopped will take.
fn free_port() -> Result<ReservedPort> {
    let start = 20_000 + (std::process::id() % 4_000) as u16;
    reserve_port(start + NEXT.fetch_add(1, Ordering::Relaxed))
}
