//! Whether an address is its owner's: asked with `GET /users/{user_id}`, said with the token from the mail or by an
//! administrator.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use chrono::{DateTime, Utc};
use posthaste::mediator::{self, Answer, Request};
use posthaste_host::auth::{Caller, Visitor};
use posthaste_host::http::{ApiError, ApiJson, ApiPath, FieldError, Validate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin, actor};
use crate::check_caller::check_caller;
use crate::read_users::{GetUserById, unknown};
use crate::secret_token::{check_length, hash_of};
use crate::user::Verification;
use crate::users_repository;

/// The token of the mail.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerificationToken {
    /// What stands behind `token=` in the link.
    #[schema(max_length = 100)]
    token: String,
}

impl Validate for VerificationToken {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check_length(&self.token, errors);
    }
}

/// Somebody who has signed up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignupView {
    #[schema(example = "SUCCESS")]
    status: &'static str,
    #[schema(example = "User retrieved successfully")]
    message: &'static str,
    verification_state: Verification,
    user_id: Uuid,
    #[schema(example = "ann@example.com")]
    email: String,
    first_name: String,
    last_name: String,
    created_on: DateTime<Utc>,
}

/// What has become of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationAnswer {
    #[schema(example = "SUCCESS")]
    status: &'static str,
    #[schema(example = "User verified successfully")]
    message: &'static str,
}

