//! Metrics for Prometheus: collected by one recorder per process, rendered on request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::describe_metrics::describe_all;
use super::process_metrics;

/// Upper bounds for durations, s (OpenTelemetry's advice for HTTP and messaging).
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The recorder of this process: several hosts (in tests) share it.
static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Why metrics cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets were refused.
    #[error("the metrics recorder cannot be built")]
    Build(#[from] BuildError),
    /// Somebody else's recorder is installed.
    #[error("another metrics recorder is installed")]
    Taken,
}

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts collecting.
    ///
    /// # Errors
    /// When another recorder was installed before.
    pub fn install() -> Result<Self, MetricsError> {
        let mut installed = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = installed.as_ref() {
            return Ok(Self(handle.clone()));
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            return Err(MetricsError::Taken);
        }
        describe_all();
        *installed = Some(handle.clone());
        Ok(Self(handle))
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.0.render();
        process_metrics::append(&mut text);
        text
    }

    /// Moves recorded durations into their buckets every five seconds until `stop`: unread they would
    /// pile up for as long as nobody scrapes.
    pub async fn keep_flat(self, stop: CancellationToken) {
        const EVERY: Duration = Duration::from_secs(5);
        while tokio::time::timeout(EVERY, stop.cancelled()).await.is_err() {
            self.0.run_upkeep();
        }
    }
}
