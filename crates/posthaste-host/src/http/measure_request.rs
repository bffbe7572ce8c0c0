//! HTTP metrics (OpenTelemetry semantic conventions v1.44).

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{Gauge, Histogram};

/// Histogram, s: from a request's head to its answer's by `http_request_method`, `http_route`,
/// `http_response_status_code` and `url_scheme`.
pub const REQUEST_DURATION: &str = "http_server_request_duration_seconds";
/// Gauge: requests at work by `http_request_method` and `url_scheme`.
pub const ACTIVE_REQUESTS: &str = "http_server_active_requests";

/// A method's label: one of a fixed set, whatever clients send.
pub(super) fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("_OTHER")
}

type ByStatus = HashMap<(&'static str, StatusCode), Histogram>;

/// Handles by route: looking one up costs less than building its labels. The routes are those of the router and
/// `unmatched`, so the map is bounded. A handle made before a recorder is installed would record nothing for ever:
/// install it before serving.
static DURATIONS: LazyLock<RwLock<HashMap<String, ByStatus>>> = LazyLock::new(RwLock::default);
static ACTIVE: LazyLock<RwLock<HashMap<&'static str, Gauge>>> = LazyLock::new(RwLock::default);

/// Records one answered request.
pub(super) fn record(method: &'static str, route: &str, status: StatusCode, took: Duration) {
    let known = DURATIONS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(histogram) = known.get(route).and_then(|by_status| by_status.get(&(method, status))) {
        histogram.record(took);
        return;
    }
    drop(known);
    let histogram = metrics::histogram!(REQUEST_DURATION,
        "http_request_method" => method,
        "http_route" => route.to_owned(),
        "http_response_status_code" => status.as_str().to_owned(),
        "url_scheme" => "http");
    histogram.record(took);
    let mut known = DURATIONS.write().unwrap_or_else(PoisonError::into_inner);
    known
        .entry(route.to_owned())
        .or_default()
        .insert((method, status), histogram);
}

/// A request at work; ends when dropped, also when its client goes away.
pub(super) struct Active(Gauge);

impl Active {
    pub(super) fn begin(method: &'static str) -> Self {
        let known = ACTIVE
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(method)
            .cloned();
        let gauge = known.unwrap_or_else(|| {
            let gauge = metrics::gauge!(ACTIVE_REQUESTS, "http_request_method" => method, "url_scheme" => "http");
            ACTIVE
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(method, gauge.clone());
            gauge
        });
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
