//! How far a long command is, on the terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use posthaste::dead_letter::Progress;

use super::note;

/// Nothing is shown before.
const SILENT: Duration = Duration::from_secs(2);
/// Between two lines.
const EVERY: Duration = Duration::from_millis(200);

pub(super) struct ShowProgress {
    what: &'static str,
    started: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl ShowProgress {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            started: Instant::now(),
            shown: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    pub fn show(&mut self, progress: Progress) {
        let recent = self.shown.is_some_and(|shown| shown.elapsed() < EVERY);
        if !self.is_terminal || recent {
            return;
        }
        if let Some(line) = line(self.what, progress, self.started.elapsed()) {
            // Over the line before.
            note(&format!("\r\x1b[2K{line}"));
            self.shown = Some(Instant::now());
        }
    }

    /// Removes the line.
    pub fn end(&self) {
        if self.shown.is_some() {
            note("\r\x1b[2K");
        }
    }
}

/// Count, rate and time left; nothing for the first two seconds.
fn line(what: &str, progress: Progress, elapsed: Duration) -> Option<String> {
    if elapsed < SILENT {
        return None;
    }
    let Progress { total, done } = progress;
    let rate = done as f64 / elapsed.as_secs_f64();
    let left = total.saturating_sub(done) as f64 / rate.max(0.001);
    Some(format!("{what} {done} of {total}, {rate:.0}/s, {left:.0} s left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_says_how_long_it_takes() {
        let progress = Progress {
            total: 9000,
            done: 3000,
        };
        assert_eq!(line("replayed", progress, Duration::from_millis(1999)), None);
        assert_eq!(
            line("replayed", progress, Duration::from_secs(3)).as_deref(),
            Some("replayed 3000 of 9000, 1000/s, 6 s left")
        );
    }
}
