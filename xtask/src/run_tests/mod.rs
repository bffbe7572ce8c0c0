//! `cargo xtask test`: the one command that runs everything.

mod side_by_side;

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::Server;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::tidy;

/// Runs the tests on servers that run, then [`tidy::report`]; leaves running what ran before. Without `arguments` that is
/// everything, several programs side by side; with `arguments` it is `cargo test` with them.
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
    let passed = tested?;
    stopped.into_iter().collect::<Result<()>>()?;
    let tidiness = tidy::report()?;
    Ok(if passed { tidiness } else { ExitCode::from(101) })
}

/// Notes in `ours` which servers it started, also when it fails afterwards. Returns whether all tests passed.
fn test_on_servers(arguments: &[String], ours: &mut Vec<Server>) -> Result<bool> {
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
    runtime.block_on(until_interrupted(async {
        if arguments.is_empty() {
            everything(&variables).await
        } else {
            cargo_test(arguments, &variables).await
        }
    }))
}

/// Drops `tests`, and with it the processes, at an interrupt: the servers are stopped in either case.
async fn until_interrupted(tests: impl Future<Output = Result<bool>>) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        passed = tests => passed,
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    }
}

async fn cargo_test(arguments: &[String], variables: &[(&'static str, String)]) -> Result<bool> {
    let mut command = cargo();
    command
        .arg("test")
        .args(scope(arguments))
        .arg("--no-fail-fast")
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)));
    Ok(command.status().await.context("cannot run cargo")?.success())
}

async fn everything(variables: &[(&'static str, String)]) -> Result<bool> {
    let mut build = cargo();
    build
        .args([
            "test",
            "--workspace",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .stdout(Stdio::piped());
    // Not `output`, which would keep the compiler's errors from being seen.
    let building = build.spawn().context("cannot run cargo")?;
    let built = building.wait_with_output().await.context("cannot run cargo")?;
    ensure!(built.status.success(), "the tests do not build");
    let programs = side_by_side::test_programs(&String::from_utf8_lossy(&built.stdout))?;
    ensure!(!programs.is_empty(), "cargo named no test program");
    let failed = side_by_side::run(programs, variables).await?;
    let mut documentation = cargo();
    let documented = documentation
        .args(["test", "--workspace", "--doc", "--no-fail-fast"])
        .status()
        .await
        .context("cannot run cargo")?;
    if !failed.is_empty() {
        eprintln!("error: {} test programs failed: {}", failed.len(), failed.join(", "));
    }
    Ok(failed.is_empty() && documented.success())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.kill_on_drop(true);
    command
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
