//! The binary among clients that know nothing of it: whatever they put on its queues, and whatever they do to them.

mod describe_letters;
mod describe_queues;
#[path = "../survive/process.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod process;
mod put_letters;

mod refuse_bad_input;
mod take_odd_rows;
mod trade_orders;

use std::time::Duration;

use anyhow::{Context, Result};

/// Servers of one's own and bodies of 10 MB take a machine for themselves.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a test of which only one may run at a time, and gives it up after `limit`.
async fn alone(limit: Duration, test: impl Future<Output = Result<()>>) -> Result<()> {
    let turn = ALONE.lock().await;
    let done = tokio::time::timeout(limit, test).await;
    drop(turn);
    done.with_context(|| format!("not done within {limit:?}"))?
}
