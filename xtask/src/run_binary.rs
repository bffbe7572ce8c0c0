//! The measured and tortured processes as children.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// A running server; killed when dropped.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub port: u16,
    /// From the start of the process until `/readyz` answered 200.
    pub started_in: Duration,
}

impl Running {
    /// Starts `binary` with `arguments` (`PORT` in them becomes a free port) and `DATABASE_URL`.
    ///
    /// # Errors
    /// When it does not start or is not ready in 30 s.
    pub async fn start(binary: &Path, arguments: &[&str], database: &str, folder: &Path) -> Result<Self> {
        Self::start_over(binary, arguments, database, None, folder).await
    }

    /// The same, with `broker` as `BROKER_URL`; without one, its own default.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_over(
        binary: &Path,
        arguments: &[&str],
        database: &str,
        broker: Option<&str>,
        folder: &Path,
    ) -> Result<Self> {
        let mut settings = vec![("DATABASE_URL", database), ("LOG_LEVEL", "error")];
        settings.extend(broker.map(|url| ("BROKER_URL", url)));
        Self::start_with(binary, arguments, &settings, folder).await
    }

    /// The same, with `settings` alone as its environment. What it logs is in `folder`, in a file named after its port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        binary: &Path,
        arguments: &[&str],
        settings: &[(&str, &str)],
        folder: &Path,
    ) -> Result<Self> {
        let port = free_port()?;
        // Its banner would stand between the rows.
        let told = folder.join(format!("{port}.log"));
        let log = std::fs::File::create(&told)?;
        let start = Instant::now();
        let child = Command::new(binary)
            .args(arguments.iter().map(|word| word.replace("PORT", &port.to_string())))
            .current_dir(folder)
            .env_clear()
            .env("PORT", port.to_string())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        while !ready(port).await {
            if start.elapsed() > Duration::from_secs(30) {
                let told = std::fs::read_to_string(&told)?;
                bail!("{} is not ready in 30 s; it said: {told}", binary.display());
            }
            sleep(Duration::from_millis(1)).await;
        }
        let started_in = start.elapsed();
        Ok(Self {
            child,
            port,
            started_in,
        })
    }

    /// The id of the process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Resident memory in MB.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resident(&self) -> Result<f64> {
        self.memory("VmRSS:")
    }

    /// The most memory in MB that was ever resident.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn most_resident(&self) -> Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> Result<f64> {
        let id = self.id()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes = kilobytes.with_context(|| format!("no {name} in /proc status"))?;
        Ok(kilobytes.parse::<f64>()? / 1024.0)
    }

    /// Processor time it has used since its start, in the 1/100 s of `/proc`.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn ticks(&self) -> Result<u64> {
        let id = self.id()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in parentheses may hold spaces; the times are the 12th and 13th word after it.
        let (_, words) = stat.rsplit_once(')').context("no name in /proc stat")?;
        let times = words.split_whitespace().skip(11).take(2);
        times.map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
    }

    /// The body of `path`.
    ///
    /// # Errors
    /// When it is not answered in 10 s, or not with 2xx.
    pub async fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(client.get(url).send().await?.error_for_status()?.text().await?)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the process")
    }

    /// Stops it where it is with SIGSTOP; its connections stay open.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub async fn suspend(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id()?.to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(sent.success(), "cannot signal the process");
        Ok(())
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// When it does not end in 20 s.
    pub async fn stop(mut self) -> Result<()> {
        self.signal("-TERM").await?;
        timeout(Duration::from_secs(20), self.child.wait())
            .await
            .context("does not stop")??;
        Ok(())
    }
}

async fn ready(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .await?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start == *b"HTTP/1.1 200")
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

/// A port that was free a moment ago, below the range that outgoing connections use.
fn free_port() -> Result<u16> {
    (26_000..32_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
}
