//! The one middleware around every route: correlation id, trace, time limit, panics, metrics, log line, headers.
//!
//! One layer instead of one per concern: each layer of the router costs every request an allocation or two.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use posthaste::{correlation, telemetry};
use tower::{Layer, Service};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::catch_panic::{Panicked, catch_panic, quieten_hook};
use super::measure_request::{Active, method_label, record};
use super::problem::ApiError;

/// Asked every few seconds by what watches the process: a line for each good answer says nothing.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];
static CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a handler may take, as an extension of a request or a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimit(pub(super) Duration);

impl RequestLimit {
    pub(super) const DEFAULT: Self = Self(Duration::from_secs(30));
}

/// The layer.
#[derive(Clone, Debug)]
pub(super) struct RequestContext(());

impl RequestContext {
    pub(super) fn new() -> Self {
        quieten_hook();
        Self(())
    }
}

impl<S> Layer<S> for RequestContext {
    type Service = InContext<S>;

    fn layer(&self, inner: S) -> InContext<S> {
        InContext { inner }
    }
}

#[derive(Clone, Debug)]
pub(super) struct InContext<S> {
    inner: S,
}

impl<S> Service<Request> for InContext<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let exchange = Exchange::begin(&request);
        let span = exchange.span(request.headers());
        let correlation = exchange.correlation.clone();
        let traceparent = traceparent(request.headers()).map(str::to_owned);
        let inner = self.inner.call(request);
        let work = correlation::scope(correlation, exchange.run(inner).instrument(span));
        match traceparent {
            Some(traceparent) => Box::pin(correlation::traced(traceparent, work)),
            None => Box::pin(work),
        }
    }
}

/// A valid W3C `traceparent` of four fields of lower-case hex; anything else is as none, and a trace of our own begins.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let fields: Vec<&str> = text.split('-').collect();
    let hex = |field: &str| field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let zero = |field: &str| field.bytes().all(|b| b == b'0');
    let [version, trace, parent, flags] = fields[..] else {
        return None;
    };
    let lengths = [version, trace, parent, flags].map(str::len);
    let valid = lengths == [2, 32, 16, 2] && fields.iter().all(|field| hex(field));
    (valid && version != "ff" && !zero(trace) && !zero(parent)).then_some(text)
}

struct Exchange {
    started: Instant,
    method: &'static str,
    route: Option<MatchedPath>,
    limit: Duration,
    correlation: String,
    correlation_header: HeaderValue,
    request_header: HeaderValue,
}

impl Exchange {
    fn begin(request: &Request) -> Self {
        let started = Instant::now();
        let (correlation, correlation_header) =
            accepted(request.headers(), &CORRELATION_ID).unwrap_or_else(new_correlation);
        let request_header =
            accepted(request.headers(), &REQUEST_ID).map_or_else(|| correlation_header.clone(), |(_, header)| header);
        let extensions = request.extensions();
        Self {
            started,
            method: method_label(request.method()),
            route: extensions.get::<MatchedPath>().cloned(),
            limit: extensions.get::<RequestLimit>().unwrap_or(&RequestLimit::DEFAULT).0,
            correlation,
            correlation_header,
            request_header,
        }
    }

    /// The route's pattern; never the path that a client sent, which may hold anything.
    fn route(&self) -> &str {
        self.route.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    fn span(&self, headers: &HeaderMap) -> Span {
        let span = tracing::info_span!(
            "http",
            otel.kind = "server",
            http.request.method = self.method,
            http.route = self.route(),
            correlation_id = self.correlation,
        );
        if !span.is_disabled()
            && let Some(parent) = traceparent(headers)
        {
            telemetry::continue_trace(&span, parent);
        }
        span
    }

    async fn run<F: Future<Output = Result<Response, Infallible>>>(self, work: F) -> Result<Response, Infallible> {
        let active = Active::begin(self.method);
        let mut panicked = None;
        let mut response = match tokio::time::timeout(self.limit, catch_panic(work)).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(panic)) => {
                panicked = Some(panic);
                ApiError::of(StatusCode::INTERNAL_SERVER_ERROR).into_response()
            }
            Err(_elapsed) => ApiError::unavailable("The request took too long.").into_response(),
        };
        if is_foreign_error(&response) {
            response = as_problem(response);
        }
        let took = self.started.elapsed();
        drop(active);
        record(self.method, self.route(), response.status(), took);
        self.log(response.status(), took, panicked);
        let headers = response.headers_mut();
        secure(headers);
        headers.insert(&CORRELATION_ID, self.correlation_header);
        headers.insert(&REQUEST_ID, self.request_header);
        Ok(response)
    }

    fn log(&self, status: StatusCode, took: Duration, panicked: Option<Panicked>) {
        let (method, route, status, correlation_id) = (self.method, self.route(), status.as_u16(), &*self.correlation);
        let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        if let Some(Panicked { message, place }) = panicked {
            tracing::error!(
                method,
                route,
                status,
                duration_ms,
                correlation_id,
                panic = message,
                place,
                "request panicked"
            );
        } else if status >= 500 {
            tracing::error!(method, route, status, duration_ms, correlation_id, "request");
        } else if PROBES.contains(&route.trim_end_matches('/')) {
            tracing::debug!(method, route, status, duration_ms, correlation_id, "request");
        } else {
            tracing::info!(method, route, status, duration_ms, correlation_id, "request");
        }
    }
}

/// A client's id, if it may be taken over.
fn accepted(headers: &HeaderMap, name: &HeaderName) -> Option<(String, HeaderValue)> {
    let header = headers.get(name)?;
    let id = header.to_str().ok().filter(|id| correlation::acceptable(id))?;
    Some((id.to_owned(), header.clone()))
}

fn new_correlation() -> (String, HeaderValue) {
    let mut text = Uuid::encode_buffer();
    let id: &str = Uuid::now_v7().hyphenated().encode_lower(&mut text);
    // A UUID's text is always a valid header.
    let header = HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("none"));
    (id.to_owned(), header)
}

/// Whether an error answer comes from a library (plain text or nothing) and not from us. A 503 in plain text is the
/// verbose readiness page.
fn is_foreign_error(response: &Response) -> bool {
    let status = response.status();
    (status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR)
        && response
            .headers()
            .get(CONTENT_TYPE)
            .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

fn as_problem(foreign: Response) -> Response {
    let mut response = ApiError::of(foreign.status()).into_response();
    for (name, value) in foreign.headers() {
        if ![CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

/// The headers that every answer has; a page keeps the policy and caching that it set for itself.
pub(super) fn secure(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_over_only_if_it_is_valid() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let taken = |text: String| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("traceparent"), text.parse().unwrap())]);
            traceparent(&headers).is_some()
        };
        assert!(taken(format!("00-{trace}-{parent}-01")));
        for (version, trace, parent, flags) in [
            ("ff", trace, parent, "01"),
            ("00", "00000000000000000000000000000000", parent, "01"),
            ("00", trace, "0000000000000000", "01"),
            ("00", trace, &parent.to_uppercase(), "01"),
            ("00", trace, parent, "1"),
            ("00", trace, parent, "01-more"),
        ] {
            let text = format!("{version}-{trace}-{parent}-{flags}");
            assert!(!taken(text.clone()), "{text}");
        }
    }
}
