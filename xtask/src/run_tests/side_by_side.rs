//! Runs built test programs, several at once: most tests wait for a server most of the time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinSet;

/// How many run at once. Each has as many test threads as there are cores.
const AT_ONCE: usize = 3;

/// The ones that take minutes, longest first, so that none of them is the last to start.
const LONG: [&str; 5] = ["survive", "foreign", "on_servers", "conformance", "consume_messages"];

/// Compares times, so it runs alone, after all others.
const ALONE: &str = "login_time";

/// A built program of tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestProgram {
    package: String,
    target: String,
    executable: PathBuf,
    /// Where cargo would start it: the folder of its package.
    folder: PathBuf,
}

impl TestProgram {
    fn name(&self) -> String {
        format!("{} {}", self.package, self.target)
    }
}

/// The test programs among the messages of `cargo test --no-run --message-format=json`.
///
/// # Errors
/// When a message does not have the shape that cargo documents.
pub fn test_programs(messages: &str) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    // Lines that are not JSON are not cargo's.
    for message in messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let (Some(executable), true) = (message["executable"].as_str(), message["profile"]["test"] == true) else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().context("no manifest_path")?);
        let folder = manifest.parent().context("the manifest is in no folder")?.to_owned();
        programs.push(TestProgram {
            package: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            target: message["target"]["name"]
                .as_str()
                .context("a target without a name")?
                .to_owned(),
            executable: executable.into(),
            folder,
        });
    }
    Ok(programs)
}

/// Runs `programs` with `variables` set and prints what each printed when it has ended. Returns the names of those that
/// failed.
///
/// # Errors
/// When one cannot be started, or what it printed cannot be read.
pub async fn run(programs: Vec<TestProgram>, variables: &[(&'static str, String)]) -> Result<Vec<String>> {
    let (alone, mut others): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| program.target == ALONE);
    others.sort_by_key(|program| rank(&program.target));
    let mut failed = Vec::new();
    for (programs, at_once) in [(others, AT_ONCE), (alone, 1)] {
        failed.extend(run_queue(programs, variables, at_once).await?);
    }
    Ok(failed)
}

fn rank(target: &str) -> usize {
    LONG.iter().position(|long| *long == target).unwrap_or(LONG.len())
}

async fn run_queue(
    programs: Vec<TestProgram>,
    variables: &[(&'static str, String)],
    at_once: usize,
) -> Result<Vec<String>> {
    let queue = Arc::new(Mutex::new(VecDeque::from(programs)));
    let mut streams = JoinSet::new();
    for _ in 0..at_once {
        let (queue, variables) = (queue.clone(), variables.to_vec());
        streams.spawn(async move {
            let mut failed = Vec::new();
            loop {
                let Some(program) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    return Ok::<_, anyhow::Error>(failed);
                };
                if !run_one(&program, &variables).await? {
                    failed.push(program.name());
                }
            }
        });
    }
    let mut failed = Vec::new();
    while let Some(ended) = streams.join_next().await {
        failed.extend(ended.context("a stream of tests panicked")??);
    }
    Ok(failed)
}

/// Whether all its tests passed.
async fn run_one(program: &TestProgram, variables: &[(&'static str, String)]) -> Result<bool> {
    // A file rather than a pipe: servers that a test started may outlive it and hold the pipe open.
    let mut printed = tempfile::tempfile()?;
    let started = Instant::now();
    let status = Command::new(&program.executable)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed.try_clone()?)
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("cannot run {}", program.executable.display()))?;
    show(&program.name(), started.elapsed(), &mut printed)?;
    Ok(status.success())
}

fn show(name: &str, took: Duration, printed: &mut File) -> Result<()> {
    printed.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    printed.read_to_end(&mut text)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "== {name}: {:.0} s", took.as_secs_f64())?;
    out.write_all(&text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TestProgram, rank, test_programs};

    #[test]
    fn only_test_programs_are_taken_from_what_cargo_says() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/p/crates/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/p/crates/a/Cargo.toml","target":{"name":"bin"},"profile":{"test":false},"executable":"/t/bin"}
{"reason":"compiler-artifact","manifest_path":"/p/crates/a/Cargo.toml","target":{"name":"it"},"profile":{"test":true},"executable":"/t/it-1"}
{"reason":"build-finished","success":true}
a line of somebody else"#;
        let program = TestProgram {
            package: "a".to_owned(),
            target: "it".to_owned(),
            executable: "/t/it-1".into(),
            folder: "/p/crates/a".into(),
        };
        assert_eq!(test_programs(messages).unwrap(), [program]);
    }

    #[test]
    fn long_programs_start_first() {
        assert!(rank("survive") < rank("foreign"));
        assert!(rank("conformance") < rank("hello"));
    }
}
