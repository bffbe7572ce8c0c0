//! Where a new user is: `Location` of the answers that made one, repeated ones too.

use axum::body::{Body, to_bytes};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use posthaste_host::http::ApiError;
use serde_json::Value;

/// `response` with the location under `path` of the user whose id its body has at `pointer`; as it is where it has none.
/// A replayed answer has the id that was given then.
///
/// # Errors
/// When the body, which is one of ours, cannot be read.
pub(crate) async fn locate_user(response: Response, path: &str, pointer: &str) -> Result<Response, ApiError> {
    let (mut parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.map_err(|error| {
        tracing::error!(%error, "an answer could not be read");
        ApiError::of(StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    let value: Value = serde_json::from_slice(&bytes)?;
    if let Some(Value::String(id)) = value.pointer(pointer)
        && let Ok(location) = HeaderValue::from_str(&format!("{path}{id}"))
    {
        parts.headers.insert(LOCATION, location);
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}
