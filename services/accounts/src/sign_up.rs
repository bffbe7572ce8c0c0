//! `POST /signup` and `POST /api/v1/auth/register`: the address is claimed in one commit with the message to the
//! onboarding queue. With the database away the message goes straight to the transport, and the worker settles the
//! claim. The password is hashed before any of it.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use posthaste::failure::chain;
use posthaste::idempotency::StoredResponse;
use posthaste::mediator::{self, Answer, Request};
use posthaste::message::now;
use posthaste::{Message, outbox};
use posthaste_host::http::{ApiError, ApiJson, ClientAddress, FieldError, IdempotencyKey, Validate, idempotent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin};
use crate::credentials_repository;
use crate::email_address::EmailAddress;
use crate::locate_user::locate_user;
use crate::onboard_user::SignupRequested;
use crate::password::Password;
use crate::user::{Verification, check_email, check_name, trimmed};
use crate::users_repository::{self, NewUser};
use crate::waiting_passwords_repository;

/// How often a claim is tried that collides with others.
const TRIES: u32 = 5;
/// How long after the first try no other one begins: each may have waited for a lock.
const AGAIN: Duration = Duration::from_secs(10);

/// Somebody who signs up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSignup {
    /// The address; the domain may be an international one.
    #[schema(max_length = 254, example = "ann@example.com")]
    email: String,
    /// Given name, 1–100 characters.
    #[serde(deserialize_with = "trimmed")]
    #[schema(min_length = 1, max_length = 100, example = "Ann")]
    first_name: String,
    /// Family name, 1–100 characters.
    #[serde(deserialize_with = "trimmed")]
    #[schema(min_length = 1, max_length = 100, example = "Lee")]
    last_name: String,
    /// 15–256 characters of any kind; not a common one, and not the address.
    #[schema(value_type = String, format = Password, min_length = 15, max_length = 256, example = "plumber otter vivid canal")]
    password: Password,
}

impl Validate for NewSignup {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        let email = check_email("/email", &self.email, errors);
        check_name("/first_name", &self.first_name, 100, errors);
        check_name("/last_name", &self.last_name, 100, errors);
        if let Err(weak) = self.password.check(email.as_ref()) {
            errors.push(FieldError::new("/password", weak.kind, weak.msg));
        }
    }
}

/// The sign-up is safe.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedUp {
    #[schema(example = "SUCCESS")]
    status: &'static str,
    #[schema(example = "User onboarded successfully")]
    message: &'static str,
    #[schema(value_type = String, example = "PENDING")]
    verification: Verification,
    user_id: Uuid,
}

/// The answer to a registration; the same whether the address was new or not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Outcome {
    #[schema(example = "SUCCESS")]
    status: &'static str,
    #[schema(example = "Registration received. We have sent you a mail.")]
    message: &'static str,
}

const TAKEN: Outcome = Outcome {
    status: "FAILURE",
    message: "User already exists",
};
const RECEIVED: Outcome = Outcome {
    status: "SUCCESS",
    message: "Registration received. We have sent you a mail.",
};

/// Signs a user up.
///
/// Answered once the address is claimed and the request is in the outbox or, while the database is away, once the
/// transport has confirmed it.
#[utoipa::path(
    post,
    path = "/signup",
    tag = "sign-up",
    request_body = NewSignup,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats get the first answer for 24 h")),
    responses(
        (status = 201, description = "Signed up; a mail is on its way", body = SignedUp, headers(("Location" = String, description = "The user"))),
        (status = 400, description = "The body is no valid JSON"),
        (status = 409, description = "The address has an account, or the first request with this Idempotency-Key is still running", body = Outcome),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "A member is invalid, or the Idempotency-Key was used for somebody else"),
        (status = 503, description = "Nothing can take the sign-up now"),
    )
)]
pub(crate) async fn sign_up(
    State(accounts): State<Accounts>,
    client: ClientAddress,
    key: Option<IdempotencyKey>,
    origin: Origin,
    ApiJson(signup): ApiJson<NewSignup>,
) -> Result<Response, ApiError> {
    accounts.sessions.limiter.count_sign_up(&accounts.guard, client).await?;
    let door = Door::SignUp;
    let command = SignUp {
        signup,
        key,
        origin,
        door,
    };
    mediator::send(&accounts, command).await
}

