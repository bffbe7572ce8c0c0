//! Measurements: `cargo xtask bench`.

use anyhow::{Result, bail};

/// Runs the measurement that `arguments` name.
///
/// # Errors
/// When there is no such measurement or it cannot run.
pub fn run(arguments: Vec<String>) -> Result<()> {
    bail!("there is no measurement called {:?}", arguments.join(" "))
}
