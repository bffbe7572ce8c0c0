//! `POST /api/v1/auth/login`: whoever cannot sign in learns nothing but that, in the same time for each cause.

use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use posthaste::message::now;
use posthaste::{Message, outbox};
use posthaste_host::http::{ApiError, ApiForm, ApiJson, ClientAddress, FieldError, Validate};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin};
use crate::credentials_repository::{self, Credentials};
use crate::email_address::EmailAddress;
use crate::limit_attempts::{FAILED_LOGINS, LOGINS};
use crate::mail_user::{MailRequested, Occasion};
use crate::password::Password;
use crate::secret_token::SecretToken;
use crate::sessions_repository;

/// Who wants to sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    #[schema(value_type = String, example = "ann@example.com", max_length = 254)]
    email: String,
    #[schema(value_type = String, format = Password, max_length = 256)]
    password: Password,
}

impl Validate for Login {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check(&self.password, errors);
    }
}

/// The same as the form of an OAuth 2 password grant.
#[derive(Deserialize, ToSchema)]
pub(crate) struct PasswordGrant {
    /// The address.
    #[schema(example = "ann@example.com", max_length = 254)]
    username: String,
    #[schema(value_type = String, format = Password, max_length = 256)]
    password: Password,
    /// `password`, or left out.
    #[schema(example = "password")]
    grant_type: Option<String>,
}

impl Validate for PasswordGrant {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check(&self.password, errors);
        if self.grant_type.as_ref().is_some_and(|grant| grant != "password") {
            errors.push(FieldError::new("/grant_type", "enum", "must be password"));
        }
    }
}

fn check(password: &Password, errors: &mut Vec<FieldError>) {
    if password.is_too_long() {
        errors.push(FieldError::new(
            "/password",
            "too_long",
            "must have at most 256 characters",
        ));
    }
}

impl FromRequest<Accounts> for Login {
    type Rejection = ApiError;

    async fn from_request(request: HttpRequest, accounts: &Accounts) -> Result<Self, ApiError> {
        let kind = request
            .headers()
            .get(CONTENT_TYPE)
            .map(|kind| kind.to_str().unwrap_or_default());
        if !kind.is_some_and(|kind| kind.trim_start().starts_with("application/x-www-form-urlencoded")) {
            let ApiJson(login) = ApiJson::<Self>::from_request(request, accounts).await?;
            return Ok(login);
        }
        let ApiForm(grant) = ApiForm::<PasswordGrant>::from_request(request, accounts).await?;
        Ok(Self {
            email: grant.username,
            password: grant.password,
        })
    }
}

/// Signs a user in: an access token in the body, a refresh token in a cookie.
#[utoipa::path(
    post,
    path = "/api/v1/auth/login",
    tag = "sessions",
    security(()),
    request_body(
        content((Login = "application/json"), (PasswordGrant = "application/x-www-form-urlencoded")),
        description = "JSON, or the form of an OAuth 2 password grant with `username` in the place of `email`"
    ),
    responses(
        (status = 200, description = "Signed in", body = crate::sessions::AccessToken),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "Unknown address, wrong password, address not confirmed or user disabled"),
        (status = 403, description = "The request comes from a page of another site"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is neither JSON nor a form"),
        (status = 422, description = "A member is missing, too long or unknown"),
        (status = 429, description = "Too many attempts for this account or from this address"),
        (status = 503, description = "The database is away, or too many passwords are being checked"),
    )
)]
pub(crate) async fn log_in(
    State(accounts): State<Accounts>,
    client: ClientAddress,
    origin: Origin,
    headers: axum::http::HeaderMap,
    login: Login,
) -> Result<Response, ApiError> {
    let limiter = &accounts.sessions.limiter;
    accounts.sessions.cookie.check_login(&headers)?;
    limiter.count(LOGINS, client).await?;
    limiter.check(FAILED_LOGINS, client).await?;
    // What is no address is nobody's; it has a bucket of its own all the same.
    let email = EmailAddress::parse(&login.email).unwrap_or_else(|_rule| EmailAddress::nobody());
    let last = limiter.try_account(&email).await?;
    let known = credentials_repository::by_email(&accounts.context.store, &email).await?;
    let hash = known.as_ref().and_then(|user| user.password_hash.clone());
    let verified = match accounts.hashing.verify(login.password.clone(), hash).await {
        Ok(verified) => verified,
        Err(busy) => {
            // Nobody has looked at the password: it was no failure.
            limiter.pardon(&email).await;
            return Err(busy.into());
        }
    };
    let user = known.as_ref().map(|user| user.user_id);
    let signed_in = match known {
        Some(user) if verified.right && user.is_active && user.is_verified => {
            let stronger = match verified.outdated {
                true => stronger(&accounts, login.password).await,
                false => None,
            };
            match begin_session(&accounts, user, stronger, &origin).await {
                Ok(signed_in) => signed_in,
                Err(error) => {
                    // The password was right.
                    limiter.pardon(&email).await;
                    return Err(error);
                }
            }
        }
        Some(_) | None => None,
    };
    match signed_in {
        Some(answer) => {
            limiter.forget(&email).await;
            Ok(answer)
        }
        None => {
            limiter.note(FAILED_LOGINS, client).await?;
            let warns = last && limiter.may_warn(&email).await?;
            note_failure(&accounts, user, last, warns, origin).await?;
            Err(ApiError::of(StatusCode::UNAUTHORIZED).detail("The address or the password is wrong."))
        }
    }
}

