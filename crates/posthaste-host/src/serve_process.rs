//! A process from its start to its signal: telemetry, listener, services, banner, clean stop.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, ConfigErrors, Sources};
use crate::print_banner;
use crate::run_services::{Host, StartError};
use crate::service::Service;
use crate::telemetry::{self, TelemetryError, logs::Target};

/// The file that is read where no other is named.
pub(crate) const CONFIG_FILE: &str = "posthaste.toml";
/// The exit code for a wrong configuration (`EX_CONFIG` of sysexits.h).
pub(crate) const EX_CONFIG: u8 = 78;

/// Why a process cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("{address} cannot be listened on ({source}); choose another place with --port or PORT")]
    Bind {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("the listener ended")]
    Ended,
}

impl ServeError {
    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(EX_CONFIG),
            Self::Start(error) if error.is_configuration() => ExitCode::from(EX_CONFIG),
            _ => ExitCode::FAILURE,
        }
    }
}

/// `flags`, then the environment, `.env` and the file.
pub(crate) fn sources(flags: Sources, file: Option<&Path>) -> Result<Sources, ConfigErrors> {
    // Names and values that are no Unicode are no keys of ours.
    let environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    flags
        .environment(environment)
        .env_file(Path::new(".env"))?
        .toml_file(file.unwrap_or(Path::new(CONFIG_FILE)), file.is_some())
}

/// Says what went wrong.
pub(crate) fn complain(error: &dyn std::error::Error) {
    say(&format!("posthaste: {error}\n"));
}

/// Writes to standard error.
fn say(text: &str) {
    // Where nobody listens there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Serves until a signal comes.
pub(crate) async fn serve(services: &[Service], config: &Config, started: Instant) -> Result<(), ServeError> {
    let names: Vec<&str> = services.iter().map(|service| service.name).collect();
    config.check_services(&names)?;
    let mut signals = Signals::listen().map_err(ServeError::Signals)?;
    let telemetry = telemetry::install(config, &names, Target::Stdout)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if config.is_openly_reachable() {
        tracing::warn!(
            address = %config.listen,
            "POSTHASTE_AUTH=open: everybody who reaches this address may use the management routes"
        );
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| ServeError::Bind {
            address: config.listen,
            source,
        })?;
    let mut host = Host::start(services, config, listener).await?;
    say(&print_banner::banner(&host, config, &names, started.elapsed()));
    tracing::info!(address = %host.addr, services = names.join(","), "started");
    let ended = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            false
        }
        () = host.ended() => true,
    };
    // Somebody who asks twice does not want to wait.
    let second = tokio::spawn(async move {
        signals.next().await;
        std::process::exit(130);
    });
    host.stop().await;
    tracing::info!("stopped");
    telemetry.stop().await;
    second.abort();
    if ended { Err(ServeError::Ended) } else { Ok(()) }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
