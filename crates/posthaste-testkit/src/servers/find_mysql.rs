//! MariaDB's programs: where they are, and how they come to be there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{install_package, places};

/// How long another process may take over the installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

const ADVICE: &str = "MariaDB is not installed and could not be installed from here. Install it (Debian, Ubuntu: \
    `apt-get install mariadb-server`), put its `mariadbd` and `mariadb-install-db` into PATH, or set MYSQL_URL to a \
    MariaDB or MySQL server whose user may create databases.";

/// What makes a data directory, and what serves it.
pub(super) struct Programs {
    pub(super) install: PathBuf,
    pub(super) server: PathBuf,
}

/// MariaDB's programs; installs the system's package when there are none and we may.
pub(super) fn programs() -> Result<Programs> {
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

fn installed() -> Option<Programs> {
    Some(Programs {
        install: find("mariadb-install-db")?,
        server: find("mariadbd")?,
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps the server where only root's PATH leads.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// Installs the programs without the server that the whole package would start on port 3306.
fn install() -> Result<()> {
    install_package::install(&["mariadb-server-core"])
}