/// Registers a user, without telling whether the address has an account already: its owner is told by mail.
#[utoipa::path(
    post,
    path = "/api/v1/auth/register",
    tag = "sign-up",
    request_body = NewSignup,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats get the first answer for 24 h")),
    responses(
        (status = 202, description = "Received; a mail is on its way to the address", body = Outcome),
        (status = 400, description = "The body is no valid JSON"),
        (status = 409, description = "The first request with this Idempotency-Key is still running"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "A member is invalid, or the Idempotency-Key was used for somebody else"),
        (status = 503, description = "Nothing can take the registration now"),
    )
)]
pub(crate) async fn register(
    State(accounts): State<Accounts>,
    client: ClientAddress,
    key: Option<IdempotencyKey>,
    origin: Origin,
    ApiJson(signup): ApiJson<NewSignup>,
) -> Result<Response, ApiError> {
    accounts.sessions.limiter.count_sign_up(&accounts.guard, client).await?;
    let door = Door::Register;
    let command = SignUp {
        signup,
        key,
        origin,
        door,
    };
    mediator::send(&accounts, command).await
}

/// Which route: they differ in what they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    SignUp,
    Register,
}

impl Door {
    fn scope(self) -> &'static str {
        match self {
            Self::SignUp => "accounts POST /signup",
            Self::Register => "accounts POST /api/v1/auth/register",
        }
    }

    fn accepted(self, user_id: Uuid) -> Result<StoredResponse, serde_json::Error> {
        let (status, body) = match self {
            Self::SignUp => {
                let signed_up = SignedUp {
                    status: "SUCCESS",
                    message: "User onboarded successfully",
                    verification: Verification::Pending,
                    user_id,
                };
                (201, serde_json::to_vec(&signed_up)?)
            }
            Self::Register => (202, serde_json::to_vec(&RECEIVED)?),
        };
        Ok(StoredResponse { status, body })
    }
}

/// The command.
struct SignUp {
    signup: NewSignup,
    key: Option<IdempotencyKey>,
    origin: Origin,
    door: Door,
}

impl Request for SignUp {
    const NAME: &'static str = "SignUp";
    type Answer = Response;
    type Error = ApiError;
}

impl Answer<SignUp> for Accounts {
    async fn answer(&self, command: SignUp) -> Result<Response, ApiError> {
        let SignUp {
            signup,
            key,
            origin,
            door,
        } = command;
        let email = EmailAddress::parse(&signup.email).map_err(|rule| {
            let field = FieldError::new("/email", "email", rule);
            ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, vec![field])
        })?;
        let fingerprint = fingerprint(&email, &signup)?;
        let user_id = self.sessions.secret.id_for_key(door.scope(), key.as_ref(), &email);
        // Also for an address that is taken, or nobody's: the answer takes as long.
        let same = self.is_same_person(&email, signup.password.clone()).await?;
        let password_hash = self.hashing.hash(signup.password).await?;
        let user = NewUser {
            id: user_id,
            email,
            first_name: signup.first_name,
            last_name: signup.last_name,
            bio: None,
            is_active: true,
            password_hash: Some(password_hash),
        };
        let (_, spare) = messages(&user)?;
        let taken = self.claim(door, key.as_ref(), &fingerprint, (user, origin, same)).await;
        let response = match taken {
            Err(away) if away.is_database_away() => {
                self.publish_directly(spare, away).await?;
                let answer = door.accepted(user_id)?;
                let json = HeaderValue::from_static("application/json");
                let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::ACCEPTED);
                (status, [(CONTENT_TYPE, json)], answer.body).into_response()
            }
            taken => taken?,
        };
        locate_user(response, "/users/", "/user_id").await
    }
}

