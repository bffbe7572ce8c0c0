//! Measurements: `cargo xtask bench`. Only ratios within one run count; each figure stands beside its limit from the same run.

mod check_ids;
mod describe_machine;
mod echo_requests;
mod insert_rows;
mod measure_flows;
mod print_figures;
mod run_binary;
mod send_load;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure posthaste beside this machine's own limits"
)]
struct Arguments {
    /// One repetition of fewer requests
    #[arg(long)]
    quick: bool,
    /// Only these rows, for example `A2,S1`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Serve the echo that A2 is measured beside, on this port
    #[arg(long, hide = true)]
    echo: Option<u16>,
}

/// Runs the measurements that `arguments` name.
///
/// # Errors
/// When one cannot run, or something was lost or doubled: such a run is void.
pub fn run(arguments: Vec<String>) -> Result<()> {
    let named = std::iter::once("bench".to_owned()).chain(arguments.clone());
    let parsed = Arguments::try_parse_from(named).unwrap_or_else(|error| error.exit());
    if cfg!(debug_assertions) {
        return run_optimized(&arguments);
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if let Some(port) = parsed.echo {
        return runtime.block_on(echo_requests::serve(port));
    }
    let binary = std::env::current_exe()?.with_file_name("posthaste");
    runtime.block_on(measure_flows::measure(&binary, parsed.quick, &parsed.only))
}

/// The load and the echo must be built like what they are measured against.
fn run_optimized(arguments: &[String]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let built = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release", "-p", "posthaste-app", "-p", "xtask"])
        .status()
        .context("cargo does not start")?;
    ensure!(built.success(), "the release build failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let ran = Command::new(target.join("release/xtask"))
        .arg("bench")
        .args(arguments)
        .status()
        .context("the release build of xtask does not start")?;
    ensure!(ran.success(), "the measurement failed");
    Ok(())
}
