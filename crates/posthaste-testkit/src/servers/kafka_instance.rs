//! One Kafka broker that is its own controller: a data directory, two ports, a process.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{find_kafka, places};

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(1200);
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// The controller listens so many ports above the broker.
pub(super) const CONTROLLER: u16 = 100;
/// What the broker logs when it takes connections.
const READY: &str = "Kafka Server started";
/// The id of every cluster made here; clusters never meet.
const CLUSTER: &str = "cG9zdGhhc3RlLXRlc3RzMQ";

/// A broker's files and how to control it; the broker itself outlives this value.
#[derive(Clone)]
pub(super) struct Instance {
    home: PathBuf,
}

impl Instance {
    /// The instance whose files are in `home`, which is made.
    pub(super) fn at(home: PathBuf) -> Result<Self> {
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        Ok(Self { home })
    }

    /// Starts it on the first free ports from `first_port` up, unless it runs already in whatever
    /// process; its `host:port` and whether it ran.
    pub(super) fn start(&self, first_port: u16) -> Result<(String, bool)> {
        let _lock = self.lock()?;
        if let Some(servers) = self.running()? {
            return Ok((servers, true));
        }
        let free = |port: &u16| places::is_free(*port) && places::is_free(*port + CONTROLLER);
        for port in places::ports_from(self.port()?, first_port).filter(free) {
            match self.launch(port) {
                Ok(()) => return Ok((servers(port), false)),
                // Lost the port between the look and the start.
                Err(_) if !free(&port) && self.process()?.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port from {first_port} up for Kafka")
    }

    /// Starts it again on `port`, after a stop.
    pub(super) fn start_on(&self, port: u16) -> Result<()> {
        let _lock = self.lock()?;
        if self.process()?.is_some() {
            bail!("this Kafka runs already");
        }
        self.launch(port)
    }

    /// Its `host:port` if it takes connections now.
    pub(super) fn running(&self) -> Result<Option<String>> {
        if self.process()?.is_none() || !self.is_ready() {
            return Ok(None);
        }
        Ok(self.port()?.map(servers))
    }

    /// Where it was started last.
    fn port(&self) -> Result<Option<u16>> {
        places::noted_port(&self.home)
    }

    /// Ends it in good order, if it runs.
    pub(super) fn stop(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.end("TERM")
    }

    /// Kills it, if it runs.
    pub(super) fn kill9(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.end("KILL")
    }

    /// Ends it and removes its files.
    pub(super) fn remove(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.end("KILL")?;
        fs::remove_dir_all(&self.home).with_context(|| format!("cannot remove {}", self.home.display()))
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    fn is_ready(&self) -> bool {
        fs::read_to_string(self.log()).is_ok_and(|log| log.contains(READY))
    }

    /// Its process, unless the note is left from one that died.
    fn process(&self) -> Result<Option<u32>> {
        let path = self.home.join("pid");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok().filter(|id| is_java(*id))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn end(&self, signal: &str) -> Result<()> {
        let Some(id) = self.process()? else { return Ok(()) };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {id}")])
            .status()?;
        let end = Instant::now() + STOP_LIMIT;
        while is_java(id) {
            if Instant::now() > end {
                bail!("`kill -{signal} {id}` ({status}) did not end Kafka within {STOP_LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    fn launch(&self, port: u16) -> Result<()> {
        let class_path = find_kafka::class_path()?;
        let settings = self.home.join("server.properties");
        fs::write(&settings, self.settings(port))?;
        fs::write(self.home.join("port"), port.to_string())?;
        if !self.home.join("data/meta.properties").exists() {
            let format = ["format", "-t", CLUSTER, "-c"];
            let mut command = java(&class_path, "kafka.tools.StorageTool");
            let said = command
                .args(format)
                .arg(&settings)
                .output()
                .context("cannot run java")?;
            if !said.status.success() {
                bail!(
                    "Kafka's storage was not formatted: {}",
                    String::from_utf8_lossy(&said.stderr)
                );
            }
        }
        let log = File::create(self.log())?;
        let mut command = java(&class_path, "kafka.Kafka");
        command
            .arg(&settings)
            .current_dir(&self.home)
            .stdout(log.try_clone()?)
            .stderr(log);
        // An interrupt at the terminal is not for it.
        let mut child = command.process_group(0).spawn().context("cannot run java")?;
        fs::write(self.home.join("pid"), child.id().to_string())?;
        let end = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                self.end("KILL")?;
                let words = places::last_lines(&self.log(), 10);
                bail!("Kafka did not start on port {port} ({ended:?}); its last words:\n{words}");
            }
            std::thread::sleep(places::PAUSE);
        }
        // Whoever is killed under us must not stay as a process that nobody waits for.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    fn settings(&self, port: u16) -> String {
        let controller = port + CONTROLLER;
        let data = self.home.join("data");
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
             auto.create.topics.enable=true\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=5\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nlog.cleaner.dedupe.buffer.size=8388608\n",
            data.display()
        )
    }
}

fn servers(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn is_java(id: u32) -> bool {
    places::living(id).is_some_and(|name| name == "java")
}

/// A Java program of the release, small and quick to start.
pub(super) fn java(class_path: &str, class: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args([
            "-Xmx400m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            class_path,
            class,
        ])
        .env_remove("JAVA_TOOL_OPTIONS")
        .stdin(Stdio::null());
    command
}
