//! `cargo xtask test`: the one command that runs everything.

use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, Result};
use posthaste_testkit::servers::Server;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::tidy;

/// Runs `cargo test` with `arguments` on servers that run, then [`tidy::report`]; leaves running what ran before.
///
/// # Errors
/// When a server does not start or stop, or cargo cannot be run. Failing tests are an exit code, not an error.
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut ours = Vec::new();
    let tested = test_on_servers(arguments, &mut ours);
    let stopped: Vec<Result<()>> = ours
        .iter()
        .map(|server| {
            server
                .remove()
                .with_context(|| format!("{} is not down", server.name()))
        })
        .collect();
    let status = tested?;
    stopped.into_iter().collect::<Result<()>>()?;
    let tidiness = tidy::report()?;
    match status.code() {
        Some(0) => Ok(tidiness),
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Notes in `ours` which servers it started, also when it fails afterwards.
fn test_on_servers(arguments: &[String], ours: &mut Vec<Server>) -> Result<ExitStatus> {
    let mut variables = Vec::new();
    for server in Server::ALL {
        if std::env::var(server.variable()).is_ok_and(|url| !url.is_empty()) {
            eprintln!("{}: the one that {} names", server.name(), server.variable());
            continue;
        }
        let started = server.start().with_context(|| format!("{} is not up", server.name()))?;
        if started.was_running {
            eprintln!("{}: was running and is left running", server.name());
        } else {
            eprintln!("{}: started for these tests", server.name());
            ours.push(server);
        }
        variables.push((server.variable(), started.url));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cargo_test(arguments, variables))
}

/// Runs `cargo test` to its end, which an interrupt brings on; the servers are stopped in either case.
async fn cargo_test(arguments: &[String], variables: Vec<(&str, String)>) -> Result<ExitStatus> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .arg("test")
        .args(scope(arguments))
        .arg("--no-fail-fast")
        .args(arguments)
        .envs(variables);
    // From here on these signals no longer end this program.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command.spawn().context("cannot run cargo")?;
    tokio::select! {
        status = child.wait() => return Ok(status?),
        _ = interrupt.recv() => {}  // The terminal sent it to cargo as well.
        _ = terminate.recv() => child.start_kill()?,
    }
    Ok(child.wait().await?)
}

/// Everything, unless the arguments name packages.
fn scope(arguments: &[String]) -> Option<&'static str> {
    let names_packages = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "-p" || argument.starts_with("--package") || argument == "--manifest-path");
    (!names_packages).then_some("--workspace")
}

#[cfg(test)]
mod tests {
    use super::scope;

    #[test]
    fn the_whole_workspace_is_tested_unless_packages_are_named() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(scope(&[]), Some("--workspace"));
        assert_eq!(scope(&words("relay -- -p")), Some("--workspace"));
        assert_eq!(scope(&words("-p posthaste")), None);
        assert_eq!(scope(&words("--package=posthaste")), None);
    }
}
