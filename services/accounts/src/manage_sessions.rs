//! The caller: who they are, where they are signed in, and ending one of these sessions; for administrators, all of
//! somebody's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use posthaste::mediator;
use posthaste::message::now;
use posthaste_host::auth::{Admin, Principal, SignedIn};
use posthaste_host::http::{ApiError, ApiPath};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin, actor};
use crate::create_user::OneUser;
use crate::log_out::event;
use crate::read_users::{GetUserById, shown, unknown};
use crate::verify_access::tell_revoked;
use crate::{credentials_repository, sessions_repository};

/// A session, as its user sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    /// Not a token: with this nobody can do anything but end it.
    id: Uuid,
    created_at: DateTime<Utc>,
    last_used_at: DateTime<Utc>,
    user_agent: Option<String>,
    /// The network it was begun from.
    ip: Option<String>,
    /// Whether it is the one of the token that asks.
    current: bool,
}

/// Where a user is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionList {
    sessions: Vec<SessionView>,
}

/// The user whose token it is.
#[utoipa::path(
    get,
    path = "/api/v1/users/me",
    tag = "sessions",
    responses(
        (status = 200, description = "The user", body = OneUser),
        (status = 401, description = "No valid access token"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_me(
    State(accounts): State<Accounts>,
    SignedIn(principal): SignedIn,
) -> Result<Response, ApiError> {
    let user = mediator::send(&accounts, GetUserById(principal.user_id)).await?;
    Ok(shown(user.ok_or_else(unknown)?, "User retrieved successfully"))
}

/// Whose token it is, for processes without the accounts service.
#[utoipa::path(
    get,
    path = "/api/v1/auth/introspect",
    tag = "sessions",
    responses(
        (status = 200, description = "The token is good", body = Principal),
        (status = 401, description = "It is not"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn introspect(SignedIn(principal): SignedIn) -> Json<Principal> {
    Json(principal)
}

/// Where the user is signed in, the session that was used last first.
#[utoipa::path(
    get,
    path = "/api/v1/auth/sessions",
    tag = "sessions",
    responses(
        (status = 200, description = "The sessions", body = SessionList),
        (status = 401, description = "No valid access token"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_sessions(
    State(accounts): State<Accounts>,
    SignedIn(principal): SignedIn,
) -> Result<Json<SessionList>, ApiError> {
    let shown = sessions_repository::list(&accounts.context.store, principal.user_id, now()).await?;
    let sessions = shown.into_iter().map(|session| SessionView {
        current: session.id == principal.session_id,
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        user_agent: session.user_agent,
        ip: session.ip.and_then(|ip| coarse(&ip)),
    });
    Ok(Json(SessionList {
        sessions: sessions.collect(),
    }))
}

/// The network of an address: enough to recognise a place, too little to find a house.
fn coarse(ip: &str) -> Option<String> {
    match ip.parse().ok()? {
        std::net::IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Some(format!("{a}.{b}.{c}.0/24"))
        }
        std::net::IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Some(format!("{a:x}:{b:x}:{c:x}::/48"))
        }
    }
}

/// Ends one of the user's sessions.
#[utoipa::path(
    delete,
    path = "/api/v1/auth/sessions/{session_id}",
    tag = "sessions",
    params(("session_id" = Uuid, Path, description = "The session's id")),
    responses(
        (status = 204, description = "Ended"),
        (status = 401, description = "No valid access token"),
        (status = 404, description = "The user has no such session"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn end_session(
    State(accounts): State<Accounts>,
    SignedIn(principal): SignedIn,
    origin: Origin,
    ApiPath(session_id): ApiPath<Uuid>,
) -> Result<StatusCode, ApiError> {
    let user = principal.user_id;
    let missing = || ApiError::not_found("There is no such session.");
    let tx = accounts.context.store.begin().await?;
    let session = sessions_repository::lock(&tx, session_id).await?;
    if session.is_none_or(|session| session.user_id != user)
        || !sessions_repository::end(&tx, session_id, "ended", now()).await?
    {
        return Err(missing());
    }
    let event = event(
        "user.session_ended",
        user,
        &origin,
        Some(format!("session {session_id}")),
    );
    audit_repository::record(&tx, event).await?;
    tx.commit().await?;
    tell_revoked(
        accounts.context.cache.as_ref(),
        None,
        &[session_id],
        accounts.sessions.lives.access,
    )
    .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all sessions of a user.
#[utoipa::path(
    delete,
    path = "/api/v1/users/{user_id}/sessions",
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 204, description = "None is left"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "There is no such user"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn end_sessions_of(
    State(accounts): State<Accounts>,
    Admin(caller): Admin,
    origin: Origin,
    ApiPath(user_id): ApiPath<Uuid>,
) -> Result<StatusCode, ApiError> {
    let tx = accounts.context.store.begin().await?;
    if !credentials_repository::lock(&tx, user_id).await? {
        return Err(unknown());
    }
    sessions_repository::end_all(&tx, user_id, None, "admin", now()).await?;
    let event = AuditEvent {
        action: "user.sessions_ended",
        actor: actor(&caller),
        user_id: Some(user_id),
        origin,
        detail: None,
    };
    audit_repository::record(&tx, event).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
