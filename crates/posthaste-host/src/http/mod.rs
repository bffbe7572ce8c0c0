//! The HTTP half of the host: one listener, one middleware, extractors and error answers.
//!
//! A service writes handlers with [`ApiJson`], [`ApiPath`] and [`ApiQuery`], answers [`ApiError`] and,
//! where a repeat must not act twice, wraps its work in [`idempotent`]. The rest happens here.

mod app;
mod body;
mod catch_panic;
mod check_host;
mod client_address;
mod describe_api;
mod explain_decode;
mod form;
mod guard_connection;
mod idempotency;
mod measure_request;
mod pages;
mod problem;
mod query;
mod read_body;
mod request_context;
mod serve;
mod share_connections;
mod strict_json;
mod validate;

pub use app::app;
pub(crate) use app::bare_app;
pub use body::{ApiJson, ApiJsonRaw};
pub(crate) use check_host::{OwnNames, check_host};
pub use client_address::{ClientAddress, TrustedProxies};
pub use form::ApiForm;
pub use idempotency::{IdempotencyKey, idempotent};
pub use measure_request::{ACTIVE_REQUESTS, REQUEST_DURATION};
pub use problem::ApiError;
pub use query::{ApiPath, ApiQuery};
pub use read_body::BodyLimit;
pub(crate) use serve::serve_for;
pub use serve::{Limits, serve, serve_with};
pub use validate::{FieldError, Validate};
