//! Whether a caller may still do what it asks for: its token was looked at before its body, which may take its time.

use axum::http::StatusCode;
use posthaste::Tx;
use posthaste_host::auth::{Caller, Role};
use posthaste_host::http::ApiError;

use crate::credentials_repository;
use crate::user::{ADMIN, USER};

/// Locks the caller until `tx` ends: whoever disables it comes before or after.
///
/// # Errors
/// 401 when it was disabled, deleted or given another role meanwhile.
pub(crate) async fn check_caller(tx: &Tx, caller: &Caller) -> Result<(), ApiError> {
    let Caller::User(principal) = caller else {
        return Ok(());
    };
    let role = if principal.role == Role::Admin { ADMIN } else { USER };
    if credentials_repository::still(tx, principal.user_id, role).await? {
        return Ok(());
    }
    Err(ApiError::of(StatusCode::UNAUTHORIZED).detail("This needs a valid access token."))
}
