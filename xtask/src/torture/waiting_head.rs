//! Many rows of the inbox behind one that waits for its next attempt: what they cost while nothing is to be done.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::Figure;
use super::fill_inbox::{fill, settings};
use super::place::Place;
use super::read_proc::Usage;

const TRANSPORT: &str = "sql:";
const WAITING: i64 = 100_000;
/// Until what follows the start and the filling is over.
const SETTLE: Duration = Duration::from_secs(15);
const SPAN: Duration = Duration::from_secs(30);
/// Two, because something is done once a minute.
const SPANS: usize = 2;
/// Percent of a core, of the process and of the database's processes.
const PROCESSOR: f64 = 5.0;
/// Megabytes per second.
const WRITTEN: f64 = 1.0;

/// Measures processor time and bytes written.
///
/// # Errors
/// When the rows cannot be made or a process ends.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let columns = ["status", "attempts", "due_at", "due_in", "parked_seq"];
    let hour = 3_600_000_000_i64;
    let first = |then: &str, otherwise: &str| format!("CASE WHEN number = 1 THEN {then} ELSE {otherwise} END");
    let values = [
        first("'retrying'", "'waiting'"),
        first("1", "0"),
        first(&format!("{{after:{hour}}}"), "NULL"),
        first(&hour.to_string(), "NULL"),
        "number".to_owned(),
    ];
    fill(place, WAITING, &columns, &values.each_ref().map(String::as_str)).await?;
    let server = place.serve_with(&["messages"], &settings(place)).await?;
    let database = place.server_process().await?;
    let usage = || {
        let mut usage = Usage::of_tree(server.id()?)?;
        if let Some(database) = database {
            usage = usage.plus(Usage::of_tree(database)?);
        }
        anyhow::Ok((usage, Instant::now()))
    };
    tokio::time::sleep(SETTLE).await;
    let (mut processor, mut written) = (0.0_f64, 0.0_f64);
    for _ in 0..SPANS {
        let (before, from) = usage()?;
        tokio::time::sleep(SPAN).await;
        let (after, until) = usage()?;
        let seconds = (until - from).as_secs_f64();
        processor = processor.max(100.0 * (after.processor - before.processor) / seconds);
        written = written.max((after.written - before.written) as f64 / 1e6 / seconds);
    }
    let still = "SELECT COUNT(*) AS n FROM inbox_messages WHERE status = 'waiting'";
    let still = place.number(still).await?;
    anyhow::ensure!(still == WAITING - 1, "void: only {still} rows are still waiting");
    server.stop().await?;
    let what = |what: &str| format!("{WAITING} rows behind one, {what}");
    Ok(vec![
        Figure::below(
            TRANSPORT,
            &what("processor of process and database"),
            processor,
            PROCESSOR,
            "% of a core",
        ),
        Figure::below(TRANSPORT, &what("written"), written, WRITTEN, "MB/s"),
    ])
}