/// Somebody who has signed up; `PENDING` until the address is confirmed. For the user itself and administrators.
#[utoipa::path(
    get,
    path = "/users/{user_id}",
    tag = "sign-up",
    params(("user_id" = Uuid, Path, description = "The id that signing up answered")),
    responses(
        (status = 200, description = "The user", body = SignupView),
        (status = 401, description = "No valid access token"),
        (status = 404, description = "There is none with this id, or it is another's"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_signup(
    State(accounts): State<Accounts>,
    caller: Caller,
    ApiPath(user_id): ApiPath<Uuid>,
) -> Result<Json<SignupView>, ApiError> {
    let user = mediator::send(&accounts, GetUserById(user_id)).await?;
    let user = user.filter(|user| caller.may_see(user.id)).ok_or_else(unknown)?;
    Ok(Json(SignupView {
        status: "SUCCESS",
        message: "User retrieved successfully",
        verification_state: user.verification,
        user_id: user.id,
        email: user.email,
        first_name: user.first_name,
        last_name: user.last_name,
        created_on: user.created_at,
    }))
}

/// Confirms a user's address, with the token of the mail or as an administrator.
#[utoipa::path(
    put,
    path = "/users/{user_id}",
    tag = "sign-up",
    security((), ("bearer" = []), ("password" = [])),
    request_body(content = Option<VerificationToken>, description = "Not needed by an administrator, nor where POSTHASTE_AUTH is open"),
    params(("user_id" = Uuid, Path, description = "The id that signing up answered")),
    responses(
        (status = 200, description = "The address is confirmed, now or before", body = VerificationAnswer),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "The token is not this user's or has expired, and the caller is no administrator"),
        (status = 404, description = "There is none with this id"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The id is no UUID, or the body has other members"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn verify_user(
    State(accounts): State<Accounts>,
    Visitor(visitor): Visitor,
    ApiPath(user_id): ApiPath<Uuid>,
    origin: Origin,
    request: HttpRequest,
) -> Result<Json<VerificationAnswer>, ApiError> {
    let command = VerifyUser {
        user_id,
        token: token_of(request).await?,
        authority: visitor.filter(Caller::is_admin),
        origin,
    };
    let message = match mediator::send(&accounts, command).await? {
        true => "User verified successfully",
        false => "User already verified",
    };
    Ok(Json(VerificationAnswer {
        status: "SUCCESS",
        message,
    }))
}

/// The token of a request that has a body.
async fn token_of(request: HttpRequest) -> Result<Option<String>, ApiError> {
    let empty = axum::body::HttpBody::is_end_stream(request.body());
    if empty && !request.headers().contains_key(CONTENT_TYPE) {
        return Ok(None);
    }
    let ApiJson(body) = ApiJson::<VerificationToken>::from_request(request, &()).await?;
    Ok(Some(body.token))
}

/// Confirms the address that the token was sent to.
#[utoipa::path(
    post,
    path = "/api/v1/auth/verify-email",
    tag = "sign-up",
    request_body = VerificationToken,
    responses(
        (status = 204, description = "The address is confirmed"),
        (status = 400, description = "The token is unknown, was used or has expired, or the body is no valid JSON"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The body has other members"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn verify_email(
    State(accounts): State<Accounts>,
    origin: Origin,
    ApiJson(body): ApiJson<VerificationToken>,
) -> Result<StatusCode, ApiError> {
    mediator::send(
        &accounts,
        VerifyEmail {
            token: body.token,
            origin,
        },
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The command for a named user; answers whether it is news.
struct VerifyUser {
    user_id: Uuid,
    /// The token of the mail.
    token: Option<String>,
    /// Somebody who may say so without it.
    authority: Option<Caller>,
    origin: Origin,
}

impl Request for VerifyUser {
    const NAME: &'static str = "VerifyUser";
    type Answer = bool;
    type Error = ApiError;
}

impl Answer<VerifyUser> for Accounts {
    async fn answer(&self, command: VerifyUser) -> Result<bool, ApiError> {
        let VerifyUser {
            user_id,
            token,
            authority,
            origin,
        } = command;
        let tx = self.context.store.begin().await?;
        if users_repository::find_in(&tx, user_id).await?.is_none() {
            return Err(unknown());
        }
        let holder = match token {
            Some(token) => users_repository::holder_of_verification(&tx, &hash_of(&token)).await?,
            None => None,
        };
        let actor = match authority {
            _ if holder == Some(user_id) => Some(user_id.to_string()),
            Some(caller) => {
                check_caller(&tx, &caller).await?;
                actor(&caller)
            }
            None => return Err(unproven()),
        };
        let news = users_repository::verify(&tx, user_id).await?;
        if news {
            audit_repository::record(&tx, verified(user_id, actor, origin)).await?;
        }
        tx.commit().await?;
        Ok(news)
    }
}

/// The command for whoever the token was sent to.
struct VerifyEmail {
    token: String,
    origin: Origin,
}

impl Request for VerifyEmail {
    const NAME: &'static str = "VerifyEmail";
    type Answer = ();
    type Error = ApiError;
}

impl Answer<VerifyEmail> for Accounts {
    async fn answer(&self, VerifyEmail { token, origin }: VerifyEmail) -> Result<(), ApiError> {
        let refused = || ApiError::of(StatusCode::BAD_REQUEST).detail("The token is unknown, was used or has expired.");
        let tx = self.context.store.begin().await?;
        let holder = users_repository::holder_of_verification(&tx, &hash_of(&token)).await?;
        let user_id = holder.ok_or_else(refused)?;
        // Of two requests with one token the first uses it up.
        if !users_repository::verify(&tx, user_id).await? {
            return Err(refused());
        }
        audit_repository::record(&tx, verified(user_id, Some(user_id.to_string()), origin)).await?;
        Ok(tx.commit().await?)
    }
}

fn unproven() -> ApiError {
    let bearer = HeaderValue::from_static("Bearer");
    ApiError::of(StatusCode::UNAUTHORIZED)
        .detail("This needs the token from the mail, or an administrator's.")
        .header(WWW_AUTHENTICATE, bearer)
}

fn verified(user_id: Uuid, actor: Option<String>, origin: Origin) -> AuditEvent {
    AuditEvent {
        action: "user.verify",
        actor,
        user_id: Some(user_id),
        origin,
        detail: None,
    }
}

/// The pages that the links of mails open. They are no part of the API's documentation. Their links are relative: what
/// a proxy puts in front of them stays there.
pub(crate) fn pages() -> OpenApiRouter<Accounts> {
    const HTML: &str = "text/html; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let mut router = OpenApiRouter::new();
    for (path, page, script) in [
        (
            "/verify-email",
            include_str!("../pages/verify_email.html"),
            include_str!("../pages/verify_email.js"),
        ),
        (
            "/reset-password",
            include_str!("../pages/reset_password.html"),
            include_str!("../pages/reset_password.js"),
        ),
    ] {
        // With a slash at its end the page lies one step deeper.
        let deeper = page.replace("src=\"", "src=\"../");
        router = router
            .route(path, file(HTML, page))
            .route(&format!("{path}/"), file(HTML, deeper))
            .route(&format!("{path}.js"), file(SCRIPT, script));
    }
    router
}

fn file(content_type: &'static str, text: impl Into<Bytes>) -> MethodRouter<Accounts> {
    const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
        form-action 'none'; frame-ancestors 'none'";
    let text = text.into();
    get(move || async move {
        let headers = [
            (CONTENT_TYPE, content_type),
            (CONTENT_SECURITY_POLICY, POLICY),
            (CACHE_CONTROL, "no-cache"),
        ];
        let page: Response = (headers, text.clone()).into_response();
        page
    })
}
