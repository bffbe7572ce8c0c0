//! A forgotten password: asked for (`POST /api/v1/auth/password-reset`), worked off by the worker, which makes the token
//! so that it is in no queue, and set anew (`POST /api/v1/auth/password-reset/confirm`).

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use posthaste::message::now;
use posthaste::{Event, Failure, HandleOutside, Handled, Message, Outside, outbox};
use posthaste_host::http::{ApiError, ApiJson, ClientAddress, FieldError, Validate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin};
use crate::change_password::{check_new, require_new};
use crate::email_address::EmailAddress;
use crate::limit_attempts::RESETS;
use crate::log_out::event;
use crate::mail_user::{MailRequested, Occasion};
use crate::password::Password;
use crate::secret_token::{SecretToken, check_length, hash_of};
use crate::send_mail::{Mail, Mailer};
use crate::user::check_email;
use crate::{credentials_repository, sessions_repository, users_repository};

/// How long a token is of use.
const TOKEN_LIFE: TimeDelta = TimeDelta::minutes(30);

/// Who has forgotten the password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forgotten {
    #[schema(max_length = 254, example = "ann@example.com")]
    email: String,
}

impl Validate for Forgotten {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check_email("/email", &self.email, errors);
    }
}

/// The token of the mail and the new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    /// What stands behind `token=` in the link.
    #[schema(max_length = 100)]
    token: String,
    /// 15–256 characters of any kind; not a common one, and not the address.
    #[schema(value_type = String, format = Password, min_length = 15, max_length = 256)]
    new_password: Password,
}

impl Validate for NewPassword {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        check_length(&self.token, errors);
        check_new(&self.new_password, None, errors);
    }
}

/// The password of an address is forgotten, whether it is a user's or nobody's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetRequested {
    /// Whose it is; an id of nobody for an address that nobody has. An address is in no queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Uuid>,
    /// The canonical address, as earlier versions wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// When it was asked for, by the database's clock: of two requests the later one counts, in whatever order they are worked off.
    pub requested_at: DateTime<Utc>,
}

impl Event for ResetRequested {
    const TYPE: &'static str = "user.password_reset.requested";
    const TOPIC: &'static str = "user_password_reset_queue";
    const AGGREGATE: Option<&'static str> = Some("User");
}

