//! The command line as its users type it, in a folder of its own, without a server.

mod administer_accounts;
mod adopt_no_table;
mod describe_api;
mod follow_order;
mod follow_sign_up;
mod inspect_dead_letters;
mod keep_files_private;
mod program;
mod serve_and_stop;
mod show_config;
mod trace_calls;
mod use_api_keys;

use anyhow::{Result, ensure};
use program::Program;

#[tokio::test]
async fn migrations_go_up_and_down_by_hand() -> Result<()> {
    let program = Program::new()?;
    let status = program.run(&["migrate", "status"], &[]).await?;
    ensure!(status.code == 0 && status.stdout.contains("pending"), "{status:?}");
    let up = program.run(&["migrate", "up"], &[]).await?;
    ensure!(up.code == 0 && up.stdout.contains("applied core/1"), "{up:?}");
    let again = program.run(&["migrate", "up"], &[]).await?;
    ensure!(again.code == 0 && again.stdout.contains("nothing to do"), "{again:?}");
    let status = program.run(&["migrate", "status"], &[]).await?;
    ensure!(status.code == 0 && !status.stdout.contains("pending"), "{status:?}");
    let unasked = program.run(&["migrate", "down"], &[]).await?;
    ensure!(unasked.code == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
    let down = program.run(&["migrate", "down", "--yes"], &[]).await?;
    ensure!(
        down.code == 0 && down.stdout.contains("took back messages/"),
        "{down:?}"
    );
    let down = program.run(&["migrate", "down", "notifications", "--yes"], &[]).await?;
    ensure!(
        down.code == 0 && down.stdout.contains("took back notifications/"),
        "{down:?}"
    );
    let down = program.run(&["migrate", "down", "notifications", "--yes"], &[]).await?;
    ensure!(down.code == 0 && down.stdout.contains("nothing to do"), "{down:?}");
    Ok(())
}
