//! Our own commands: `cargo xtask test`, `services`, `tidy`, `bench`, `torture`.

mod bench;
mod control_services;
mod run_binary;
mod run_tests;
mod tidy;
mod torture;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start what the tests need, run all of them (documentation included), check tidiness, stop what was started
    Test {
        /// Passed on to `cargo test`, for example `-p posthaste relay`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Control the servers that the tests run against
    Services {
        #[command(subcommand)]
        command: control_services::Command,
    },
    /// Check the rules of ARCHITECTURE.md and CONTRIBUTING.md
    Tidy,
    /// Measure; see `cargo xtask bench --help`
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Load, kill and fill the services until a promise breaks; see `cargo xtask torture --help`
    Torture(torture::Arguments),
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Test { arguments } => run_tests::run(&arguments),
        Command::Services { command } => control_services::run(command).map(|()| ExitCode::SUCCESS),
        Command::Tidy => tidy::report(),
        Command::Bench { arguments } => bench::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Torture(arguments) => torture::run(&arguments),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
