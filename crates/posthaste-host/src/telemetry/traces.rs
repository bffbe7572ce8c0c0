//! Traces to a collector (OTLP over http/protobuf), only where an endpoint is set.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_otlp::{Compression, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter};
use percent_encoding::percent_decode_str;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use super::TelemetryError;
use crate::config::Config;
use crate::redact::{self, Treatment};

/// Counts spans that the collector did not take.
pub(super) const LOST: &str = "posthaste_spans_lost_total";
/// How long the last spans may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long the last spans may take to leave where the ones before could not.
const SHORT_FAREWELL: Duration = Duration::from_millis(200);

/// What is to be done with spans.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Nothing.
    Off,
    /// They are to be sent and cannot be, for this reason.
    Impossible(&'static str),
    /// They are sent.
    Sent(TraceSettings),
}

/// Where spans go and how many.
#[derive(Debug)]
pub(super) struct TraceSettings {
    endpoint: String,
    headers: HashMap<String, String>,
    timeout: Duration,
    gzip: bool,
    sampler: Sampler,
    resource: Vec<KeyValue>,
    redact: bool,
}

/// Reads and passes on W3C trace contexts in this process.
pub(super) fn install_propagator() {
    global::set_text_map_propagator(TraceContextPropagator::new());
}

/// What `config` says.
pub(super) fn settings(config: &Config, services: &[&str]) -> Wanted {
    let get = |name: &str| config.settings.get(name);
    // What is set for traces wins over what is set for all signals.
    let exporter = |name: &str| {
        get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let endpoint = match (
        get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ) {
        (Some(whole), _) => whole,
        (None, Some(base)) => format!("{}/v1/traces", base.trim_end_matches('/')),
        (None, None) => return Wanted::Off,
    };
    let off = !config.on("TRACING_ENABLED")
        || config.on("OTEL_SDK_DISABLED")
        || get("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter.eq_ignore_ascii_case("none"));
    if off {
        return Wanted::Off;
    }
    if endpoint.starts_with("https:") {
        return Wanted::Impossible(
            "the exporter of this build speaks http:// only; put a collector next to the process",
        );
    }
    Wanted::Sent(TraceSettings {
        endpoint,
        headers: pairs(exporter("HEADERS")).into_iter().collect(),
        timeout: Duration::from_millis(
            exporter("TIMEOUT")
                .and_then(|millis| millis.parse().ok())
                .unwrap_or(10_000),
        ),
        gzip: exporter("COMPRESSION").is_some_and(|kind| kind.eq_ignore_ascii_case("gzip")),
        sampler: sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG")),
        resource: resource(
            get("OTEL_SERVICE_NAME"),
            get("OTEL_RESOURCE_ATTRIBUTES"),
            config.app_name(services),
        ),
        redact: config.on("LOG_REDACTION_ENABLED"),
    })
}

/// What every span says of this process, in OpenTelemetry's order: `OTEL_SERVICE_NAME` wins over the attributes, which
/// win over what the process knows of itself.
fn resource(service_name: Option<String>, attributes: Option<String>, app_name: String) -> Vec<KeyValue> {
    let own = [
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("service.name".to_owned(), app_name),
    ];
    let named = service_name.map(|name| ("service.name".to_owned(), name));
    let all: BTreeMap<String, String> = own.into_iter().chain(pairs(attributes)).chain(named).collect();
    all.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect()
}

/// `a=1,b=2`, percent-encoded; what decodes to no text stays as it is.
fn pairs(list: Option<String>) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let text = text.trim();
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map_or_else(|_not_utf8| text.to_owned(), Cow::into_owned)
    };
    list.unwrap_or_default()
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect()
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
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_timeout(settings.timeout)
        .with_headers(settings.headers.clone());
    if settings.gzip {
        exporter = exporter.with_compression(Compression::Gzip);
    }
    let losses = Arc::new(Losses::default());
    let exporter = Watched {
        exporter: exporter
            .build()
            .map_err(|error| TelemetryError::Traces(error.to_string()))?,
        redact: settings.redact,
        losses: losses.clone(),
    };
    let resource = Resource::builder().with_attributes(settings.resource.clone()).build();
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
    Ok((Provider { provider, losses }, layer.with_filter(filter)))
}

/// The running exporter.
pub(super) struct Provider {
    provider: SdkTracerProvider,
    losses: Arc<Losses>,
}

impl Provider {
    /// Sends the spans that wait, and says how many were lost.
    pub(super) async fn stop(self) {
        let Self { provider, losses } = self;
        // A collector that is away takes the last ones no more than those before.
        let farewell = match losses.failing.load(Ordering::Relaxed) {
            true => SHORT_FAREWELL,
            false => FAREWELL,
        };
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(farewell));
        let in_time = matches!(tokio::time::timeout(FAREWELL * 2, stopped).await, Ok(Ok(Ok(()))));
        let spans = losses.spans.load(Ordering::Relaxed);
        if !in_time {
            tracing::warn!(
                spans,
                "spans were lost: the collector did not take the last ones in time"
            );
        } else if spans > 0 {
            tracing::warn!(spans, "spans were lost: the collector did not take them");
        }
    }
}

/// What could not be sent.
#[derive(Debug, Default)]
struct Losses {
    spans: AtomicU64,
    /// The last attempt failed.
    failing: AtomicBool,
}

impl Losses {
    /// Says when the collector goes away and comes back, once each.
    fn note(&self, spans: usize, sent: &OTelSdkResult) {
        match sent {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                let spans = u64::try_from(spans).unwrap_or(u64::MAX);
                self.spans.fetch_add(spans, Ordering::Relaxed);
                metrics::counter!(LOST).increment(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the collector takes no spans; they are lost until it does");
                }
            }
        }
    }
}

/// Cuts secrets out of spans on their way out, and notes which do not arrive.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    redact: bool,
    losses: Arc<Losses>,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
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
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.losses.note(spans, &sent);
        sent
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

#[cfg(test)]
mod tests {
    use super::*;

    fn described(service_name: Option<&str>, attributes: &str) -> Vec<(String, String)> {
        let attributes = (!attributes.is_empty()).then(|| attributes.to_owned());
        let all = resource(service_name.map(str::to_owned), attributes, "app".to_owned());
        all.into_iter()
            .map(|pair| (pair.key.to_string(), pair.value.to_string()))
            .collect()
    }

    #[test]
    fn a_resource_is_what_was_said_of_it() {
        let has = |all: &[(String, String)], key: &str, value: &str| {
            let found: Vec<_> = all.iter().filter(|(known, _)| known == key).collect();
            assert_eq!(found, [&(key.to_owned(), value.to_owned())], "{all:?}");
        };
        let all = described(None, "");
        has(&all, "service.name", "app");
        has(&all, "service.version", env!("CARGO_PKG_VERSION"));
        let attributes = "service.name=checkout, service.version=9.9.9,deployment.environment=prod%20eu,a%2Cb=c%3Dd";
        let all = described(None, attributes);
        has(&all, "service.name", "checkout");
        has(&all, "service.version", "9.9.9");
        has(&all, "deployment.environment", "prod eu");
        has(&all, "a,b", "c=d");
        let all = described(Some("named"), attributes);
        has(&all, "service.name", "named");
        has(&described(None, "odd=100%,bytes=%ff"), "odd", "100%");
        has(&described(None, "odd=100%,bytes=%ff"), "bytes", "%ff");
    }
}
