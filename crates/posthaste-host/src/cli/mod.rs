//! The command line of a program that runs services.

mod api_keys;
mod ask_person;
mod check_health;
mod dead_letters;
mod find_databases;
mod hide_secrets;
mod migrate;
mod service_command;
mod show_config;
mod show_progress;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError, ConfigErrors, RoleSet, Sources, nearest};
use crate::open_services::OpenError;
use crate::serve_process::{self, EX_CONFIG, ServeError};
use crate::service::Service;

/// As clap ends where arguments are wrong.
const EX_USAGE: u8 = 2;
/// Nothing matched.
const EX_NOTHING: u8 = 3;
/// A server is away (`EX_UNAVAILABLE` of sysexits.h).
const EX_AWAY: u8 = 69;

/// Event-driven services that lose nothing and do nothing twice.
#[derive(Parser)]
#[command(name = "posthaste", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run services (the default): all of them, all roles
    Serve(Serve),
    /// Bring databases to the schema of this version, and back
    Migrate(migrate::Migrate),
    /// Messages that were given up: look, replay, discard
    DeadLetters(dead_letters::DeadLetters),
    /// Keys of programs that call where tokens are asked for: make, list, revoke
    ApiKeys(api_keys::ApiKeys),
    /// The effective configuration
    Config(show_config::ShowConfig),
    /// Ask the local process whether it is ready; exits 0 or 1
    Healthcheck(check_health::CheckHealth),
}

/// Where the configuration comes from.
#[derive(Args)]
struct FileOption {
    /// Read this file instead of posthaste.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileOption {
    fn load(&self, flags: Sources, services: &[Service]) -> Result<Config, ConfigErrors> {
        let names: Vec<&str> = services.iter().map(|service| service.name).collect();
        Config::load(serve_process::sources(flags, self.config.as_deref())?, &names)
    }
}

#[derive(Args)]
struct Serve {
    /// Only these services
    services: Vec<String>,
    /// Only these roles: api (HTTP), worker (consumers, retries, timers), relay (outbox publishing)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLE,…")]
    role: Vec<Role>,
    /// Apply pending migrations first; on SQLite that happens anyway
    #[arg(long)]
    migrate: bool,
    /// Listen on this address (BIND_ADDRESS)
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Listen on this port (PORT)
    #[arg(long)]
    port: Option<String>,
    #[command(flatten)]
    file: FileOption,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Api,
    Worker,
    Relay,
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Serve(Box<ServeError>),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Something is not as the command needs it; said whole.
    #[error("{0}")]
    Refused(String),
    /// The arguments do not say enough.
    #[error("{0}")]
    Usage(String),
    /// There is nothing of the kind.
    #[error("{0}")]
    NothingMatched(String),
    /// A server does not answer.
    #[error("{0}")]
    Away(String),
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Serve(error) => error.exit_code(),
            Self::Config(_) | Self::Open(_) => ExitCode::from(EX_CONFIG),
            Self::Refused(_) | Self::Output(_) => ExitCode::FAILURE,
            Self::Usage(_) => ExitCode::from(EX_USAGE),
            Self::NothingMatched(_) => ExitCode::from(EX_NOTHING),
            Self::Away(_) => ExitCode::from(EX_AWAY),
        }
    }
}

