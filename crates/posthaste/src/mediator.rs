//! Commands and queries through one instrumented door: span, duration, errors by type.

use std::fmt;
use std::future::Future;
use std::time::Instant;

use tracing::Instrument;

use crate::telemetry::metric;

/// A request to one handler: a command that changes something or a query that does not.
pub trait Request: Send {
    /// Its name in spans and metrics, for example `SendMessage`.
    const NAME: &'static str;
    /// What the handler answers.
    type Answer: Send;
    /// What it refuses with; its `Display` is a short, stable kind for metrics, without data.
    type Error: fmt::Display + Send;
}

/// Handles requests of one type.
pub trait Answer<R: Request>: Sync {
    /// Does what `request` says.
    fn answer(&self, request: R) -> impl Future<Output = Result<R::Answer, R::Error>> + Send;
}

/// Sends `request` to `handler` inside a span, measured.
///
/// # Errors
/// What the handler refuses with.
pub async fn send<R: Request, H: Answer<R>>(handler: &H, request: R) -> Result<R::Answer, R::Error> {
    let started = Instant::now();
    let span = tracing::info_span!("request", otel.name = R::NAME, error.type = tracing::field::Empty);
    let result = handler.answer(request).instrument(span.clone()).await;
    let kind = match &result {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    if !kind.is_empty() {
        span.record("error.type", kind.as_str());
    }
    metrics::histogram!(metric::MEDIATOR, "posthaste_request" => R::NAME, "error_type" => kind)
        .record(started.elapsed());
    result
}
