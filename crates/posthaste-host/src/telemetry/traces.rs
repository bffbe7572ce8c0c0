//! Traces to a collector (OTLP over http/protobuf), only where an endpoint is set.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use super::TelemetryError;
use crate::config::Config;
use crate::redact::{self, Treatment};

/// How long the last spans may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where spans go and how many.
#[derive(Debug)]
pub(super) struct TraceSettings {
    endpoint: String,
    headers: HashMap<String, String>,
    timeout: Duration,
    sampler: Sampler,
    resource: Vec<KeyValue>,
    service_name: String,
    redact: bool,
}

/// Reads and passes on W3C trace contexts in this process.
pub(super) fn install_propagator() {
    global::set_text_map_propagator(TraceContextPropagator::new());
}

/// What `config` says; `None` where nothing is to be sent.
pub(super) fn settings(config: &Config, services: &[&str]) -> Result<Option<TraceSettings>, TelemetryError> {
    let get = |name: &str| config.settings.get(name);
    let endpoint = match (
        get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ) {
        (Some(whole), _) => whole,
        (None, Some(base)) => format!("{}/v1/traces", base.trim_end_matches('/')),
        (None, None) => return Ok(None),
    };
    let off = !config.on("TRACING_ENABLED")
        || config.on("OTEL_SDK_DISABLED")
        || get("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter.eq_ignore_ascii_case("none"));
    if off {
        return Ok(None);
    }
    if endpoint.starts_with("https:") {
        let reason = "the exporter of this build speaks http:// only; put a collector next to the process";
        return Err(TelemetryError::Traces(reason.to_owned()));
    }
    let mut resource: Vec<KeyValue> = pairs(get("OTEL_RESOURCE_ATTRIBUTES"))
        .map(|(key, value)| KeyValue::new(key, value))
        .collect();
    resource.push(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    Ok(Some(TraceSettings {
        endpoint,
        headers: pairs(get("OTEL_EXPORTER_OTLP_HEADERS")).collect(),
        timeout: Duration::from_millis(
            get("OTEL_EXPORTER_OTLP_TIMEOUT")
                .and_then(|millis| millis.parse().ok())
                .unwrap_or(10_000),
        ),
        sampler: sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG")),
        resource,
        service_name: get("OTEL_SERVICE_NAME").unwrap_or_else(|| config.app_name(services)),
        redact: config.on("LOG_REDACTION_ENABLED"),
    }))
}

/// `a=1,b=2`.
fn pairs(list: Option<String>) -> impl Iterator<Item = (String, String)> {
    let list = list.unwrap_or_default();
    let pairs: Vec<(String, String)> = list
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    pairs.into_iter()
}

fn sampler(name: Option<String>, ratio: Option<String>) -> Sampler {
    let ratio: f64 = ratio.and_then(|ratio| ratio.parse().ok()).unwrap_or(1.0);
    match name.unwrap_or_default().to_ascii_lowercase().as_str() {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio),
        "parentbased_always_off" => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        "parentbased_traceidratio" => Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))),
        _ => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
    }
}

/// Starts the exporter, on a thread of its own.
pub(super) fn start(
    settings: &TraceSettings,
) -> Result<(Provider, impl Layer<Registry> + Send + Sync + use<>), TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_timeout(settings.timeout)
        .with_headers(settings.headers.clone())
        .build()
        .map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let exporter = Redacting {
        exporter,
        redact: settings.redact,
    };
    let resource = Resource::builder()
        .with_attributes(settings.resource.clone())
        .with_service_name(settings.service_name.clone())
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).build())
        .with_sampler(settings.sampler.clone())
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("posthaste"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
    // The exporter's own client would otherwise trace its exports.
    let filter = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(["hyper", "hyper_util", "reqwest", "opentelemetry", "sqlx"].map(|name| (name, LevelFilter::OFF)));
    Ok((Provider(provider), layer.with_filter(filter)))
}

/// The running exporter.
pub(super) struct Provider(SdkTracerProvider);

impl Provider {
    /// Sends the spans that wait.
    pub(super) async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FAREWELL));
        match tokio::time::timeout(FAREWELL * 2, stopped).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last spans could not be sent"),
        }
    }
}

/// Cuts secrets out of spans on their way out.
#[derive(Debug)]
struct Redacting<E> {
    exporter: E,
    redact: bool,
}

impl<E: SpanExporter> SpanExporter for Redacting<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        if self.redact {
            for span in &mut batch {
                span.attributes.iter_mut().for_each(redact_attribute);
                for event in &mut span.events.events {
                    event.attributes.iter_mut().for_each(redact_attribute);
                    event.name = redact::text(&event.name).into_owned().into();
                }
            }
        }
        self.exporter.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn redact_attribute(attribute: &mut KeyValue) {
    let shown = match (redact::treatment(attribute.key.as_str()), &attribute.value) {
        (Treatment::Hide, _) => redact::HIDDEN.to_owned(),
        (Treatment::MaskEmail, value) => redact::email(&value.as_str()),
        (Treatment::Show, Value::String(text)) => redact::text(text.as_str()).into_owned(),
        (Treatment::Show, _) => return,
    };
    attribute.value = Value::String(shown.into());
}
