//! Which processes on a SQLite file are alive, for their leases: each holds a lock on a file of its own beside the
//! database. The kernel gives the lock back when the process ends, whatever ends it, so its successor need not wait for
//! the leases to run out. Process ids would not do: containers that share a volume have their own.
//!
//! Only a lock that can be had proves anything. Where there is no such file, or it cannot be opened, leases run out by
//! themselves.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::private_files::make_private_file;
use super::{Pools, Store};

/// The lock of an owner, given back when dropped. A file that is still there then says that its owner has died.
pub(crate) struct OwnerFile {
    path: PathBuf,
    _locked: File,
}

impl OwnerFile {
    /// Removes the file of an owner that has no leases any more.
    pub(crate) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the file stays for the next process");
        }
    }
}

impl Store {
    /// Shows other processes that `owner` is alive for as long as the value lives; `None` where the database is a server.
    pub(crate) fn show_owner(&self, owner: Uuid) -> Option<OwnerFile> {
        let database = self.file()?;
        match claim(database, owner) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::info!(%error, database = self.display(), "a successor will have to wait for the leases to run out");
                None
            }
        }
    }

    /// Owners that have died, each with its file; their locks are this process's until the values are dropped.
    pub(crate) fn dead_owners(&self) -> Vec<(Uuid, OwnerFile)> {
        self.file().map_or_else(Vec::new, dead)
    }

    fn file(&self) -> Option<&Path> {
        match &self.0.pools {
            Pools::Sqlite { path, .. } => Some(path),
            Pools::Postgres(_) | Pools::Mysql(_) => None,
        }
    }
}

/// What the names of the files beside `database` begin with.
fn prefix(database: &Path) -> Option<String> {
    Some(format!("{}-owner-", database.file_name()?.to_str()?))
}

fn folder(database: &Path) -> &Path {
    match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// To write, although nothing is written: some file systems lock nothing else alone.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn claim(database: &Path, owner: Uuid) -> std::io::Result<OwnerFile> {
    let prefix = prefix(database).ok_or_else(|| std::io::Error::other("the name of the file is not Unicode"))?;
    let path = folder(database).join(format!("{prefix}{owner}"));
    // Locked before anybody can find it and take its owner for dead.
    let unseen = folder(database).join(format!("{prefix}{owner}.new"));
    make_private_file(&unseen)?;
    let file = open(&unseen)?;
    file.try_lock().map_err(std::io::Error::from)?;
    std::fs::rename(&unseen, &path)?;
    Ok(OwnerFile { path, _locked: file })
}

fn dead(database: &Path) -> Vec<(Uuid, OwnerFile)> {
    let (Some(prefix), Ok(entries)) = (prefix(database), std::fs::read_dir(folder(database))) else {
        return Vec::new();
    };
    let mut dead = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let Some(owner) = owner.and_then(|owner| Uuid::parse_str(owner).ok()) else {
            continue;
        };
        let path = entry.path();
        let Ok(file) = open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => dead.push((owner, OwnerFile { path, _locked: file })),
            // Alive, or looked at by another process just now.
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, path = %path.display(), "no locks here; leases run out by themselves");
            }
        }
    }
    dead
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{claim, dead};

    #[test]
    fn an_owner_is_dead_once_its_lock_is_gone_and_not_before() -> std::io::Result<()> {
        let folder = std::env::temp_dir().join(format!("owner-file-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder)?;
        let database = folder.join("test.db");
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let alive = claim(&database, one)?;
        let ended = claim(&database, other)?;
        assert!(dead(&database).is_empty(), "both are alive");
        // As after kill -9: the lock is gone and the file is there.
        drop(ended);
        std::fs::write(folder.join("test.db-owner-nobody"), [])?;
        let found = dead(&database);
        assert_eq!(found.iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [other]);
        assert!(
            dead(&database).is_empty(),
            "its lock is held while its leases are ended"
        );
        found.into_iter().for_each(|(_, file)| file.remove());
        assert_eq!(std::fs::read_dir(&folder)?.count(), 2, "its file is removed");
        drop(alive);
        std::fs::remove_dir_all(folder)
    }
}
