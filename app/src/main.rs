//! The binary `posthaste`: composes the services; no logic.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    posthaste_host::cli::run(&[
        accounts::service(),
        orders::service(),
        notifications::service(),
        messages::service(),
    ])
    .await
}
