//! The row G3: what a process costs that has nothing to do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use posthaste_testkit::TestDatabase;
use tokio::time::sleep;

use super::print_figures::{Figures, bound};
use super::read_rows::Raw;
use crate::run_binary::Running;

/// PostgreSQL's processes tell their counts up to 10 s late; until then the start would be counted too.
const SETTLE: Duration = Duration::from_secs(11);
/// The process shares one count of its backlog among scrapes in quick succession.
const NEXT_SCRAPE: Duration = Duration::from_millis(1_500);
/// `/proc` counts in these on every Linux, per second.
const TICKS: f64 = 100.0;

/// Queries per second per database, and percent of a core.
#[derive(Default)]
pub struct Idle {
    queries: Vec<f64>,
    processor: Vec<f64>,
}

impl Idle {
    /// Watches an idle process on the migrated `database` for `span`.
    pub async fn repeat(
        &mut self,
        binary: &Path,
        folder: &Path,
        database: &TestDatabase,
        raw: &mut Raw,
        span: Duration,
    ) -> Result<()> {
        let server = Running::start(binary, &["serve"], database.url(), folder).await?;
        sleep(SETTLE).await;
        let queries = Counter::read(&server, raw).await?;
        let (ticks, start) = (server.ticks()?, Instant::now());
        sleep(span).await;
        let used = (server.ticks()? - ticks) as f64 / TICKS;
        self.processor.push(100.0 * used / start.elapsed().as_secs_f64());
        self.queries.push(queries.rate(&server, raw).await?);
        server.stop().await
    }

    /// Prints both rows.
    pub fn print(self, name: &str) {
        let queries = Figures::of(self.queries);
        bound(&format!("G3 idle, queries/s, {name}"), &queries, None, 1.0);
        let processor = Figures::of(self.processor);
        bound(&format!("G3 idle, % of a core, {name}"), &processor, None, 0.5);
    }
}

/// A number of queries at an instant.
struct Counter {
    queries: f64,
    at: Instant,
}

impl Counter {
    async fn read(server: &Running, raw: &mut Raw) -> Result<Self> {
        let queries = match raw.transactions().await? {
            Some(transactions) => transactions as f64,
            None => operations(&server.get("/metrics").await?)?,
        };
        let at = Instant::now();
        Ok(Self { queries, at })
    }

    /// Since `self` was read. Each reading adds the same to what it reads; a second one at the end tells how much.
    async fn rate(&self, server: &Running, raw: &mut Raw) -> Result<f64> {
        let end = Self::read(server, raw).await?;
        sleep(NEXT_SCRAPE).await;
        let next = Self::read(server, raw).await?;
        let queries = (end.queries - self.queries) - (next.queries - end.queries);
        let seconds = (end.at - self.at).as_secs_f64() - (next.at - end.at).as_secs_f64();
        Ok((queries / seconds).max(0.0))
    }
}

/// All database operations that the scraped `metrics` count.
fn operations(metrics: &str) -> Result<f64> {
    let mut sum = None;
    for line in metrics.lines() {
        if line.starts_with("db_client_operation_duration_seconds_count") {
            let count = line.rsplit(' ').next().context("a metric without value")?;
            sum = Some(sum.unwrap_or(0.0) + count.parse::<f64>()?);
        }
    }
    sum.context("the metrics count no database operations")
}

#[cfg(test)]
mod tests {
    use super::operations;

    #[test]
    fn operations_of_every_kind_are_counted() {
        let metrics = "\
            # TYPE db_client_operation_duration_seconds histogram\n\
            db_client_operation_duration_seconds_bucket{db_operation_name=\"query\",le=\"0.005\"} 9\n\
            db_client_operation_duration_seconds_count{db_operation_name=\"query\"} 12\n\
            db_client_operation_duration_seconds_count{db_operation_name=\"commit\"} 3\n";
        assert_eq!(operations(metrics).unwrap(), 15.0);
        assert!(operations("up 1\n").is_err());
    }
}
