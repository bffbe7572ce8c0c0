//! Measurements: `cargo xtask bench`. Only ratios within one run count; each figure stands beside its limit from the same run.

mod check_ids;
mod describe_machine;
mod drive_kafka;
mod drive_python;
mod drive_rabbitmq;
mod echo_requests;
mod measure_flows;
mod measure_growth;
mod measure_handlers;
mod measure_idle;
mod measure_kafka;
mod measure_latency;
mod measure_path;
mod measure_rabbitmq;
mod measure_relay;
mod measure_sends;
mod print_figures;
mod read_rows;
pub mod send_load;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// The rows' names.
const ROWS: [&str; 16] = [
    "A1", "A2", "A3", "C1", "C1b", "C2", "C3", "E2E", "G1", "G2", "G3", "L1", "R1", "R2", "S1", "S2",
];

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure posthaste beside this machine's own limits"
)]
struct Arguments {
    /// One repetition of fewer requests; without G1 and G2 unless --only names them
    #[arg(long)]
    quick: bool,
    /// Only these rows, of A1, A2, A3, C1, C1b, C2, C3, E2E, G1, G2, G3, L1, R1, R2, S1, S2
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = ROWS)]
    only: Vec<String>,
    /// Measure this build of posthaste instead of making one
    #[arg(long)]
    binary: Option<PathBuf>,
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
        return run_optimized(&parsed, &arguments);
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if let Some(port) = parsed.echo {
        return runtime.block_on(echo_requests::serve(port));
    }
    let binary = match parsed.binary {
        Some(path) => path.canonicalize().with_context(|| format!("no {}", path.display()))?,
        None => std::env::current_exe()?.with_file_name("posthaste"),
    };
    let limit = Duration::from_secs(60 * if parsed.quick { 3 } else { 25 });
    runtime.block_on(async {
        let measured = measure_flows::measure(&binary, parsed.quick, &parsed.only);
        let measured = tokio::time::timeout(limit, measured).await;
        measured.with_context(|| format!("not done in {limit:?}: the machine is too busy"))?
    })
}

/// The load and the echo must be built like what they are measured against.
fn run_optimized(parsed: &Arguments, arguments: &[String]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let packages: &[&str] = match parsed.binary {
        Some(_) => &["-p", "xtask", "-p", "hello"],
        None => &["-p", "xtask", "-p", "hello", "-p", "posthaste-app"],
    };
    let built = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release"])
        .args(packages)
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
