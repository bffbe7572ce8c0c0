//! Folders and files that only their owner reads.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

/// Makes `folder` and those it is in, each for its owner alone (0700). One that exists stays as it is.
///
/// # Errors
/// When one cannot be made.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// How many symbolic links to a file are followed; the system's own limit.
const LINKS: usize = 40;

/// Makes an empty file for its owner alone (0600) where there is none, at the end of symbolic links too. One that exists
/// stays as it is.
pub(super) fn make_private_file(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match options.open(&at) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        // A link exists even where it leads to nothing, and SQLite makes what it leads to.
        let Ok(target) = std::fs::read_link(&at) else {
            return Ok(());
        };
        at = at.parent().unwrap_or(Path::new("")).join(target);
    }
    Ok(())
}
