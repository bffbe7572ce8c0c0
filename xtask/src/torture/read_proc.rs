//! What processes have used, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// `/proc` counts in these on every Linux, per second.
const TICKS: f64 = 100.0;

/// Used since their start by a process, all that descend from it and all that have ended and were waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Seconds of a core.
    pub processor: f64,
    /// Bytes that went to the disk.
    pub written: u64,
}

impl Usage {
    /// Of `process` and its descendants.
    ///
    /// # Errors
    /// When `process` has ended, or belongs to another user.
    pub fn of_tree(process: u32) -> Result<Self> {
        let own = Self::of(process).with_context(|| format!("process {process}"))?;
        let mut sum = own;
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread or a child may end at any moment; its parent counts it then.
            let Ok(children) = fs::read_to_string(task?.path().join("children")) else {
                continue;
            };
            for child in children.split_whitespace() {
                if let Ok(usage) = Self::of_tree(child.parse()?) {
                    sum = sum.plus(usage);
                }
            }
        }
        Ok(sum)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            processor: self.processor + other.processor,
            written: self.written + other.written,
        }
    }

    fn of(process: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let io = fs::read_to_string(format!("/proc/{process}/io"))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(Self {
            processor: ticks(&stat)? as f64 / TICKS,
            written: written.context("no write_bytes")?.trim().parse()?,
        })
    }
}

/// The process that started `process`.
///
/// # Errors
/// When it has ended.
pub fn parent(process: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    Ok(words(&stat)?.nth(1).context("no parent in /proc stat")?.parse()?)
}

/// Own and children's time, user's and system's.
fn ticks(stat: &str) -> Result<u64> {
    let times = words(stat)?.skip(11).take(4);
    times.map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
}

/// What follows the name, which stands in parentheses and may hold spaces.
fn words(stat: &str) -> Result<impl Iterator<Item = &str>> {
    let (_, words) = stat.rsplit_once(')').context("no name in /proc stat")?;
    Ok(words.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::{Usage, parent, ticks};

    #[test]
    fn the_time_of_a_process_and_its_children_is_read_past_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat).unwrap(), 100);
    }

    #[test]
    fn this_process_has_used_something_and_has_a_parent() {
        let own = std::process::id();
        assert!(Usage::of_tree(own).unwrap().processor >= 0.0);
        assert_eq!(parent(own).unwrap(), std::os::unix::process::parent_id());
    }
}