/// Asks for a mail with a link to a new password. The answer is the same whether there is such a user or not.
#[utoipa::path(
    post,
    path = "/api/v1/auth/password-reset",
    tag = "sessions",
    request_body = Forgotten,
    responses(
        (status = 202, description = "If there is such a user, a mail is on its way"),
        (status = 400, description = "The body is no valid JSON"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "That is no address"),
        (status = 429, description = "Too many requests from this address"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn ask_for_reset(
    State(accounts): State<Accounts>,
    client: ClientAddress,
    origin: Origin,
    ApiJson(body): ApiJson<Forgotten>,
) -> Result<StatusCode, ApiError> {
    let limiter = &accounts.sessions.limiter;
    limiter.count(RESETS, client).await?;
    // Checked before.
    let email = EmailAddress::parse(&body.email).unwrap_or_else(|_rule| EmailAddress::nobody());
    // The mailbox is not flooded, and whoever asks is not told.
    let may_mail = limiter.may_mail(&email).await?;
    let store = &accounts.context.store;
    // The same for everybody, whether anything comes of it or not.
    let user = credentials_repository::by_email(store, &email).await?;
    let asked_at = credentials_repository::clock(store).await?;
    let mut tx = store.begin().await?;
    if may_mail {
        let wanted = ResetRequested {
            user_id: Some(user.map_or_else(Uuid::now_v7, |user| user.user_id)),
            email: None,
            requested_at: asked_at,
        };
        outbox::append(&mut tx, accounts.context.name, Message::of(&wanted)?).await?;
    }
    let event = AuditEvent {
        action: "user.password_reset_asked",
        actor: Some("anonymous".to_owned()),
        origin,
        ..AuditEvent::default()
    };
    audit_repository::record(&tx, event).await?;
    tx.commit().await?;
    Ok(StatusCode::ACCEPTED)
}

/// Sets a new password with the token of the mail. All sessions end, and none is begun.
#[utoipa::path(
    post,
    path = "/api/v1/auth/password-reset/confirm",
    tag = "sessions",
    request_body = NewPassword,
    responses(
        (status = 204, description = "Set; sign in with it"),
        (status = 400, description = "The token is unknown, was used or has expired, or the body is no valid JSON"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The new password is not taken; the token is still good"),
        (status = 429, description = "Too many requests from this address"),
        (status = 503, description = "The database is away, or too many passwords are being hashed"),
    )
)]
pub(crate) async fn confirm_reset(
    State(accounts): State<Accounts>,
    client: ClientAddress,
    origin: Origin,
    ApiJson(body): ApiJson<NewPassword>,
) -> Result<StatusCode, ApiError> {
    let refused = || ApiError::of(StatusCode::BAD_REQUEST).detail("The token is unknown, was used or has expired.");
    let (store, limiter) = (&accounts.context.store, &accounts.sessions.limiter);
    limiter.count(RESETS, client).await?;
    let token = hash_of(&body.token);
    let holder = credentials_repository::holder_of_reset(store, &token).await?;
    let id = holder.ok_or_else(refused)?;
    let user = credentials_repository::by_id(store, id).await?.ok_or_else(refused)?;
    require_new(&body.new_password, &user.email)?;
    let hash = accounts.hashing.hash(body.new_password).await?;
    let at = now();
    let mut tx = store.begin().await?;
    // The user first, as everywhere; then of several requests with one token one spends it.
    if !credentials_repository::set_password(&tx, id, None, &hash).await?
        || !credentials_repository::spend_reset(&tx, id, &token).await?
    {
        return Err(refused());
    }
    // Whoever reads the mail has the address.
    users_repository::verify(&tx, id).await?;
    sessions_repository::end_all(&tx, id, None, "reset", at).await?;
    audit_repository::record(&tx, event("user.password_reset", id, &origin, None)).await?;
    let notice = Message::of(&MailRequested::to(id, Occasion::PasswordChanged))?;
    outbox::append(&mut tx, accounts.context.name, notice).await?;
    tx.commit().await?;
    if let Ok(email) = EmailAddress::parse(&user.email) {
        limiter.forget(&email).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) struct MailReset {
    pub mailer: Mailer,
}

impl HandleOutside<ResetRequested> for MailReset {
    async fn act(&self, wanted: ResetRequested, cx: &Outside) -> Handled {
        let store = cx.store();
        let known = match (wanted.user_id, wanted.email) {
            (Some(user_id), _) => credentials_repository::by_id(store, user_id).await?,
            (None, Some(email)) => {
                let email = EmailAddress::parse(&email).map_err(|rule| Failure::Reject(format!("email {rule}")))?;
                credentials_repository::by_email(store, &email).await?
            }
            (None, None) => return Err(Failure::Reject("user_id is missing".to_owned())),
        };
        let Some(user) = known else {
            return Ok(());
        };
        let at = credentials_repository::clock(store).await?;
        if !user.is_active || at - wanted.requested_at > TOKEN_LIFE {
            return Ok(());
        }
        let token = SecretToken::new()?;
        // What claims to come from the future came now: it must not win over all that follow.
        let requested_at = wanted.requested_at.min(at);
        let life = TOKEN_LIFE.num_microseconds().unwrap_or(i64::MAX);
        let tx = store.begin().await?;
        let newest = credentials_repository::set_reset(&tx, user.user_id, &token.hash(), requested_at, life).await?;
        tx.commit().await?;
        if !newest {
            return Ok(());
        }
        let link = format!("{}/reset-password#token={}", self.mailer.public_url(), token.reveal());
        let mail = Mail {
            id: cx.message().id,
            to: user.email,
            subject: "A new password",
            text: text(&link),
        };
        self.mailer.send(mail).await
    }
}

fn text(link: &str) -> String {
    format!(
        "Somebody, perhaps you, has forgotten the password of this account. The link is good for 30 minutes and for one use:\n\n\
         {link}\n\n\
         If it was not you, you need not do anything: your password stays as it is.\n"
    )
}
