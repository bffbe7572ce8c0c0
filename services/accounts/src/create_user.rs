//! `POST /api/v1/users`: a user made by hand, without a password; its owner sets one with a password reset.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use contracts::{UserCreated, check_text};
use posthaste::idempotency::StoredResponse;
use posthaste::mediator::{self, Answer, Request};
use posthaste::{Message, outbox};
use posthaste_host::auth::{Admin, Caller};
use posthaste_host::http::{ApiError, ApiJsonRaw, FieldError, IdempotencyKey, Validate, idempotent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin, actor};
use crate::check_caller::check_caller;
use crate::email_address::EmailAddress;
use crate::locate_user::locate_user;
use crate::user::{UserView, check_email, check_name, trimmed};
use crate::users_repository::{self, NewUser};

const SCOPE: &str = "accounts POST /api/v1/users";

/// A user to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserToCreate {
    /// The address; the domain may be an international one.
    #[schema(max_length = 254, example = "ann@example.com")]
    email: String,
    /// Given name, 1–50 characters.
    #[serde(deserialize_with = "trimmed")]
    #[schema(min_length = 1, max_length = 50, example = "Ann")]
    first_name: String,
    /// Family name, 1–50 characters.
    #[serde(deserialize_with = "trimmed")]
    #[schema(min_length = 1, max_length = 50, example = "Lee")]
    last_name: String,
    /// At most 500 characters.
    #[schema(max_length = 500)]
    bio: Option<String>,
    /// Whether the user may sign in; true where it is absent.
    is_active: Option<bool>,
}

impl Validate for UserToCreate {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check_email("/email", &self.email, errors);
        check_name("/first_name", &self.first_name, 50, errors);
        check_name("/last_name", &self.last_name, 50, errors);
        check_bio(self.bio.as_deref(), errors);
    }
}

/// At most 500 characters; it may be empty.
pub(crate) fn check_bio(bio: Option<&str>, errors: &mut Vec<FieldError>) {
    if let Some(bio) = bio.filter(|bio| !bio.is_empty())
        && let Err(rule) = check_text(bio, 500)
    {
        errors.push(FieldError::new("/bio", "value", rule.to_string()));
    }
}

/// One user.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OneUser {
    #[schema(example = true)]
    pub success: bool,
    #[schema(example = "User created successfully")]
    pub message: &'static str,
    pub data: UserView,
}

/// Creates a user.
#[utoipa::path(
    post,
    path = "/api/v1/users",
    tag = "users",
    request_body = UserToCreate,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats get the first answer for 24 h")),
    responses(
        (status = 201, description = "Created", body = OneUser, headers(("Location" = String, description = "The user"), ("ETag" = String, description = "Its version, for If-Match"))),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "No valid token"),
        (status = 403, description = "Not an administrator's token"),
        (status = 409, description = "The address has an account, or the first request with this Idempotency-Key is still running"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "A member is invalid, or the Idempotency-Key was used with another body"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn create_user(
    State(accounts): State<Accounts>,
    Admin(caller): Admin,
    key: Option<IdempotencyKey>,
    origin: Origin,
    ApiJsonRaw(user, bytes): ApiJsonRaw<UserToCreate>,
) -> Result<Response, ApiError> {
    mediator::send(
        &accounts,
        CreateUser {
            user,
            key,
            bytes,
            caller,
            origin,
        },
    )
    .await
}

/// The command.
struct CreateUser {
    user: UserToCreate,
    key: Option<IdempotencyKey>,
    /// The body that the key belongs to.
    bytes: Bytes,
    caller: Caller,
    origin: Origin,
}

impl Request for CreateUser {
    const NAME: &'static str = "CreateUser";
    type Answer = Response;
    type Error = ApiError;
}

impl Answer<CreateUser> for Accounts {
    async fn answer(&self, command: CreateUser) -> Result<Response, ApiError> {
        let CreateUser {
            user,
            key,
            bytes,
            caller,
            origin,
        } = command;
        let email = EmailAddress::parse(&user.email).map_err(|rule| {
            let field = FieldError::new("/email", "email", rule);
            ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, vec![field])
        })?;
        let scope = caller.key_scope(SCOPE);
        let mut user = NewUser {
            id: self.sessions.secret.id_for_key(&scope, key.as_ref(), &email),
            email,
            first_name: user.first_name,
            last_name: user.last_name,
            bio: user.bio,
            is_active: user.is_active.unwrap_or(true),
            password_hash: None,
        };
        let service = self.context.name;
        let mut response = idempotent(&self.context.store, &scope, key.as_ref(), &bytes, |tx| {
            Box::pin(async move {
                check_caller(tx, &caller).await?;
                if !users_repository::claim_anew(tx, &mut user).await? {
                    return Err(ApiError::of(StatusCode::CONFLICT).detail("A user with this address exists already."));
                }
                users_repository::skip_onboarding(tx, user.id).await?;
                let Some(made) = users_repository::find_in(tx, user.id).await? else {
                    return Err(ApiError::of(StatusCode::INTERNAL_SERVER_ERROR));
                };
                let event = AuditEvent {
                    action: "user.create",
                    actor: actor(&caller),
                    user_id: Some(made.id),
                    origin,
                    ..AuditEvent::default()
                };
                audit_repository::record(tx, event).await?;
                let created = UserCreated {
                    user_id: made.id,
                    is_active: made.is_active,
                    created_at: made.created_at,
                };
                outbox::append(tx, service, Message::of(&created)?).await?;
                let body = serde_json::to_vec(&OneUser {
                    success: true,
                    message: "User created successfully",
                    data: made.into(),
                })?;
                Ok(StoredResponse { status: 201, body })
            })
        })
        .await?;
        // A replayed answer has it too: every user begins with version 1.
        response.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
        locate_user(response, "/api/v1/users/", "/data/id").await
    }
}
