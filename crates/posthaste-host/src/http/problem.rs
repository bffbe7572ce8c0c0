//! Error answers: `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use posthaste::{StoreError, correlation, failure};
use serde::Serialize;

use super::validate::FieldError;
use crate::redis_cache::Limit;

/// When a client may try again while something of ours is away.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Where the fields of a validation error are; the first part of `loc`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Place {
    #[default]
    Body,
    Query,
    Path,
    Header,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Query => "query",
            Self::Path => "path",
            Self::Header => "header",
        }
    }
}

/// What a handler or extractor answers instead of its result. It never carries the text of a library or database:
/// that is logged where the error is turned into this one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.status, .0.title)]
pub struct ApiError(Box<Problem>);

#[derive(Debug)]
struct Problem {
    status: StatusCode,
    title: Cow<'static, str>,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    place: Place,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Cause,
}

/// Which state of the database an answer comes from, where that is the cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cause {
    #[default]
    Other,
    Away,
    Collision,
}

impl ApiError {
    /// An answer with `status` and a short `title` that is the same each time.
    pub fn new(status: StatusCode, title: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Problem {
            status,
            title: title.into(),
            detail: None,
            errors: Vec::new(),
            place: Place::Body,
            headers: Vec::new(),
            cause: Cause::Other,
        }))
    }

    /// An answer with `status` and its usual phrase as title.
    pub fn of(status: StatusCode) -> Self {
        Self::new(status, status.canonical_reason().unwrap_or("Error"))
    }

    /// 404 for a thing that does not exist; `detail` names it.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(StatusCode::NOT_FOUND).detail(detail)
    }

    /// 503 with `Retry-After`: something this service needs is away.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE)
            .detail(detail)
            .retry_after(TRY_AGAIN)
    }

    /// 429 with `Retry-After` and `RateLimit` headers: it has happened more often than `limit` allows, and may
    /// happen again after `wait`.
    pub fn too_many(limit: Limit, wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil().max(1.0);
        let mut error = Self::of(StatusCode::TOO_MANY_REQUESTS)
            .detail("This happens too often.")
            .retry_after(Duration::from_secs_f64(seconds));
        let policy = format!("\"default\";q={};w={}", limit.most, limit.window.as_secs());
        let left = format!("\"default\";r=0;t={seconds}");
        for (name, text) in [("ratelimit-policy", policy), ("ratelimit", left)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                error = error.header(HeaderName::from_static(name), value);
            }
        }
        error
    }

    /// The fields of a request that are not as they should be.
    pub fn validation(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let mut error = Self::new(status, "Invalid request");
        error.0.detail = Some(match errors.as_slice() {
            [one] if one.pointer.is_empty() => format!("The request {}.", one.msg).into(),
            [one] => format!("{} {}.", one.pointer.trim_start_matches('/'), one.msg).into(),
            many => format!("{} fields are not valid.", many.len()).into(),
        });
        error.0.errors = errors;
        error
    }

    /// What happened this time, for a person.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds `Retry-After`, in full seconds and at least one.
    pub fn retry_after(self, after: Duration) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)))
    }

    /// Adds a header, e.g. `WWW-Authenticate` on a 401.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub(super) fn place(mut self, place: Place) -> Self {
        self.0.place = place;
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Whether it was made of a [`StoreError`] that says the database is away.
    pub fn is_database_away(&self) -> bool {
        self.0.cause == Cause::Away
    }

    /// Whether it was made of a [`StoreError`] of a transaction that may be tried again as a whole.
    pub fn is_collision(&self) -> bool {
        self.0.cause == Cause::Collision
    }

    fn because_of(mut self, cause: Cause) -> Self {
        self.0.cause = cause;
        self
    }
}

/// A value of the service's own that cannot be written as JSON: nothing the client could change.
impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "a value cannot be written as JSON");
        Self::of(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let chain = failure::chain(&error);
        match error {
            _ if error.is_unavailable() => {
                tracing::warn!(error = chain, "the database is away");
                Self::unavailable("The database is not available.").because_of(Cause::Away)
            }
            StoreError::Environment(_) => {
                tracing::error!(error = chain, "the database has to be mended");
                Self::unavailable("The database is not available.").because_of(Cause::Away)
            }
            StoreError::Collision(_) => {
                tracing::warn!(error = chain, "a transaction collided");
                Self::unavailable("Another request changed the same data at the same time.")
                    .because_of(Cause::Collision)
            }
            StoreError::Duplicate(_) => {
                tracing::info!(error = chain, "a row exists already");
                Self::of(StatusCode::CONFLICT).detail("This exists already.")
            }
            _ => {
                tracing::error!(error = chain, "a statement failed");
                Self::of(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<WireField<'a>>,
}

#[derive(Serialize)]
struct WireField<'a> {
    pointer: String,
    loc: Vec<Cow<'a, str>>,
    msg: &'a str,
    r#type: &'a str,
}

impl<'a> WireField<'a> {
    fn of(place: Place, field: &'a FieldError) -> Self {
        let parts = field.pointer.split('/').skip(1);
        let loc = std::iter::once(Cow::Borrowed(place.name()))
            .chain(parts.map(|part| part.replace("~1", "/").replace("~0", "~").into()))
            .collect();
        Self {
            pointer: format!("#{}", field.pointer),
            loc,
            msg: &field.msg,
            r#type: field.kind,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = *self.0;
        let wire = Wire {
            r#type: "about:blank",
            title: &problem.title,
            status: problem.status.as_u16(),
            detail: problem.detail.as_deref(),
            correlation_id: correlation::current(),
            errors: problem
                .errors
                .iter()
                .map(|field| WireField::of(problem.place, field))
                .collect(),
        };
        // Texts and numbers only: this cannot fail, and an empty body would still have the right status.
        let body = serde_json::to_vec(&wire).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = problem.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in problem.headers {
            headers.append(name, value);
        }
        response
    }
}