/// Runs what the arguments of this process say, with `services` to choose from: a whole `main`.
pub async fn run(services: &[Service]) -> ExitCode {
    let started = Instant::now();
    let grammar = service_command::with_commands(Cli::command(), services);
    let matches = grammar
        .clone()
        .get_matches_from(with_default(&grammar, std::env::args_os().collect()));
    if let Some((service, command, matches)) = service_command::find(services, &matches) {
        let done = service_command::run(service, command, matches, services).await;
        return ended(done.map(|()| ExitCode::SUCCESS));
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    ended(match cli.command {
        Command::Serve(serve) => serve.run(services, started).await.map(|()| ExitCode::SUCCESS),
        Command::Migrate(migrate) => migrate.run(services).await.map(|()| ExitCode::SUCCESS),
        Command::DeadLetters(command) => command.run(services).await.map(|()| ExitCode::SUCCESS),
        Command::ApiKeys(command) => command.run(services).await.map(|()| ExitCode::SUCCESS),
        Command::Config(command) => command.run(services),
        Command::Healthcheck(command) => command.run(services).await,
    })
}

fn ended(done: Result<ExitCode, CliError>) -> ExitCode {
    done.unwrap_or_else(|error| {
        serve_process::complain(&error);
        error.exit_code()
    })
}

/// `posthaste` and `posthaste --port 80` mean `posthaste serve …`.
fn with_default(command: &clap::Command, mut arguments: Vec<OsString>) -> Vec<OsString> {
    const OWN: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let names = |argument: &OsString| command.get_subcommands().any(|known| argument == known.get_name());
    let is_flag = |argument: &OsString| argument.to_string_lossy().starts_with('-');
    let serves = match arguments.get(1) {
        None => true,
        Some(first) => is_flag(first) && !OWN.iter().any(|own| first == own) && !arguments.iter().any(names),
    };
    if serves {
        arguments.insert(arguments.len().min(1), "serve".into());
    }
    arguments
}

impl Serve {
    async fn run(self, services: &[Service], started: Instant) -> Result<(), CliError> {
        let flags = [("BIND_ADDRESS", &self.host, "--host"), ("PORT", &self.port, "--port")];
        let flags = flags
            .into_iter()
            .filter_map(|(key, value, flag)| Some((key.to_owned(), value.clone()?, flag.to_owned())));
        let mut config = self.file.load(Sources::new().flags(flags), services)?;
        config.migrate = self.migrate;
        if !self.role.is_empty() {
            config.roles = RoleSet {
                api: self.role.contains(&Role::Api),
                worker: self.role.contains(&Role::Worker),
                relay: self.role.contains(&Role::Relay),
            };
        }
        let chosen = choose(services, &self.services)?;
        let served = serve_process::serve(&chosen, &config, started).await;
        served.map_err(|error| CliError::Serve(Box::new(error)))
    }
}

/// The services named, all for none.
fn choose(services: &[Service], names: &[String]) -> Result<Vec<Service>, ConfigErrors> {
    let unknown: Vec<ConfigError> = names
        .iter()
        .filter(|name| !services.iter().any(|service| service.name == name.as_str()))
        .map(|name| ConfigError::Service {
            name: name.clone(),
            known: services.iter().map(|service| service.name.to_owned()).collect(),
            nearest: nearest(name, services.iter().map(|service| service.name)).map(str::to_owned),
        })
        .collect();
    if !unknown.is_empty() {
        return Err(ConfigErrors(unknown));
    }
    let is_chosen = |service: &&Service| names.is_empty() || names.iter().any(|name| name == service.name);
    Ok(services.iter().filter(is_chosen).copied().collect())
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        // `posthaste … | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes to standard error what is no result.
fn note(text: &str) {
    use std::io::Write as _;
    // Where nobody listens there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_unless_told_otherwise() {
        let completed = |line: &str| {
            let arguments = line.split(' ').map(OsString::from).collect();
            let completed: Vec<String> = with_default(&Cli::command(), arguments)
                .into_iter()
                .map(|argument| argument.into_string().unwrap())
                .collect();
            completed.join(" ")
        };
        assert_eq!(completed("posthaste"), "posthaste serve");
        assert_eq!(completed("posthaste --port 9000"), "posthaste serve --port 9000");
        assert_eq!(completed("posthaste serve orders"), "posthaste serve orders");
        assert_eq!(completed("posthaste --help"), "posthaste --help");
        assert_eq!(completed("posthaste migrate up"), "posthaste migrate up");
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
