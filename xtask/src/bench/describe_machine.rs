//! What the figures depend on.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use posthaste_testkit::TestDatabase;

use super::read_rows::Raw;

/// Prints versions, cores, load, fsync latency and the body's size.
///
/// # Errors
/// When a program does not tell its version, or the file that is synced cannot be written.
pub async fn describe(binary: &Path, body: &str) -> Result<()> {
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
    println!("{} ({})", version(binary)?, binary.display());
    println!("{}", version(Path::new("rustc"))?);
    let (postgres, sqlite) = (TestDatabase::postgres().await?, TestDatabase::sqlite()?);
    let sqlite_url = format!("{}?mode=rwc", sqlite.url());
    for (name, url) in [("PostgreSQL", postgres.url()), ("SQLite", &sqlite_url)] {
        println!("{name} {}", Raw::open(url).await?.version().await?);
    }
    postgres.finish().await?;
    println!("{cores} cores, load {}", load.trim());
    println!(
        "fsync of 4 KiB p50 {} µs, p99 {} µs; body {} bytes\n",
        times[100],
        times[198],
        body.len()
    );
    Ok(())
}

fn version(program: &Path) -> Result<String> {
    let told = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("{} does not start", program.display()))?;
    Ok(String::from_utf8(told.stdout)?.trim().to_owned())
}
