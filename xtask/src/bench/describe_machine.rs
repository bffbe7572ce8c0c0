//! What the figures depend on.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

/// Prints cores, load, fsync latency and the body's size.
///
/// # Errors
/// When the file that is synced cannot be written.
pub fn describe(body: &str) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let mut file = tempfile::tempfile()?;
    let mut times = Vec::with_capacity(200);
    for _ in 0..200 {
        file.write_all(&[0; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed().as_micros());
    }
    times.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    println!("posthaste {version}, {cores} cores, load {}", load.trim());
    println!("fsync p50 {} µs, body {} bytes\n", times[100], body.len());
    Ok(())
}
