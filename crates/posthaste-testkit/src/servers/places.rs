//! Where servers live and as whom they run.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How many ports above the first one are tried.
pub(super) const PORTS: u16 = 100;

/// Pause between two looks at something that another process does.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// As whom servers run when we are root, which PostgreSQL refuses to be; `None` when we are not.
pub(super) fn server_account() -> Result<Option<Account>> {
    if fs::metadata("/proc/self")
        .context("cannot tell which user this is")?
        .uid()
        != 0
    {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("cannot read the list of users")?;
    let account = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| account_in(&users, name));
    Ok(Some(account.context(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody",
    )?))
}

fn account_in(users: &str, name: &str) -> Option<Account> {
    let fields: Vec<&str> = users
        .lines()
        .map(|line| line.split(':').collect())
        .find(|f: &Vec<&str>| f[0] == name)?;
    Some(Account {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

/// `target/servers`, or a directory under `/var/tmp` when the servers' user may not enter the former
/// (a checkout below a home directory that is closed to others).
pub(super) fn servers_directory() -> Result<PathBuf> {
    let target = target_directory()?;
    let mut directory = target.join("servers");
    if let Some(account) = server_account()?
        && !may_enter(&target, account)
    {
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        directory = PathBuf::from(format!("/var/tmp/posthaste-servers-{:016x}", hasher.finish()));
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    if fs::metadata(&directory)?.uid() != fs::metadata("/proc/self")?.uid() {
        bail!("{} belongs to another user", directory.display());
    }
    Ok(directory)
}

/// The build directory that this program stands in; cargo marks it with a tag file.
fn target_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let tagged = program
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").exists());
    let target = match tagged {
        Some(directory) => directory.to_owned(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    };
    fs::create_dir_all(&target)?;
    target
        .canonicalize()
        .with_context(|| format!("no build directory at {}", target.display()))
}

fn may_enter(directory: &Path, account: Account) -> bool {
    directory.ancestors().all(|directory| match fs::metadata(directory) {
        Ok(found) if found.uid() == account.uid => found.mode() & 0o100 != 0,
        Ok(found) => found.mode() & 0o001 != 0,
        Err(_) => false,
    })
}

/// The program that process `id` runs, if it lives; one that only waits to be reaped does not.
pub(super) fn living(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (start, rest) = stat.rsplit_once(')')?;
    let (_id, name) = start.split_once('(')?;
    (!rest.trim_start().starts_with(['Z', 'X'])).then(|| name.to_owned())
}

/// The last `count` lines of a log.
pub(super) fn last_lines(log: &Path, count: usize) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Waits for the lock on `path`; it is held until the file is dropped, also by a process that dies.
pub(super) fn lock(path: &Path, limit: Duration) -> Result<File> {
    let file = open_lock(path)?;
    let end = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => bail!("another process held {} for {limit:?}", path.display()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Whether a listener could be opened on `port` of the loopback address.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The ports to try: where the server was `before`, so that clients find it again, then those from `first` up.
pub(super) fn ports_from(before: Option<u16>, first: u16) -> impl Iterator<Item = u16> {
    before.into_iter().chain(first..first.saturating_add(PORTS))
}

/// A port that no other test of this machine takes, also while nothing listens on it; free again when dropped.
#[derive(Debug)]
pub struct ReservedPort {
    /// Its number.
    pub number: u16,
    _lock: File,
}

/// The port that a server with its files in `home` was started on last, from its file `port`.
pub(super) fn noted_port(home: &Path) -> Result<Option<u16>> {
    let path = home.join("port");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let port = text.trim().parse();
            Ok(Some(port.with_context(|| format!("{} is not a port", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The first free port from `first` up that no one has reserved. Below 32768 the kernel gives it to no outgoing connection.
///
/// # Errors
/// When none of a hundred ports is free.
pub fn reserve_port(first: u16) -> Result<ReservedPort> {
    for number in ports_from(None, first) {
        if let Some(port) = reserve(number) {
            return Ok(port);
        }
    }
    bail!("no free port from {first} up")
}

/// The port `number`, unless it is taken or reserved.
pub(crate) fn reserve(number: u16) -> Option<ReservedPort> {
    let path = std::env::temp_dir().join(format!("posthaste-port-{number}.lock"));
    // A lock file of another user counts as taken.
    let file = open_lock(&path).ok()?;
    (file.try_lock().is_ok() && is_free(number)).then_some(ReservedPort { number, _lock: file })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    use super::{Account, account_in, living, lock, reserve_port};

    #[test]
    fn accounts_are_read_from_the_list_of_users() {
        let users = "root:x:0:0:root:/root:/bin/bash\npostgres:x:112:119:,,,:/var/lib:/bin/sh\n";
        assert_eq!(account_in(users, "postgres"), Some(Account { uid: 112, gid: 119 }));
        assert_eq!(account_in(users, "nobody"), None);
    }

    #[test]
    fn a_dead_process_does_not_live_even_before_it_is_reaped() {
        assert!(living(std::process::id()).is_some());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while living(child.id()).is_some() {
            assert!(Instant::now() < end, "`true` goes on and on");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(living(child.id()).is_none());
    }

    #[test]
    fn a_held_lock_is_waited_for_and_then_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(&path, Duration::ZERO).unwrap();
        assert!(lock(&path, Duration::from_millis(50)).is_err());
        drop(held);
        lock(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_reserved_or_used_port_is_passed_over() {
        let reserved = reserve_port(27_000).unwrap();
        let next = reserve_port(reserved.number).unwrap();
        assert!(next.number > reserved.number);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, next.number)).unwrap();
        drop(next);
        assert_ne!(
            reserve_port(reserved.number).unwrap().number,
            listener.local_addr().unwrap().port()
        );
    }
}
