//! `serve`: banner, health check, signals.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::program::{LIMIT, Program};

/// The banner's lines up to the last one.
async fn banner(lines: &mut tokio::io::Lines<BufReader<ChildStderr>>) -> Result<Vec<String>> {
    let read = async {
        let mut banner = Vec::new();
        while let Some(line) = lines.next_line().await? {
            banner.push(line.trim().to_owned());
            if line.contains("Started in") {
                return Ok(banner);
            }
        }
        bail!("it ended: {banner:?}")
    };
    tokio::time::timeout(LIMIT, read).await?
}

fn value(banner: &[String], name: &str) -> Result<String> {
    let line = banner.iter().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("{name} in {banner:?}"))?.trim().to_owned())
}

/// The first words of the lines of the banner of a program that was just started, and the rest of each.
pub async fn banner_of(child: &mut Child) -> Result<HashMap<String, String>> {
    let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
    let banner = banner(&mut lines).await?;
    let pairs = banner.iter().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect())
}

/// Where a program that was just started answers, once it does.
pub async fn api_of(child: &mut Child) -> Result<String> {
    let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
    value(&banner(&mut lines).await?, "API")
}

/// Reads what the program logs to its end: what nobody reads stops it once a pipe is full.
pub fn keep_log(child: &mut Child) -> Result<JoinHandle<String>> {
    let mut stdout = child.stdout.take().context("stdout")?;
    Ok(tokio::spawn(async move {
        let mut log = String::new();
        // What came before an error is the log all the same.
        drop(stdout.read_to_string(&mut log).await);
        log
    }))
}

pub async fn signal(child: &Child, name: &str) -> Result<()> {
    let id = child.id().context("it has ended")?.to_string();
    let sent = Command::new("kill").args([name, &id]).status().await?;
    ensure!(sent.success(), "kill {name}");
    Ok(())
}

#[tokio::test]
async fn says_where_things_are_and_stops_on_request() -> Result<()> {
    let program = Program::new()?;
    for name in ["-TERM", "-INT"] {
        let mut child = program.command(&["--port", "0"], &[]).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let banner = banner(&mut lines).await?;
        ensure!(value(&banner, "Database")? == "sqlite:data/posthaste.db", "{banner:?}");
        ensure!(value(&banner, "Transport")?.starts_with("sql:"), "{banner:?}");
        let api = value(&banner, "API")?;
        ensure!(value(&banner, "Metrics")? == format!("{api}metrics"), "{banner:?}");

        let port = api.trim_end_matches('/').rsplit(':').next().context("port")?;
        let healthy = program.run(&["healthcheck", "--port", port], &[]).await?;
        ensure!(healthy.code == 0, "{healthy:?}");
        signal(&child, name).await?;
        let status = tokio::time::timeout(LIMIT, child.wait()).await??;
        ensure!(status.code() == Some(0), "{name}: {status}");
        let unhealthy = program.run(&["healthcheck", "--port", port], &[]).await?;
        ensure!(unhealthy.code == 1, "{unhealthy:?}");

        let mut log = String::new();
        child.stdout.take().context("stdout")?.read_to_string(&mut log).await?;
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
        ensure!(log.contains("\"stopped\""), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Result<()> {
    let program = Program::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let ran = program.run(&["serve", "--port", &port], &[]).await?;
    ensure!(
        ran.code == 1 && ran.stderr.contains(&port) && ran.stderr.contains("--port"),
        "{ran:?}"
    );
    Ok(())
}

#[tokio::test]
async fn starts_fast_on_a_migrated_file() -> Result<()> {
    let program = Program::new()?;
    let migrated = program.run(&["migrate", "up"], &[]).await?;
    ensure!(migrated.code == 0, "{migrated:?}");
    let mut starts = Vec::new();
    for _ in 0..3 {
        let mut child = program.command(&["--port", "0"], &[]).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let banner = banner(&mut lines).await?;
        let took = banner
            .iter()
            .find_map(|line| line.strip_prefix("Started in "))
            .context("no time")?;
        let took = Duration::from_millis(took.trim_end_matches(" ms").parse()?);
        child.kill().await?;
        // A debug build; a release build takes a tenth of it. What makes it slow shows in every start, a busy machine does not.
        if took < Duration::from_secs(3) {
            return Ok(());
        }
        starts.push(took);
    }
    bail!("{starts:?}")
}