impl Accounts {
    /// Whether somebody has signed up with `email` and this password and has not confirmed the address: most likely one
    /// person twice. While the database is away nobody knows.
    async fn is_same_person(&self, email: &EmailAddress, password: Password) -> Result<bool, ApiError> {
        let known = match credentials_repository::by_email(&self.context.store, email).await {
            Ok(known) => known,
            Err(error) if error.is_unavailable() => None,
            Err(error) => return Err(error.into()),
        };
        let hash = known
            .filter(|user| !user.is_verified)
            .and_then(|user| user.password_hash);
        Ok(self.hashing.verify(password, hash).await?.right)
    }

    /// Claims the address in one commit with the message for the worker. What collides with another transaction is tried
    /// again: the database is there, and the transport is no way around it.
    async fn claim(
        &self,
        door: Door,
        key: Option<&IdempotencyKey>,
        fingerprint: &[u8],
        claim: (NewUser, Origin, bool),
    ) -> Result<Response, ApiError> {
        let (store, service, since) = (&self.context.store, self.context.name, Instant::now());
        let mut tries = 1;
        loop {
            let (mut user, origin, same) = claim.clone();
            let taken = idempotent(store, door.scope(), key, fingerprint, |tx| {
                Box::pin(async move {
                    let new = users_repository::claim_anew(tx, &mut user).await?;
                    let event = AuditEvent {
                        action: "user.register",
                        actor: Some("anonymous".to_owned()),
                        user_id: new.then_some(user.id),
                        origin,
                        detail: (!new).then(|| "the address is taken".to_owned()),
                    };
                    audit_repository::record(tx, event).await?;
                    if !new && !same {
                        credentials_repository::contest(tx, &user.email, 0).await?;
                    }
                    if !new && door == Door::SignUp {
                        let body = serde_json::to_vec(&TAKEN)?;
                        return Ok(StoredResponse { status: 409, body });
                    }
                    if !new && let Some(hash) = &user.password_hash {
                        waiting_passwords_repository::keep(tx, user.id, hash).await?;
                    }
                    // The worker finds out by itself whose the address is by then.
                    let (mut message, _) = messages(&user)?;
                    if !new && let Some(owner) = users_repository::owner(tx, &user.email).await? {
                        // Found by the owner's id when the owner is deleted.
                        message.key = Some(owner.to_string());
                    }
                    outbox::append(tx, service, message).await?;
                    Ok(door.accepted(user.id)?)
                })
            })
            .await;
            match taken {
                Err(error) if error.is_collision() && tries < TRIES && since.elapsed() < AGAIN => tries += 1,
                taken => return taken,
            }
        }
    }

    /// The database is `away`, or did not say whether it has the sign-up: then it goes out twice, under one id.
    async fn publish_directly(&self, message: Message, away: ApiError) -> Result<(), ApiError> {
        match self.context.publisher.publish(message).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a sign-up was not taken");
                Err(away)
            }
        }
    }
}

/// What a key belongs to. The password is left out: a plain hash of it beside the user's other data would make the
/// slow hash worth nothing.
fn fingerprint(email: &EmailAddress, signup: &NewSignup) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&(email.as_str(), &signup.first_name, &signup.last_name))
}

/// The message for the outbox, and the same one for the transport where no row holds the hash of the password.
fn messages(user: &NewUser) -> Result<(Message, Message), serde_json::Error> {
    let event = |password_hash| SignupRequested {
        user_id: user.id,
        email: user.email.to_string(),
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        password_hash,
        requested_at: now(),
    };
    let message = Message::of(&event(None))?;
    let mut spare = message.clone();
    spare.body = serde_json::to_vec(&event(user.password_hash.clone()))?;
    Ok((message, spare))
}
