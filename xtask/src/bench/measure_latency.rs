//! The row L1: how long after an event was made its handler recorded it, at a rate far below the limits.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use posthaste_testkit::TestDatabase;

use super::measure_flows::{await_rows, events};
use super::print_figures::{Figures, bound};
use super::read_rows::Raw;
use super::{check_ids, send_load};
use crate::run_binary::Running;

/// Requests per second.
const RATE: usize = 200;
/// Enough that an answer may take a third of a second before its connection's next request is late.
const CONNECTIONS: usize = 64;
/// Sent before and left out: connections open, statements are prepared.
const WARM_UP: usize = RATE;

/// The rate that was sent and the delays, ms.
#[derive(Default)]
pub struct Latency {
    sent: Vec<f64>,
    median: Vec<f64>,
    late: Vec<f64>,
}

impl Latency {
    /// Sends for `span` to a process on the migrated, empty `database` and reads what was recorded.
    pub async fn repeat(
        &mut self,
        binary: &Path,
        folder: &Path,
        database: &TestDatabase,
        broker: Option<&str>,
        raw: &mut Raw,
        span: Duration,
    ) -> Result<()> {
        let mut accepted = std::collections::BTreeSet::new();
        let warm_up = events(WARM_UP, &mut accepted);
        let bodies = events(RATE * span.as_secs() as usize, &mut accepted);
        let server = Running::start_over(binary, &["serve"], database.url(), broker, folder).await?;
        let start = Instant::now();
        send_load::post_at(server.port, "/api/events", &warm_up, CONNECTIONS, RATE).await?;
        let sent = send_load::post_at(server.port, "/api/events", &bodies, CONNECTIONS, RATE).await?;
        self.sent.push(sent);
        await_rows(raw, accepted.len(), start).await?;
        server.stop().await?;
        check_ids::check(&accepted, &raw.recorded_ids().await?)?;
        let delays = raw.delays(WARM_UP).await?;
        self.median.push(percentile(&delays, 50));
        self.late.push(percentile(&delays, 99));
        Ok(())
    }

    /// Prints both rows.
    pub fn print(self, name: &str) {
        let sent = Figures::of(self.sent).median();
        let row = |share| format!("L1 commit to handler's commit, ms, {share} at {sent:.0}/s, {name}");
        bound(&row("p50"), &Figures::of(self.median), None, 4.0);
        bound(&row("p99"), &Figures::of(self.late), None, 15.0);
    }
}

/// The least of the sorted `delays` that `share` percent of them do not exceed.
fn percentile(delays: &[f64], share: usize) -> f64 {
    let rank = (delays.len() * share).div_ceil(100).max(1);
    delays.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let delays: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&delays, 50), 100.0);
        assert_eq!(percentile(&delays, 99), 198.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
