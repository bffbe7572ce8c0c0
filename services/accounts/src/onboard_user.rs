//! From the onboarding queue: the sign-up's user is there, and everybody who wants to know is told, in one commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use contracts::{UserRegistered, check_line};
use posthaste::{Cx, Event, Failure, Handle, Handled, RetryPolicy};
use posthaste_host::{ConfigError, Settings};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit_repository::{self, AuditEvent, Origin};
use crate::credentials_repository;
use crate::email_address::EmailAddress;
use crate::hash_password::is_acceptable;
use crate::mail_user::{MailRequested, Occasion};
use crate::users_repository::{self, NewUser, Onboarding};
use crate::waiting_passwords_repository;

/// Somebody has signed up. The address may be another user's by then: the worker finds out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignupRequested {
    /// The user to be.
    pub user_id: Uuid,
    /// The canonical address.
    pub email: String,
    pub first_name: String,
    pub last_name: String,
    /// Only in a message that was published while the database was away; else it is in the database alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    pub requested_at: DateTime<Utc>,
}

impl Event for SignupRequested {
    const TYPE: &'static str = "user.onboarding.requested";
    const TOPIC: &'static str = "user_onboarding_queue";
    const AGGREGATE: Option<&'static str> = Some("User");

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }

    fn dedup_key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }

    fn validate(&self) -> Result<(), String> {
        let canonical = EmailAddress::parse(&self.email).map_err(|rule| format!("email {rule}"))?;
        if canonical.as_str() != self.email {
            return Err("email must be in its canonical form".to_owned());
        }
        for (member, name) in [("first_name", &self.first_name), ("last_name", &self.last_name)] {
            check_line(name, 100).map_err(|rule| format!("{member} {rule}"))?;
        }
        if self.password_hash.as_ref().is_some_and(|hash| !is_acceptable(hash)) {
            return Err("password_hash must be a PHC string of argon2id that does not cost too much".to_owned());
        }
        Ok(())
    }
}

/// How often and when a sign-up that fails is tried again: three attempts at once, then with growing delays.
///
/// # Errors
/// When a setting is no number, or no attempt is allowed.
pub(crate) fn retry(settings: &Settings) -> Result<RetryPolicy, ConfigError> {
    let number = |name: &str| {
        let text = settings.get(name).unwrap_or_default();
        let number = text.parse::<u32>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| ConfigError::refused(format!("{name}={text}: write a whole number, 1 or more")))
    };
    let millis = |name: &str| number(name).map(|millis| Duration::from_millis(millis.into()));
    Ok(RetryPolicy {
        attempts: number("ONBOARDING_ATTEMPTS")?,
        immediate: 2,
        first_delay: millis("ONBOARDING_RETRY_MS")?,
        max_delay: millis("ONBOARDING_RETRY_MAX_MS")?,
    })
}

/// Within so many µs two sign-ups of one address that nobody could compare count as one person's.
const TWICE: i64 = 60_000_000;

pub(crate) struct OnboardUser;

impl Handle<SignupRequested> for OnboardUser {
    async fn handle(&self, signup: SignupRequested, cx: &mut Cx<'_>) -> Handled {
        // Checked when it was decoded.
        let email = EmailAddress::parse(&signup.email).map_err(|rule| Failure::Reject(format!("email {rule}")))?;
        let direct = signup.password_hash.is_some();
        let (password_hash, claimed) = match signup.password_hash {
            Some(hash) => (Some(hash), "while the database was away"),
            None => {
                let waiting = waiting_passwords_repository::take(cx.tx(), signup.user_id).await?;
                (waiting, "the address has become free")
            }
        };
        let user = NewUser {
            id: signup.user_id,
            email: email.clone(),
            first_name: signup.first_name.clone(),
            last_name: signup.last_name.clone(),
            bio: None,
            is_active: true,
            password_hash,
        };
        // The row is there already unless the database was away when the user signed up, or the address another's.
        if users_repository::claim(cx.tx(), &user).await? {
            let event = AuditEvent {
                action: "user.register",
                actor: Some("anonymous".to_owned()),
                user_id: Some(user.id),
                origin: Origin::default(),
                detail: Some(claimed.to_owned()),
            };
            audit_repository::record(cx.tx(), event).await?;
        }
        match users_repository::begin_onboarding(cx.tx(), signup.user_id, &email).await? {
            Onboarding::Begun => {
                cx.publish(&UserRegistered {
                    user_id: signup.user_id,
                    registered_at: Some(signup.requested_at),
                })?;
                cx.publish(&MailRequested::to(signup.user_id, Occasion::Verification))?;
            }
            Onboarding::Repeated => {}
            Onboarding::Taken(owner) => {
                // Where the database was there, whoever signed up was compared with whoever was first.
                if direct {
                    credentials_repository::contest(cx.tx(), &email, TWICE).await?;
                }
                cx.publish(&MailRequested::to(owner, Occasion::AddressTaken))?;
            }
            Onboarding::Freed => return Err(Failure::Later(Duration::from_millis(100))),
        }
        Ok(())
    }
}
