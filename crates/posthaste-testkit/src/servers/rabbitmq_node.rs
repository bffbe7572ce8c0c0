//! One RabbitMQ node: its directory, its ports, and its process.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::places::ReservedPort;
use super::{find_rabbitmq, places};

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
/// For each of the name server and the node, on a machine that is busy with other work.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Erlang's own ports lie this far above the node's, where its defaults would not: below 32768.
const NAMES: u16 = 2000;
const NODES: u16 = 4000;

/// Each node has a name server of its own, so its name need not be unique. Its data are bound to the name, not to a port.
const NAME: &str = "posthaste@localhost";

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
        if let Some(port) = self.await_answer()? {
            return Ok((port, true));
        }
        // A name server that a killed process left behind holds a port.
        self.end_names()?;
        for port in places::ports_from(self.port()?, first_port).filter(|port| are_free(*port)) {
            match self.launch(port) {
                Ok(()) => return Ok((port, false)),
                // Lost a port between the look and the start.
                Err(_) if !are_free(port) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port from {first_port} up for RabbitMQ")
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

    /// Its port once it takes connections; `None` when it does not live. One that lives may be slow to answer, and must
    /// not lose its name server to a second node on its data.
    fn await_answer(&self) -> Result<Option<u16>> {
        let end = Instant::now() + START_LIMIT;
        while let Some(id) = self.process() {
            if let Some(port) = self.running()? {
                return Ok(Some(port));
            }
            if Instant::now() > end {
                bail!(
                    "RabbitMQ (process {id}) did not answer within {START_LIMIT:?}:\n{}",
                    self.last_words()
                );
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(None)
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

    /// `rabbitmqctl` with `arguments`.
    pub(super) fn control(&self, arguments: &[&str]) -> Result<()> {
        let port = self.port()?.context("it was never started")?;
        let program = find_rabbitmq::programs()?.join("rabbitmqctl");
        let status = self
            .command(&program, port)?
            .args(arguments)
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if !status.success() {
            bail!("rabbitmqctl ended with {status}:\n{}", self.last_words());
        }
        Ok(())
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }

    fn port(&self) -> Result<Option<u16>> {
        places::noted_port(&self.home)
    }

    fn process(&self) -> Option<u32> {
        self.living("pid", "beam")
    }

    /// The process whose id is in `file`, if it lives and is the `program`.
    fn living(&self, file: &str, program: &str) -> Option<u32> {
        let id = fs::read_to_string(self.home.join(file)).ok()?.trim().parse().ok()?;
        is_program(id, program).then_some(id)
    }

    /// Ends the node and then its name server, which would hold its port.
    fn end(&self, signal: &str) -> Result<()> {
        if let Some(id) = self.process() {
            end_process(id, "beam", signal)?;
        }
        self.end_names()
    }

    fn end_names(&self) -> Result<()> {
        match self.living("names.pid", "epmd") {
            Some(id) => end_process(id, "epmd", "KILL"),
            None => Ok(()),
        }
    }

    fn launch(&self, port: u16) -> Result<()> {
        let programs = find_rabbitmq::programs()?;
        fs::write(self.home.join("port"), port.to_string())?;
        fs::write(self.home.join("plugins"), "[].\n")?;
        fs::write(self.home.join("settings"), "")?;
        fs::write(self.home.join("rabbitmq.conf"), SETTINGS)?;
        let started = self.start_names(port).and_then(|()| {
            let mut node = self.command(&programs.join("rabbitmq-server"), port)?;
            // Without it the program stays as a shell that waits for the node.
            let mut node = spawn(node.env("RUNNING_UNDER_SYSTEMD", "1"))?;
            fs::write(self.home.join("pid"), node.id().to_string())?;
            await_start(&mut node, || answers(port))?;
            // Somebody has to wait for a process that is killed while this one lives.
            std::thread::spawn(move || node.wait());
            Ok(())
        });
        started.or_else(|error: anyhow::Error| {
            self.end("KILL")?;
            let words = self.last_words();
            Err(error.context(format!(
                "RabbitMQ did not start on port {port}; its last words:\n{words}"
            )))
        })
    }

    /// Erlang's name server, in the foreground: a node that has to start it itself gives up without a word when that
    /// takes long on a busy machine.
    fn start_names(&self, port: u16) -> Result<()> {
        if self.living("names.pid", "epmd").is_some() {
            return Ok(());
        }
        let port = port + NAMES;
        let mut names = self.command(Path::new("epmd"), port - NAMES)?;
        let mut names = spawn(names.args(["-port", &port.to_string()]))?;
        fs::write(self.home.join("names.pid"), names.id().to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        await_start(&mut names, || {
            TcpStream::connect_timeout(&address, ANSWER_LIMIT).is_ok()
        })?;
        std::thread::spawn(move || names.wait());
        Ok(())
    }

    fn last_words(&self) -> String {
        let logs = fs::read_dir(self.home.join("log")).into_iter().flatten().flatten();
        let words: Vec<String> = logs
            .map(|log| log.path())
            .chain([self.home.join("commands.log")])
            .map(|log| places::last_lines(&log, 20))
            .filter(|words| !words.trim().is_empty())
            .collect();
        match words.is_empty() {
            true => format!("(nothing, neither its log nor its output, in {})", self.home.display()),
            false => words.join("\n"),
        }
    }

    /// One of RabbitMQ's programs, apart from the caller's and the system's settings. What it prints is kept.
    fn command(&self, program: &Path, port: u16) -> Result<Command> {
        let mut command = Command::new(program);
        command.current_dir(&self.home).stdin(Stdio::null());
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
            .env("RABBITMQ_NODENAME", NAME)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", (port + NODES).to_string())
            .env("ERL_EPMD_PORT", (port + NAMES).to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
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
        Ok(command)
    }
}

/// The first of the three ports of a node from `first` up, all of them free and reserved.
pub(super) fn reserve_ports(first: u16) -> Result<[ReservedPort; 3]> {
    let mut next = first;
    while next - first < places::PORTS {
        let port = places::reserve_port(next)?;
        next = port.number + 1;
        let above = |by: u16| places::reserve(port.number + by);
        if let (Some(names), Some(nodes)) = (above(NAMES), above(NODES)) {
            return Ok([port, names, nodes]);
        }
    }
    bail!("no free ports from {first} up for RabbitMQ")
}

/// Whether the three ports of a node on `port` are free.
fn are_free(port: u16) -> bool {
    [0, NAMES, NODES].iter().all(|above| places::is_free(port + above))
}

/// Starts `command` out of reach of an interrupt at the terminal.
fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_owned();
    command
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))
}

fn await_start(process: &mut Child, is_up: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + START_LIMIT;
    while !is_up() {
        if let Some(status) = process.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > end {
            bail!("it does not answer within {START_LIMIT:?}");
        }
        std::thread::sleep(places::PAUSE);
    }
    Ok(())
}

fn end_process(id: u32, program: &str, signal: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {id} 2>/dev/null")])
        .status()?;
    let end = Instant::now() + STOP_LIMIT;
    while is_program(id, program) {
        if Instant::now() > end {
            bail!("`kill -{signal} {id}` ({status}) did not end {program} within {STOP_LIMIT:?}");
        }
        std::thread::sleep(places::PAUSE);
    }
    Ok(())
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

fn is_program(id: u32, program: &str) -> bool {
    places::living(id).is_some_and(|name| name.starts_with(program))
}
