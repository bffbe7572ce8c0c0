//! One PostgreSQL server: a data directory, a port, and the processes on it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::places::{self, Account};
use super::{PostgresUrl, find_postgres};

const USER: &str = "posthaste";

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How a server is asked to end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shutdown {
    /// Roll back what runs, write everything, end.
    Fast,
    /// End without writing; the next start recovers from the log.
    Immediate,
}

impl Shutdown {
    fn mode(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A server that answers.
pub(super) struct Running {
    pub(super) url: PostgresUrl,
    pub(super) was_running: bool,
}

/// A server's files and how to control it; the server itself outlives this value.
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

    /// Starts it on the first free port from `first_port` up, unless it runs already in whatever process.
    pub(super) fn start(&self, first_port: u16) -> Result<Running> {
        if let Some(url) = self.running()? {
            return Ok(Running { url, was_running: true });
        }
        let _lock = self.lock()?;
        if let Some(url) = self.running()? {
            return Ok(Running { url, was_running: true });
        }
        let programs = find_postgres::programs()?;
        self.create(&programs)?;
        let before = places::noted_port(&self.home)?;
        for port in places::ports_from(before, first_port).filter(|port| places::is_free(*port)) {
            match self.launch(&programs, port) {
                Ok(()) => {
                    return Ok(Running {
                        url: self.url(port)?,
                        was_running: false,
                    });
                }
                // Lost the port between the look and the start.
                Err(_) if !places::is_free(port) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port from {first_port} up for PostgreSQL")
    }

    /// Starts it again on `port`, after a stop.
    pub(super) fn start_on(&self, port: u16) -> Result<()> {
        let _lock = self.lock()?;
        self.launch(&find_postgres::programs()?, port)
    }

    /// Its URL if it takes connections now.
    pub(super) fn running(&self) -> Result<Option<PostgresUrl>> {
        let Some(process) = self.process()? else {
            return Ok(None);
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process.port));
        if process.ready && TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok() {
            return self.url(process.port).map(Some);
        }
        Ok(None)
    }

    /// Ends it, if it runs.
    pub(super) fn stop(&self, how: Shutdown) -> Result<()> {
        let _lock = self.lock()?;
        self.stop_locked(how)
    }

    fn stop_locked(&self, how: Shutdown) -> Result<()> {
        if self.process()?.is_none() {
            return Ok(());
        }
        let seconds = STOP_LIMIT.as_secs().to_string();
        let programs = find_postgres::programs()?;
        self.run(
            &programs.join("pg_ctl"),
            [
                OsStr::new("stop"),
                "-w".as_ref(),
                "-t".as_ref(),
                seconds.as_ref(),
                "-m".as_ref(),
                how.mode().as_ref(),
                "-D".as_ref(),
                self.data().as_ref(),
            ],
        )
    }

    /// Kills all its processes, if it runs.
    pub(super) fn kill9(&self) -> Result<()> {
        let _lock = self.lock()?;
        let Some(process) = self.process()? else { return Ok(()) };
        // The children would notice and end by themselves, but could still write in between.
        let mut victims = vec![process.id];
        victims.extend(children(process.id)?);
        let list = victims.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let status = Command::new("sh")
            .args(["-c", &format!("kill -9 {list} 2>/dev/null")])
            .status()?;
        let end = Instant::now() + STOP_LIMIT;
        while victims.iter().any(|id| is_postgres(*id)) {
            if Instant::now() > end {
                bail!("`kill -9 {list}` ({status}) did not end PostgreSQL within {STOP_LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    /// Ends it and removes its files.
    pub(super) fn remove(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.stop_locked(Shutdown::Immediate)?;
        fs::remove_dir_all(&self.home).with_context(|| format!("cannot remove {}", self.home.display()))
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }

    fn url(&self, port: u16) -> Result<PostgresUrl> {
        let password = fs::read_to_string(self.home.join("password")).context("cannot read the server's password")?;
        PostgresUrl::parse(&format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres"))
    }

    /// The main process as its own file describes it, unless that file is left from one that died.
    fn process(&self) -> Result<Option<Process>> {
        let path = self.data().join("postmaster.pid");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Process::parse(&text).filter(|process| is_postgres(process.id))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes the data directory, under another name first: a half-made one is never taken for whole.
    fn create(&self, programs: &Path) -> Result<()> {
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        let account = places::server_account()?;
        let fresh = self.home.join("data.new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        let password = self.home.join("password");
        fs::write(&password, Uuid::new_v4().simple().to_string())?;
        fs::set_permissions(&password, Permissions::from_mode(0o600))?;
        self.give(&self.home, account)?;
        self.give(&password, account)?;
        let mut password_option = std::ffi::OsString::from("--pwfile=");
        password_option.push(&password);
        // The server itself syncs as always; only the copying of the templates need not.
        self.run(
            &programs.join("initdb"),
            [
                OsStr::new("--no-sync"),
                "--encoding=UTF8".as_ref(),
                "--locale=C".as_ref(),
                "--auth=password".as_ref(),
                "--username".as_ref(),
                USER.as_ref(),
                &password_option,
                "-D".as_ref(),
                fresh.as_ref(),
            ],
        )?;
        let settings = fresh.join("postgresql.conf");
        let mut text = fs::read_to_string(&settings)?;
        // No socket file: it could not be where its path is longer than the kernel takes.
        text.push_str("\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 300\n");
        fs::write(&settings, text)?;
        fs::rename(&fresh, self.data())?;
        Ok(())
    }

    /// Removes the note of a killed process that nobody reaped yet: the server would take it for a living one.
    fn forget_the_dead(&self) -> Result<()> {
        let path = self.data().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(());
        };
        match text.lines().next().and_then(|id| id.trim().parse().ok()) {
            Some(id) if !is_postgres(id) => {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn launch(&self, programs: &Path, port: u16) -> Result<()> {
        self.forget_the_dead()?;
        fs::write(self.home.join("port"), port.to_string())?;
        let options = format!("-p {port}");
        let seconds = START_LIMIT.as_secs().to_string();
        let started = self.run(
            &programs.join("pg_ctl"),
            [
                OsStr::new("start"),
                "-w".as_ref(),
                "-t".as_ref(),
                seconds.as_ref(),
                "-D".as_ref(),
                self.data().as_ref(),
                "-l".as_ref(),
                self.log().as_ref(),
                "-o".as_ref(),
                options.as_ref(),
            ],
        );
        started.with_context(|| {
            format!(
                "PostgreSQL did not start on port {port}; its last words:\n{}",
                places::last_lines(&self.log(), 10)
            )
        })
    }

    /// Makes its next start take TLS connections only, with the certificate and key at these places.
    pub(super) fn encrypt(&self, certificate: &Path, key: &Path) -> Result<()> {
        let account = places::server_account()?;
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self.data().join(name);
            fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
            fs::set_permissions(&to, Permissions::from_mode(0o600))?;
            self.give(&to, account)?;
        }
        let rules = self.data().join("pg_hba.conf");
        let encrypted = fs::read_to_string(&rules)?.replace("\nhost ", "\nhostssl ");
        fs::write(&rules, encrypted)?;
        let mut settings = OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        writeln!(settings, "ssl = on").context("cannot write the server's settings")
    }

    fn give(&self, path: &Path, account: Option<Account>) -> Result<()> {
        let Some(Account { uid, gid }) = account else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot hand {} to the server", path.display()))
    }

    /// Runs one of PostgreSQL's programs as the server's user, apart from the caller's own settings.
    fn run<const N: usize>(&self, program: &Path, arguments: [&OsStr; N]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.home).stdin(Stdio::null());
        let foreign = std::env::vars_os().map(|(name, _value)| name);
        for name in foreign.filter(|name| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        if let Some(Account { uid, gid }) = places::server_account()? {
            command.uid(uid).gid(gid);
        }
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
            let said = fs::read_to_string(self.home.join("commands.log")).unwrap_or_default();
            bail!(
                "{name} ended with {status}: {}",
                said.lines().next_back().unwrap_or("it said nothing")
            );
        }
        Ok(())
    }
}

/// What the server writes into `postmaster.pid`.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    port: u16,
    ready: bool,
}

impl Process {
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            id: lines.first()?.parse().ok()?,
            port: lines.get(3)?.parse().ok()?,
            ready: lines.get(7) == Some(&"ready"),
        })
    }
}

/// The processes that `parent` started.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task")).context("the server ended just now")? {
        let list = fs::read_to_string(task?.path().join("children"))?;
        found.extend(list.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(found)
}

fn is_postgres(id: u32) -> bool {
    places::living(id).is_some_and(|name| name == "postgres")
}

#[cfg(test)]
mod tests {
    use super::{Process, is_postgres};

    #[test]
    fn the_server_s_own_file_is_read() {
        let text = "4711\n/data\n1763700000\n25432\n/run\n127.0.0.1\n  5432001    65538\nready   \n";
        assert_eq!(
            Process::parse(text),
            Some(Process {
                id: 4711,
                port: 25432,
                ready: true
            })
        );
        let starting = text.replace("ready   ", "starting");
        assert_eq!(
            Process::parse(&starting),
            Some(Process {
                id: 4711,
                port: 25432,
                ready: false
            })
        );
        assert_eq!(Process::parse("4711\n"), None);
    }

    #[test]
    fn another_program_is_not_taken_for_the_server() {
        assert!(!is_postgres(std::process::id()));
    }
}
