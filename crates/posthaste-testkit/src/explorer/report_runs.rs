//! What was explored and what was found.

use std::collections::BTreeMap;
use std::fmt;

use super::Plan;

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was to happen.
    pub plan: Plan,
    /// Whether it happened: `false` when the client was done before it came to that point.
    pub happened: bool,
    /// Which invariants did not hold, each as a sentence.
    pub violations: Vec<String>,
}

/// All runs of a scenario.
#[derive(Clone, Debug)]
pub struct Report {
    /// Hits of each failpoint in the undisturbed run.
    pub hits: BTreeMap<&'static str, u32>,
    /// The runs; the undisturbed one first.
    pub runs: Vec<Run>,
}

impl Report {
    pub(crate) fn new(hits: BTreeMap<&'static str, u32>) -> Self {
        Self { hits, runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The runs after which an invariant did not hold.
    pub fn violations(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.violations.is_empty())
    }

    /// The runs whose fault did not come about.
    pub fn missed(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.happened)
    }

    /// How many runs died at each failpoint that the scenario hits.
    pub fn crashes(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<&'static str, usize> = self.hits.keys().map(|point| (*point, 0)).collect();
        for run in self.runs.iter().filter(|run| run.happened) {
            if let Plan::Crash { point, .. } | Plan::CrashTwice { point } = &run.plan {
                *counts.entry(point).or_default() += 1;
            }
        }
        counts
    }

    /// Asserts that every invariant held after every run.
    ///
    /// # Panics
    /// With the whole report when one did not.
    pub fn assert_clean(&self) {
        assert!(self.violations().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (runs, missed) = (self.runs.len(), self.missed().count());
        writeln!(f, "{runs} runs, {missed} of them without the fault they were made for")?;
        for (point, crashes) in self.crashes() {
            let hits = self.hits.get(point).copied().unwrap_or(0);
            writeln!(f, "  {point}: {hits} hits, {crashes} crashes")?;
        }
        for run in self.violations() {
            writeln!(f, "violated: {}", run.plan)?;
            for violation in &run.violations {
                writeln!(f, "    {violation}")?;
            }
        }
        Ok(())
    }
}
