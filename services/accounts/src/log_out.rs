//! Signing out: here (`POST /api/v1/auth/logout`) and everywhere (`POST /api/v1/auth/logout-all`).

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use posthaste::message::now;
use posthaste_host::auth::SignedIn;
use posthaste_host::http::ApiError;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin};
use crate::secret_token::hash_of;
use crate::verify_access::{remember_until, tell_revoked};
use crate::{credentials_repository, sessions_repository};

/// Ends the session of the access token and that of the cookie; either will do, and neither is no error.
#[utoipa::path(
    post,
    path = "/api/v1/auth/logout",
    tag = "sessions",
    security((), ("bearer" = []), ("password" = [])),
    params(("X-Requested-With" = Option<String>, Header, description = "Anything; for clients that are no browsers")),
    responses(
        (status = 204, description = "Signed out, now or before"),
        (status = 403, description = "The request comes from another site"),
        (status = 415, description = "The body is no JSON"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn log_out(
    State(accounts): State<Accounts>,
    origin: Origin,
    headers: HeaderMap,
    caller: Result<SignedIn, ApiError>,
) -> Result<Response, ApiError> {
    let cookie = &accounts.sessions.cookie;
    cookie.check_site(&headers)?;
    let principal = match caller {
        Ok(SignedIn(principal)) => Some(principal),
        Err(error) if error.status().is_server_error() => return Err(error),
        // Expired, revoked or none: nothing of it is left to end.
        Err(_) => None,
    };
    let token = cookie.read(&headers);
    if principal.is_none() && token.is_none() {
        return Ok(accounts.sessions.farewell());
    }
    let at = now();
    let tx = accounts.context.store.begin().await?;
    let mut found: Vec<(Uuid, Uuid)> = Vec::new();
    if let Some(token) = token
        && let Some((session, _)) = sessions_repository::lock_by_token(&tx, &hash_of(&token)).await?
    {
        found.push((session.id, session.user_id));
    }
    if let Some(principal) = &principal {
        let until = remember_until(principal.expires_at);
        sessions_repository::revoke_token(&tx, principal.token_id, until).await?;
        found.push((principal.session_id, principal.user_id));
        found.dedup();
    }
    for (session, user) in &found {
        if sessions_repository::end(&tx, *session, "logout", at).await? {
            let event = event("user.logout", *user, &origin, Some(format!("session {session}")));
            audit_repository::record(&tx, event).await?;
        }
    }
    tx.commit().await?;
    let token = principal.map(|principal| (principal.token_id, principal.expires_at));
    let ended: Vec<Uuid> = found.iter().map(|(session, _)| *session).collect();
    let access = accounts.sessions.lives.access;
    tell_revoked(accounts.context.cache.as_ref(), token, &ended, access).await;
    Ok(accounts.sessions.farewell())
}

/// Ends all sessions of the user.
#[utoipa::path(
    post,
    path = "/api/v1/auth/logout-all",
    tag = "sessions",
    responses(
        (status = 204, description = "Signed out everywhere"),
        (status = 401, description = "No valid access token"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn log_out_everywhere(
    State(accounts): State<Accounts>,
    SignedIn(principal): SignedIn,
    origin: Origin,
) -> Result<Response, ApiError> {
    let (user, at) = (principal.user_id, now());
    let tx = accounts.context.store.begin().await?;
    credentials_repository::lock(&tx, user).await?;
    sessions_repository::end_all(&tx, user, None, "logout_all", at).await?;
    audit_repository::record(&tx, event("user.logout_all", user, &origin, None)).await?;
    tx.commit().await?;
    let access = accounts.sessions.lives.access;
    tell_revoked(accounts.context.cache.as_ref(), None, &[principal.session_id], access).await;
    Ok(accounts.sessions.farewell())
}

/// What a user did themselves.
pub(crate) fn event(action: &'static str, user: Uuid, origin: &Origin, detail: Option<String>) -> AuditEvent {
    AuditEvent {
        action,
        actor: Some(user.to_string()),
        user_id: Some(user),
        origin: origin.clone(),
        detail,
    }
}
