//! Requests that come between a database and its tables.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::health::Health;
use crate::http::ApiError;

/// A statement that fails while a schema is incomplete most likely misses a table: the client is told to come again.
///
/// Requests that need no table are answered all the while.
pub(crate) async fn ask_to_come_again(State(health): State<Health>, request: Request, next: Next) -> Response {
    let incomplete = !health.is_migrated();
    let response = next.run(request).await;
    if incomplete && response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        return ApiError::unavailable("The database is not ready yet.").into_response();
    }
    response
}
