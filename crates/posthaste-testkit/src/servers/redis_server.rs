//! A Redis server: its directory, its port, and the process on it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::{install_package, places};

/// A first start by another process, with the installation before it.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(120);
/// What it is told beyond its arguments.
const SETTINGS: &str = "redis.conf";

const ADVICE: &str = "Redis is not installed and could not be installed from here. Install it (Debian, Ubuntu: \
    `apt-get install redis-server`), put `redis-server` into PATH, or set REDIS_URL to a server for tests.";

/// A server's files and how to control it; the server itself outlives this value.
#[derive(Clone)]
pub(super) struct RedisServer {
    home: PathBuf,
}

impl RedisServer {
    /// The server whose files are in `home`, which is made.
    pub(super) fn at(home: PathBuf) -> Result<Self> {
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        Ok(Self { home })
    }

    /// Starts it on the first free port from `first_port` up, unless it runs already in whatever process. Its URL,
    /// and whether it ran.
    pub(super) fn start(&self, first_port: u16) -> Result<(String, bool)> {
        if let Some(url) = self.running()? {
            return Ok((url, true));
        }
        let _lock = self.lock()?;
        if let Some(url) = self.running()? {
            return Ok((url, true));
        }
        // Who knows its URL reaches it again after a stop.
        if !self.home.join("password").exists() {
            fs::write(self.home.join("password"), Uuid::new_v4().simple().to_string())?;
        }
        let before = places::noted_port(&self.home)?;
        for port in places::ports_from(before, first_port).filter(|port| places::is_free(*port)) {
            fs::write(self.home.join("port"), port.to_string())?;
            match self.launch() {
                Ok(()) => return Ok((self.url()?, false)),
                // Lost the port between the look and the start.
                Err(_) if self.process()?.is_none() && !places::is_free(port) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port from {first_port} up for Redis")
    }

    /// Starts it again where it was.
    pub(super) fn start_again(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.launch()
    }

    /// Starts it again where it was, and for TLS on `port` with the certificate and key at these places.
    pub(super) fn encrypt(&self, port: u16, certificate: &Path, key: &Path) -> Result<()> {
        let settings = format!(
            "tls-port {port}\ntls-cert-file {cert}\ntls-ca-cert-file {cert}\ntls-key-file {}\ntls-auth-clients no\n",
            key.display(),
            cert = certificate.display()
        );
        fs::write(self.home.join(SETTINGS), settings)?;
        self.start_again()
    }

    /// Its URL if it answers now.
    pub(super) fn running(&self) -> Result<Option<String>> {
        if self.process()?.is_none() || !self.answers() {
            return Ok(None);
        }
        self.url().map(Some)
    }

    /// Ends it, if it runs: in good order, or at once.
    pub(super) fn stop(&self, signal: &str) -> Result<()> {
        let _lock = self.lock()?;
        let Some(id) = self.process()? else { return Ok(()) };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {id} 2>/dev/null")])
            .status()?;
        let end = Instant::now() + LIMIT;
        while is_redis(id) {
            if Instant::now() > end {
                bail!("`kill -{signal} {id}` ({status}) did not end Redis within {LIMIT:?}");
            }
            std::thread::sleep(places::PAUSE);
        }
        Ok(())
    }

    /// Ends it and removes its files.
    pub(super) fn remove(&self) -> Result<()> {
        self.stop("KILL")?;
        fs::remove_dir_all(&self.home).with_context(|| format!("cannot remove {}", self.home.display()))
    }

    fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.home.join("log"))?;
        let settings = self.home.join(SETTINGS);
        let mut server = Command::new(program()?)
            .args(settings.exists().then_some(settings.as_os_str()))
            .args(["--bind", "127.0.0.1", "--port", &self.text("port")?])
            .args(["--requirepass", &self.text("password")?])
            .args(["--appendonly", "yes", "--daemonize", "no", "--pidfile", "redis.pid"])
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run redis-server")?;
        let end = Instant::now() + LIMIT;
        while !self.answers() {
            if let Some(status) = server.try_wait()? {
                bail!("Redis ended with {status}; its last words:\n{}", self.last_words());
            }
            if Instant::now() > end {
                server.kill()?;
                server.wait()?;
                bail!(
                    "Redis does not answer within {LIMIT:?}; its last words:\n{}",
                    self.last_words()
                );
            }
            std::thread::sleep(places::PAUSE);
        }
        fs::write(self.home.join("id"), server.id().to_string())?;
        Ok(())
    }

    fn last_words(&self) -> String {
        places::last_lines(&self.home.join("log"), 10)
    }

    fn answers(&self) -> bool {
        let Ok(port) = self.text("port").map(|text| text.parse()) else {
            return false;
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
            return false;
        };
        let mut answer = [0];
        // An error, because it asks for a password: an answer all the same.
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
    }

    fn url(&self) -> Result<String> {
        let (password, port) = (self.text("password")?, self.text("port")?);
        Ok(format!("redis://:{password}@127.0.0.1:{port}"))
    }

    fn text(&self, file: &str) -> Result<String> {
        let path = self.home.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn process(&self) -> Result<Option<u32>> {
        match fs::read_to_string(self.home.join("id")) {
            Ok(text) => Ok(text.trim().parse().ok().filter(|id| is_redis(*id))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("cannot read the number of Redis's process"),
        }
    }

    fn lock(&self) -> Result<File> {
        places::lock(&self.home.with_extension("lock"), LOCK_LIMIT)
    }
}

fn is_redis(id: u32) -> bool {
    places::living(id).is_some_and(|name| name.starts_with("redis-server"))
}

fn program() -> Result<PathBuf> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    // Tests that find it missing at the same time install it once.
    let _lock = places::lock(&places::servers_directory()?.join("install.lock"), LOCK_LIMIT)?;
    if let Some(found) = installed() {
        return Ok(found);
    }
    install_package::install(&["redis-server"]).context(ADVICE)?;
    installed().context(ADVICE)
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path);
    places
        .map(|place| place.join("redis-server"))
        .find(|file| file.is_file())
}
