//! The guard in front of routes, and whom it lets in.

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRef, FromRequestParts};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use uuid::Uuid;

use super::api_key::KeyHolder;
use super::read_bearer::{Bearer, read_bearer};
use super::{Principal, Refusal, Role, Verifier};
use crate::config::Auth;
use crate::http::ApiError;

/// Stands in front of routes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    auth: Auth,
    verifier: OnceLock<Verifier>,
}

impl Guard {
    /// A guard that knows no tokens yet.
    pub(crate) fn new(auth: Auth) -> Self {
        Self(Arc::new(Inner {
            auth,
            verifier: OnceLock::new(),
        }))
    }

    /// From now on `verifier` says which tokens are good; the first one stays.
    pub(crate) fn learn(&self, verifier: Verifier) {
        self.0.verifier.get_or_init(|| verifier);
    }

    /// Whether tokens will come that it could not tell good from bad.
    pub(crate) fn needs_verifier(&self) -> bool {
        self.0.auth == Auth::Enforced && self.0.verifier.get().is_none()
    }

    /// Whether everybody may do what administrators may.
    pub fn is_open(&self) -> bool {
        self.0.auth == Auth::Open
    }

    async fn visitor(&self, headers: &HeaderMap) -> Result<Option<Principal>, ApiError> {
        let token = match read_bearer(headers) {
            Bearer::Absent => return Ok(None),
            Bearer::NoToken => return Err(unauthorized("Bearer")),
            Bearer::Unreadable => return Err(unauthorized(INVALID_TOKEN)),
            Bearer::Token(token) => token,
        };
        let verified = match self.0.verifier.get() {
            Some(verifier) => verifier.verify(token).await,
            None => Err(Refusal::Unavailable),
        };
        verified.map(Some).map_err(refused)
    }

    async fn signed_in(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        self.visitor(headers).await?.ok_or_else(|| unauthorized("Bearer"))
    }

    /// Whose request it is; the gate has asked already unless the route is open or stands alone.
    pub(super) async fn caller(&self, parts: &Parts) -> Result<Caller, ApiError> {
        if let Some(known) = parts.extensions.get::<Caller>() {
            return Ok(known.clone());
        }
        if self.is_open() {
            return Ok(Caller::Anybody);
        }
        self.signed_in(&parts.headers).await.map(Caller::User)
    }
}

const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";

fn unauthorized(challenge: &'static str) -> ApiError {
    ApiError::of(StatusCode::UNAUTHORIZED)
        .detail("This needs a valid access token.")
        .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

pub(super) fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Invalid => unauthorized(INVALID_TOKEN),
        Refusal::Unavailable => ApiError::unavailable("Tokens cannot be checked now."),
    }
}

pub(super) fn forbidden(detail: &'static str) -> ApiError {
    let challenge = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
    ApiError::of(StatusCode::FORBIDDEN)
        .detail(detail)
        .header(WWW_AUTHENTICATE, challenge)
}

/// Who calls: anybody where the guard is open, else the user whose token came along (401 without).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches the listener; may do what an administrator may.
    Anybody,
    /// A user.
    User(Principal),
    /// A program with an API key whose scopes cover the route; there it may do what an administrator may.
    Key(Arc<KeyHolder>),
}

impl Caller {
    /// Whether it may do everything at this route.
    pub fn is_admin(&self) -> bool {
        match self {
            Self::Anybody | Self::Key(_) => true,
            Self::User(principal) => principal.role == Role::Admin,
        }
    }

    /// The user, where there is one.
    pub fn user_id(&self) -> Option<Uuid> {
        match self {
            Self::Anybody | Self::Key(_) => None,
            Self::User(principal) => Some(principal.user_id),
        }
    }

    /// Whether it may see and change what belongs to `owner`. Where it may not, the right answer is the 404 of
    /// something that does not exist.
    pub fn may_see(&self, owner: Uuid) -> bool {
        self.is_admin() || self.user_id() == Some(owner)
    }

    /// The user to whose rows it is confined; `None` for those who may reach everybody's.
    pub fn confined_to(&self) -> Option<Uuid> {
        if self.is_admin() { None } else { self.user_id() }
    }

    /// Whether it may send or read what is `owner`'s, as a contract names users.
    ///
    /// # Errors
    /// 403 for a person and the rows of another one.
    pub fn check_owner(&self, owner: &str) -> Result<(), ApiError> {
        match self.confined_to() {
            Some(user_id) if user_id.to_string() != owner => {
                Err(forbidden("A user sends and reads only what is their own."))
            }
            _ => Ok(()),
        }
    }

    /// `scope` of an idempotency key, for this caller alone: nobody's keys are another one's.
    pub fn key_scope(&self, scope: &str) -> String {
        match self {
            Self::Anybody => scope.to_owned(),
            Self::User(principal) => format!("{scope} {}", principal.user_id),
            Self::Key(holder) => format!("{scope} {}", holder.id),
        }
    }
}

/// An administrator, or anybody where the guard is open; 403 for other users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin(pub Caller);

/// A user; 401 without a token even where the guard is open, for routes that are about the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn(pub Principal);

/// Whoever calls, token or not, for routes that say less to strangers; a bad token is a 401 all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor(pub Option<Caller>);

impl<S: Sync> FromRequestParts<S> for Caller
where
    Guard: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Guard::from_ref(state).caller(parts).await
    }
}

impl<S: Sync> FromRequestParts<S> for Admin
where
    Guard: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Guard::from_ref(state).caller(parts).await?;
        if caller.is_admin() {
            return Ok(Self(caller));
        }
        Err(forbidden("This is for administrators."))
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn
where
    Guard: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Caller>() {
            Some(Caller::User(known)) => return Ok(Self(known.clone())),
            Some(Caller::Key(_)) => return Err(forbidden("This is about a user; an API key is none.")),
            Some(Caller::Anybody) | None => {}
        }
        Guard::from_ref(state).signed_in(&parts.headers).await.map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor
where
    Guard: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let guard = Guard::from_ref(state);
        if let Some(known) = parts.extensions.get::<Caller>() {
            return Ok(Self(Some(known.clone())));
        }
        if guard.is_open() {
            return Ok(Self(Some(Caller::Anybody)));
        }
        let visitor = guard.visitor(&parts.headers).await?;
        Ok(Self(visitor.map(Caller::User)))
    }
}
