//! What the process says about itself: log lines, metrics, traces.

mod describe_metrics;
mod log_fields;
pub mod logs;
pub mod metrics;
mod process_metrics;
pub mod traces;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Config;
use logs::Target;
use traces::Wanted;

/// The telemetry of a process; [`Telemetry::stop`] sends what waits.
#[must_use]
pub struct Telemetry {
    traces: Option<traces::Provider>,
}

/// Installs log lines (to `target`) and, where an endpoint is set, traces for this process.
///
/// # Errors
/// When this process has them already, or the exporter cannot be made.
pub fn install(config: &Config, services: &[&str], target: Target) -> Result<Telemetry, TelemetryError> {
    // Set even where nothing is traced: incoming trace contexts are read and passed on by it.
    traces::install_propagator();
    let wanted = traces::settings(config, services);
    let (traces, spans) = match &wanted {
        Wanted::Sent(settings) => {
            let (provider, layer) = traces::start(settings)?;
            (Some(provider), Some(layer))
        }
        Wanted::Off | Wanted::Impossible(_) => (None, None),
    };
    let logs = logs::layer(config, target);
    if spans.is_some() || logs.is_some() {
        tracing_subscriber::registry().with(spans).with(logs).try_init()?;
    }
    if let Wanted::Impossible(reason) = wanted {
        tracing::warn!(reason, "no spans are sent");
    }
    Ok(Telemetry { traces })
}

impl Telemetry {
    /// Sends the spans that wait, for at most two seconds.
    pub async fn stop(self) {
        if let Some(provider) = self.traces {
            provider.stop().await;
        }
    }
}

/// Why telemetry could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Another subscriber is there.
    #[error("log lines cannot be installed")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// The exporter refused its settings.
    #[error("traces cannot be sent: {0}")]
    Traces(String),
}
