//! One MariaDB server: a data directory, a port, and the process on it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use url::Url;
use uuid::Uuid;

use super::find_mysql::{self, Programs};
use super::places::{self, Account};

const USER: &str = "posthaste";

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How a server is ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// Roll back what runs, write everything, end.
    Term,
    /// End without writing; the next start recovers from the log.
    Kill,
}

/// A server that answers.
pub(super) struct Running {
    pub(super) url: Url,
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
        let programs = find_mysql::programs()?;
        self.create(&programs)?;
        let before = places::noted_port(&self.home)?;
        for port in places::ports_from(before, first_port).filter(|port| places::is_free(*port)) {
            match self.launch(&programs, port) {
                Ok(()) => {
                    let url = self.url(port)?;
                    return Ok(Running {
                        url,
                        was_running: false,
                    });
                }
                // Lost the port between the look and the start.
                Err(_) if !places::is_free(port) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port from {first_port} up for MariaDB")
    }

    /// Starts it again on `port`, after a stop.
    pub(super) fn start_on(&self, port: u16) -> Result<()> {
        let _lock = self.lock()?;
        if self.process()?.is_some() {
            bail!("MariaDB runs already");
        }
        self.launch(&find_mysql::programs()?, port)
    }

    /// Its URL if it takes connections now.
    pub(super) fn running(&self) -> Result<Option<Url>> {
        let (Some(_), Some(port)) = (self.process()?, self.number("port")?) else {
            return Ok(None);
        };
        let port = u16::try_from(port)?;
        if greets(port) {
            return self.url(port).map(Some);
        }
        Ok(None)
    }

    /// Ends it, if it runs.
    pub(super) fn stop(&self, signal: Signal) -> Result<()> {
        let _lock = self.lock()?;
        self.stop_locked(signal)
    }

    fn stop_locked(&self, signal: Signal) -> Result<()> {
        let Some(id) = self.process()? else { return Ok(()) };
        let name = match signal {
            Signal::Term => "-TERM",
            Signal::Kill => "-KILL",
        };
        let status = Command::new("sh")
            .args(["-c", &format!("kill {name} {id} 2>/dev/null")])
            .status()?;
        let end = Instant::now() + STOP_LIMIT;
        while is_mariadb(id) {
            if Instant::now() > end {
                bail!("`kill {name} {id}` ({status}) did not end MariaDB within {STOP_LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    /// Ends it and removes its files.
    pub(super) fn remove(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.stop_locked(Signal::Kill)?;
        fs::remove_dir_all(&self.home).with_context(|| format!("cannot remove {}", self.home.display()))
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }

    fn password(&self) -> Result<String> {
        fs::read_to_string(self.home.join("password")).context("cannot read the server's password")
    }

    fn url(&self, port: u16) -> Result<Url> {
        let text = format!("mysql://{USER}:{}@127.0.0.1:{port}/mysql", self.password()?);
        Ok(Url::parse(&text)?)
    }

    /// The process that its file names, unless that file is left from one that died.
    fn process(&self) -> Result<Option<u32>> {
        Ok(self.number("data/mariadbd.pid")?.filter(|id| is_mariadb(*id)))
    }

    fn number(&self, file: &str) -> Result<Option<u32>> {
        let path = self.home.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes the data directory, under another name first: a half-made one is never taken for whole.
    fn create(&self, programs: &Programs) -> Result<()> {
        if self.data().exists() {
            return Ok(());
        }
        let account = places::server_account()?;
        let fresh = self.home.join("data.new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        let password = Uuid::new_v4().simple().to_string();
        self.write("password", &password)?;
        // Executed at every start; the root users that the installation leaves have no password.
        self.write(
            "init.sql",
            &format!(
                "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{password}';\n\
                 GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%';\n\
                 DROP USER IF EXISTS 'root'@'localhost', 'root'@'127.0.0.1', 'root'@'::1';\n"
            ),
        )?;
        give(&self.home, account)?;
        let mut command = self.command(&programs.install)?;
        let status = command
            .arg("--no-defaults")
            .arg(option("--datadir", &fresh))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .status()
            .with_context(|| format!("cannot run {}", programs.install.display()))?;
        if !status.success() {
            bail!("mariadb-install-db ended with {status}:\n{}", self.last_words());
        }
        fs::rename(&fresh, self.data())?;
        Ok(())
    }

    /// A file that only the server's user reads.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        give(&path, places::server_account()?)
    }

    fn launch(&self, programs: &Programs, port: u16) -> Result<()> {
        fs::write(self.home.join("port"), port.to_string())?;
        let mut server = self
            .command(&programs.server)?
            .arg("--no-defaults")
            .arg(option("--datadir", &self.data()))
            .arg(option("--init-file", &self.home.join("init.sql")))
            .arg(format!("--port={port}"))
            // Both relative to the data directory: a longer path than the kernel takes for a socket does no harm.
            .args(["--socket=mariadbd.sock", "--pid-file=mariadbd.pid"])
            .args([
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--max-connections=300",
            ])
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=256M"])
            .args(["--character-set-server=utf8mb4", "--skip-log-bin"])
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", programs.server.display()))?;
        self.await_start(&mut server, port).with_context(|| {
            format!(
                "MariaDB did not start on port {port}; its last words:\n{}",
                self.last_words()
            )
        })
    }

    fn await_start(&self, server: &mut Child, port: u16) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        while self.process()?.is_none() || !greets(port) {
            if let Some(status) = server.try_wait()? {
                bail!("it ended with {status}");
            }
            if Instant::now() > end {
                bail!("it does not answer within {START_LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// One of MariaDB's programs as the server's user, what it says in the log.
    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.join("log"))?;
        // A file rather than a pipe, which would stay open as long as the server runs.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.current_dir(&self.home).env("LC_ALL", "C");
        if let Some(Account { uid, gid }) = places::server_account()? {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push("=");
    option.push(path);
    option
}

fn give(path: &Path, account: Option<Account>) -> Result<()> {
    let Some(Account { uid, gid }) = account else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot hand {} to the server", path.display()))
}

/// Whether a MySQL server on `port` says its name: it listens before it is ready to.
fn greets(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
        return false;
    };
    let mut greeting = [0; 5];
    // Length, sequence number, protocol version.
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && greeting[4] == 10
}

fn is_mariadb(id: u32) -> bool {
    places::living(id).is_some_and(|name| name == "mariadbd")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener};

    use super::{greets, is_mariadb};

    #[test]
    fn another_program_is_not_taken_for_the_server() {
        assert!(!is_mariadb(std::process::id()));
    }

    #[test]
    fn an_error_is_no_greeting() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for version in [0xff, 10] {
                listener.accept().unwrap().0.write_all(&[1, 0, 0, 0, version]).unwrap();
            }
        });
        assert!(!greets(port));
        assert!(greets(port));
        server.join().unwrap();
        assert!(!greets(port));
    }
}
