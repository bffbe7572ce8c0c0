//! The binary under load while it, its database, its broker or the way to them fails: everything acknowledged ends as
//! one row.

mod expect_rows;
mod load;
mod process;

mod break_links;
mod kill_process;
mod kill_roles;
mod lose_broker;
mod lose_database;
mod lose_kafka;
mod lose_network;
mod run_roles;
mod run_two_processes;
mod start_before_servers;
mod take_over;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};

/// Servers of one's own and half a dozen processes take a machine for themselves.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a test of which only one may run at a time, and gives it up after `limit`.
async fn alone(limit: Duration, test: impl Future<Output = Result<()>>) -> Result<()> {
    let turn = ALONE.lock().await;
    let done = tokio::time::timeout(limit, test).await;
    drop(turn);
    let done = done.with_context(|| format!("not done within {limit:?}")).flatten();
    if let Err(error) = &done {
        // Now and past the test harness, which shows it only after the last test.
        writeln!(std::io::stderr(), "failed: {error:?}")?;
    }
    done
}
