//! One RabbitMQ node: its directory, its ports, and its process.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{find_rabbitmq, places};

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Erlang's own ports lie this far above the node's, where its defaults would not: below 32768.
const NAMES: u16 = 2000;
const NODES: u16 = 4000;

const SETTINGS: &str = "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 1GB\n\
    collect_statistics_interval = 60000\n";

/// A node's files and how to control it; the node itself outlives this value.
#[derive(Clone)]
pub(super) struct Node {
    home: PathBuf,
}

impl Node {
    /// The node whose files are in `home`, which is made.
    pub(super) fn at(home: PathBuf) -> Result<Self> {
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        Ok(Self { home })
    }

    /// Starts it on the first free port from `first_port` up, unless it runs already in whatever process. Answers its
    /// port and whether it ran.
    pub(super) fn start(&self, first_port: u16) -> Result<(u16, bool)> {
        if let Some(port) = self.running()? {
            return Ok((port, true));
        }
        let _lock = self.lock()?;
        if let Some(port) = self.running()? {
            return Ok((port, true));
        }
        let is_free = |port: &u16| [0, NAMES, NODES].iter().all(|above| places::is_free(port + above));
        // Its data belong to a name with the port in it: on another port, which a second checkout may force, it begins anew.
        let port = self
            .port()?
            .into_iter()
            .chain(places::ports_from(first_port))
            .find(is_free)
            .with_context(|| format!("no free port from {first_port} up for RabbitMQ"))?;
        self.launch(port)?;
        Ok((port, false))
    }

    /// Starts it again on `port`, after a stop.
    pub(super) fn start_on(&self, port: u16) -> Result<()> {
        let _lock = self.lock()?;
        self.launch(port)
    }

    /// Its port if it takes connections now.
    pub(super) fn running(&self) -> Result<Option<u16>> {
        let port = self.port()?;
        Ok(port.filter(|port| self.process().is_some() && answers(*port)))
    }

    /// Ends it in good order, if it runs.
    pub(super) fn stop(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.signal("TERM")
    }

    /// Kills it, if it runs.
    pub(super) fn kill9(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.signal("KILL")
    }

    /// Ends it and removes its files.
    pub(super) fn remove(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.signal("KILL")?;
        if let Some(port) = self.port()? {
            // Erlang's name server outlives the nodes it names; it may have ended by itself.
            let names = (port + NAMES).to_string();
            drop(self.run(Path::new("epmd"), port, &["-port", &names, "-kill"]));
        }
        fs::remove_dir_all(&self.home).with_context(|| format!("cannot remove {}", self.home.display()))
    }

    /// `rabbitmqctl` with `arguments`.
    pub(super) fn control(&self, arguments: &[&str]) -> Result<()> {
        let port = self.port()?.context("it was never started")?;
        self.run(&find_rabbitmq::programs()?.join("rabbitmqctl"), port, arguments)
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }

    fn port(&self) -> Result<Option<u16>> {
        let path = self.home.join("port");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse().context("the note of the port")?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn process(&self) -> Option<u32> {
        let id = fs::read_to_string(self.home.join("pid")).ok()?.trim().parse().ok()?;
        is_erlang(id).then_some(id)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let Some(id) = self.process() else { return Ok(()) };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {id} 2>/dev/null")])
            .status()?;
        let end = Instant::now() + STOP_LIMIT;
        while is_erlang(id) {
            if Instant::now() > end {
                bail!("`kill -{signal} {id}` ({status}) did not end RabbitMQ within {STOP_LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    fn launch(&self, port: u16) -> Result<()> {
        fs::write(self.home.join("port"), port.to_string())?;
        fs::write(self.home.join("plugins"), "[].\n")?;
        fs::write(self.home.join("settings"), "")?;
        fs::write(self.home.join("rabbitmq.conf"), SETTINGS)?;
        self.run(
            &find_rabbitmq::programs()?.join("rabbitmq-server"),
            port,
            &["-detached"],
        )?;
        let end = Instant::now() + START_LIMIT;
        while !answers(port) || self.process().is_none() {
            if Instant::now() > end {
                bail!(
                    "RabbitMQ did not start on port {port}; its last words:\n{}",
                    self.last_words()
                );
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let logs = fs::read_dir(self.home.join("log")).into_iter().flatten().flatten();
        let text: String = logs
            .map(|log| log.path())
            .chain([self.home.join("commands.log")])
            .filter_map(|path| fs::read_to_string(path).ok())
            .collect();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Runs one of RabbitMQ's programs, apart from the caller's and the system's settings.
    fn run(&self, program: &Path, port: u16, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.home).stdin(Stdio::null());
        let foreign = std::env::vars_os().map(|(name, _value)| name);
        for name in foreign.filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("RABBITMQ") || name.starts_with("ERL_")
        }) {
            command.env_remove(name);
        }
        let home = |name: &str| self.home.join(name);
        command
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8")
            .env("RABBITMQ_NODENAME", format!("posthaste_{port}@localhost"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", (port + NODES).to_string())
            .env("ERL_EPMD_PORT", (port + NAMES).to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_MNESIA_BASE", home("data"))
            .env("RABBITMQ_LOG_BASE", home("log"))
            .env("RABBITMQ_PID_FILE", home("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", home("settings"))
            .env("RABBITMQ_CONFIG_FILE", home("rabbitmq"));
        // A file rather than a pipe: the server inherits it, and a pipe would stay open as long as the server runs.
        let said = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.join("commands.log"))?;
        command.stdout(said.try_clone()?).stderr(said);
        let status = command
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if !status.success() {
            let name = program.file_name().unwrap_or_default().display();
            bail!("{name} ended with {status}:\n{}", self.last_words());
        }
        Ok(())
    }
}

/// Whether a server on `port` speaks AMQP; it does so last of all in its start.
fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let asked = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        stream.read_exact(&mut [0])
    };
    asked().is_ok()
}

fn is_erlang(id: u32) -> bool {
    places::living(id).is_some_and(|name| name.starts_with("beam"))
}
