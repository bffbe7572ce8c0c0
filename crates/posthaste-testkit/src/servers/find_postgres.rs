//! PostgreSQL's programs: where they are, and how they come to be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{install_package, places};

const NEEDED: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Debian's package, which keeps its programs out of PATH.
const PACKAGED: &str = "/usr/lib/postgresql";

/// How long another process may take over the installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

const ADVICE: &str = "PostgreSQL is not installed and could not be installed from here. Install it (Debian, Ubuntu: \
    `apt-get install postgresql`), put its `initdb`, `pg_ctl` and `postgres` into PATH, or set POSTGRES_URL to a \
    server whose user may create databases.";

/// The directory of PostgreSQL's programs; installs the system's package when there is none and we may.
pub(super) fn programs() -> Result<PathBuf> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    // Tests that find it missing at the same time install it once.
    let _lock = places::lock(&places::servers_directory()?.join("install.lock"), INSTALL_LIMIT)?;
    if let Some(found) = installed() {
        return Ok(found);
    }
    install().context(ADVICE)?;
    installed().context(ADVICE)
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest_packaged(Path::new(PACKAGED)).or_else(|| std::env::split_paths(&path).find(|dir| is_complete(dir)))
}

fn is_complete(directory: &Path) -> bool {
    NEEDED.iter().all(|program| directory.join(program).is_file())
}

fn newest_packaged(packaged: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(packaged).ok()?;
    let complete = versions.flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        is_complete(&programs).then_some((version, programs))
    });
    complete.max().map(|(_version, programs)| programs)
}

/// Installs the package without the server that it would create and start on port 5432.
fn install() -> Result<()> {
    // The settings file comes with the common package, the server is created by the other one.
    install_package::install(&["postgresql-common"])?;
    let no_server = "sed -i 's/^[# ]*create_main_cluster.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf && \
        grep -q '^create_main_cluster = false' /etc/postgresql-common/createcluster.conf";
    install_package::as_root(&["sh", "-c", no_server])?;
    install_package::install(&["postgresql"])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{NEEDED, newest_packaged};

    #[test]
    fn the_newest_complete_version_is_taken() {
        let packaged = tempfile::tempdir().unwrap();
        for (version, programs) in [("9", &NEEDED[..]), ("15", &NEEDED[..]), ("17", &NEEDED[..1])] {
            let directory = packaged.path().join(version).join("bin");
            fs::create_dir_all(&directory).unwrap();
            for program in programs {
                fs::write(directory.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_packaged(packaged.path()), Some(packaged.path().join("15/bin")));
    }
}
