//! Servers of test processes that were killed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::places;

/// Lets `remove` remove the servers in `directory` whose owner is gone; their names begin with its process id.
pub(super) fn in_directory(directory: &Path, remove: impl Fn(PathBuf) -> Result<()>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok());
        let lives = owner.is_some_and(|id| places::living(id).is_some());
        if entry.path().is_dir() && !lives {
            remove(entry.path())?;
        } else if !lives {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
