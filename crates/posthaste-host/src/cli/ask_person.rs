//! The question before something is lost.

use std::io::{BufRead as _, IsTerminal as _};

use super::{CliError, note};

/// Whether a person agrees to `what`. Without a terminal nobody can be asked: then it has to be said beforehand.
///
/// # Errors
/// When it was not said, or the person declines.
pub(super) fn agree(yes: bool, what: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(format!(
            "{what}: add --yes to do this without a question"
        )));
    }
    note(&format!("{what}? [y/N] "));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(CliError::Refused("nothing was done".to_owned()))
    }
}
