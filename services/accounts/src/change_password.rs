//! `PUT /api/v1/auth/password`: a user gives themselves a new password; everybody else who is signed in as them is not
//! any more.

use axum::extract::State;
use axum::http::StatusCode;
use posthaste::message::now;
use posthaste::{Message, outbox};
use posthaste_host::auth::SignedIn;
use posthaste_host::http::{ApiError, ApiJson, FieldError, Validate};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::Accounts;
use crate::audit_repository::{self, Origin};
use crate::email_address::EmailAddress;
use crate::log_out::event;
use crate::mail_user::{MailRequested, Occasion};
use crate::password::Password;
use crate::{credentials_repository, sessions_repository};

/// The old password and the new one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordChange {
    #[schema(value_type = String, format = Password, max_length = 256)]
    current_password: Password,
    /// 15–256 characters of any kind; not a common one, and not the address.
    #[schema(value_type = String, format = Password, min_length = 15, max_length = 256)]
    new_password: Password,
}

impl Validate for PasswordChange {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.current_password.is_too_long() {
            errors.push(FieldError::new(
                "/current_password",
                "too_long",
                "must have at most 256 characters",
            ));
        }
        check_new(&self.new_password, None, errors);
    }
}

/// Adds the rule that `password` breaks to `errors`.
pub(crate) fn check_new(password: &Password, email: Option<&EmailAddress>, errors: &mut Vec<FieldError>) {
    if let Err(weak) = password.check(email) {
        errors.push(FieldError::new("/new_password", weak.kind, weak.msg));
    }
}

/// 422 where `password` is none for the account `email`.
pub(crate) fn require_new(password: &Password, email: &str) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    check_new(password, EmailAddress::parse(email).ok().as_ref(), &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, errors))
    }
}

/// Changes the caller's password and ends all other sessions.
#[utoipa::path(
    put,
    path = "/api/v1/auth/password",
    tag = "sessions",
    request_body = PasswordChange,
    responses(
        (status = 204, description = "Changed"),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "No valid access token, or not the current password"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The new password is not taken"),
        (status = 429, description = "Too many wrong passwords for this account"),
        (status = 503, description = "The database is away, or too many passwords are being checked"),
    )
)]
pub(crate) async fn change_password(
    State(accounts): State<Accounts>,
    SignedIn(principal): SignedIn,
    origin: Origin,
    ApiJson(change): ApiJson<PasswordChange>,
) -> Result<StatusCode, ApiError> {
    let (store, limiter) = (&accounts.context.store, &accounts.sessions.limiter);
    let wrong = || ApiError::of(StatusCode::UNAUTHORIZED).detail("The current password is wrong.");
    let user = credentials_repository::by_id(store, principal.user_id)
        .await?
        .ok_or_else(wrong)?;
    require_new(&change.new_password, &user.email)?;
    let email = EmailAddress::parse(&user.email).map_err(|_rule| wrong())?;
    // A stolen access token must not be a way around the limit on guesses, nor strangers' guesses shut the owner out.
    limiter.try_session(principal.session_id).await?;
    let checked = user.password_hash.unwrap_or_default();
    let current = (!checked.is_empty()).then(|| checked.clone());
    let hashing = &accounts.hashing;
    let hashed = match hashing.verify(change.current_password, current).await {
        Ok(verified) if verified.right => hashing.hash(change.new_password).await,
        Ok(_wrong) => return Err(wrong()),
        Err(busy) => Err(busy),
    };
    let hash = match hashed {
        Ok(hash) => hash,
        Err(busy) => {
            limiter.pardon_session(principal.session_id).await;
            return Err(busy.into());
        }
    };
    let at = now();
    let mut tx = store.begin().await?;
    if !credentials_repository::set_password(&tx, user.user_id, Some(&checked), &hash).await? {
        return Err(wrong());
    }
    credentials_repository::void_resets(&tx, user.user_id).await?;
    sessions_repository::end_all(&tx, user.user_id, Some(principal.session_id), "password", at).await?;
    audit_repository::record(&tx, event("user.password_changed", user.user_id, &origin, None)).await?;
    let notice = Message::of(&MailRequested::to(user.user_id, Occasion::PasswordChanged))?;
    outbox::append(&mut tx, accounts.context.name, notice).await?;
    tx.commit().await?;
    limiter.forget_session(principal.session_id).await;
    limiter.forget(&email).await;
    Ok(StatusCode::NO_CONTENT)
}