/// A new hash of a `password` that was right; where there is no turn for it the old one does until the next time.
async fn stronger(accounts: &Accounts, password: Password) -> Option<String> {
    match accounts.hashing.hash(password).await {
        Ok(hash) => Some(hash),
        Err(error) => {
            tracing::info!(%error, "an outdated hash was kept");
            None
        }
    }
}

/// `None` where the user has changed since the password was checked.
async fn begin_session(
    accounts: &Accounts,
    user: Credentials,
    stronger: Option<String>,
    origin: &Origin,
) -> Result<Option<Response>, ApiError> {
    accounts.sessions.keys.check().await?;
    let (at, refresh) = (now(), SecretToken::new().map_err(no_randomness)?);
    let session = accounts.sessions.new_session(user.user_id, at);
    let checked = user.password_hash.unwrap_or_default();
    let tx = accounts.context.store.begin().await?;
    if !credentials_repository::sign_in(&tx, user.user_id, &checked, stronger, at).await? {
        return Ok(None);
    }
    sessions_repository::begin(&tx, &session, &refresh.hash(), origin).await?;
    let event = AuditEvent {
        action: "user.login",
        actor: Some(user.user_id.to_string()),
        user_id: Some(user.user_id),
        origin: origin.clone(),
        detail: Some(format!("session {}", session.id)),
    };
    audit_repository::record(&tx, event).await?;
    tx.commit().await?;
    accounts.sessions.answer(&session, refresh.reveal(), at).await.map(Some)
}

/// `last`: the account has to wait now; `warns`: its owner, if it has one, is told.
async fn note_failure(
    accounts: &Accounts,
    user: Option<uuid::Uuid>,
    last: bool,
    warns: bool,
    origin: Origin,
) -> Result<(), ApiError> {
    let event = |action| AuditEvent {
        action,
        actor: Some("anonymous".to_owned()),
        user_id: user,
        origin: origin.clone(),
        detail: None,
    };
    let mut tx = accounts.context.store.begin().await?;
    audit_repository::record(&tx, event("user.login_failed")).await?;
    if last {
        audit_repository::record(&tx, event("user.login_locked")).await?;
    }
    if warns {
        // Also for nobody: it takes as long, and nothing comes of it.
        let owner = user.unwrap_or_else(uuid::Uuid::now_v7);
        let mail = Message::of(&MailRequested::to(owner, Occasion::SignInLocked))?;
        outbox::append(&mut tx, accounts.context.name, mail).await?;
    }
    Ok(tx.commit().await?)
}

pub(crate) fn no_randomness(error: crate::secret_token::NoRandomness) -> ApiError {
    tracing::error!(%error, "no token was made");
    ApiError::of(StatusCode::INTERNAL_SERVER_ERROR)
}
