//! Mail to users, sent by the worker. What it says is made here and not where it was asked for: a token is then in
//! no queue, and the mail goes to the address that the user has now.

use posthaste::{Event, HandleOutside, Handled, Outside};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::secret_token::SecretToken;
use crate::send_mail::{Mail, Mailer};
use crate::user::Verification;
use crate::users_repository;

/// How long a verification token is of use, in seconds.
const TOKEN_LIFE: i64 = 24 * 3600;
/// An owner is told of attempts to register its address at most this often, in seconds: anybody can make them.
const NOTICE_PAUSE: i64 = 3600;

/// What a mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Occasion {
    /// Welcome, and a link that says the address is the user's.
    Verification,
    /// Somebody wants to register the user's address.
    AddressTaken,
    /// The user has a new password.
    PasswordChanged,
    /// Somebody has tried wrong passwords until the account had to wait.
    SignInLocked,
    /// A refresh token was used that had been replaced: somebody has a copy, and the session is ended.
    RefreshReused,
}

/// A mail is to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailRequested {
    /// To whom.
    pub user_id: Uuid,
    /// About what.
    pub occasion: Occasion,
}

impl MailRequested {
    /// A mail to `user_id`.
    pub fn to(user_id: Uuid, occasion: Occasion) -> Self {
        Self { user_id, occasion }
    }
}

impl Event for MailRequested {
    const TYPE: &'static str = "user.mail.requested";
    const TOPIC: &'static str = "user_mail_queue";
    const AGGREGATE: Option<&'static str> = Some("User");

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }
}

pub(crate) struct MailUser {
    pub mailer: Mailer,
}

impl HandleOutside<MailRequested> for MailUser {
    async fn act(&self, wanted: MailRequested, cx: &Outside) -> Handled {
        let store = cx.store();
        let Some(user) = users_repository::find(store, wanted.user_id).await? else {
            return Ok(());
        };
        let (subject, text) = match wanted.occasion {
            Occasion::Verification => {
                // The link of the mail that went last is the one that is good, also where one went twice.
                let token = SecretToken::new()?;
                let tx = store.begin().await?;
                let waits = users_repository::set_verification(&tx, user.id, &token.hash(), TOKEN_LIFE).await?;
                tx.commit().await?;
                if !waits {
                    return Ok(());
                }
                let link = format!("{}/verify-email#token={}", self.mailer.public_url(), token.reveal());
                ("Welcome: please confirm your address", welcome(&link))
            }
            Occasion::AddressTaken => {
                let tx = store.begin().await?;
                let may = users_repository::may_notify(&tx, user.id, cx.message().id.0, NOTICE_PAUSE).await?;
                tx.commit().await?;
                if !may {
                    return Ok(());
                }
                let verified = user.verification == Verification::Verified;
                ("You have an account already", taken(self.mailer.public_url(), verified))
            }
            Occasion::PasswordChanged => ("Your password was changed", changed(self.mailer.public_url())),
            Occasion::SignInLocked => (
                "Somebody tries to sign in to your account",
                locked(self.mailer.public_url()),
            ),
            Occasion::RefreshReused => ("One of your sessions was ended", reused(self.mailer.public_url())),
        };
        let mail = Mail {
            id: cx.message().id,
            to: user.email,
            subject,
            text,
        };
        self.mailer.send(mail).await
    }
}

// The texts name nobody: what somebody wrote into a form must not reach another one's mailbox.

fn welcome(link: &str) -> String {
    format!(
        "Welcome!\n\n\
         Please confirm that this address is yours. The link is good for 24 hours and for one use:\n\n\
         {link}\n\n\
         If you have not signed up, you need not do anything. Do not follow the link then.\n"
    )
}

fn locked(public_url: &str) -> String {
    format!(
        "Somebody, perhaps you, has tried several wrong passwords for your account. It has to wait a while before it\n\
         takes another. Where you are signed in you stay signed in.\n\n\
         A new password opens it at once:\n\
         POST {public_url}/api/v1/auth/password-reset\n"
    )
}

fn reused(public_url: &str) -> String {
    format!(
        "One of your sessions was ended, because what kept it signed in was used a second time: somebody else may have\n\
         a copy. Please sign in again.\n\n\
         If you have an idea who that may be, set a new password, too:\n\
         POST {public_url}/api/v1/auth/password-reset\n"
    )
}

fn changed(public_url: &str) -> String {
    format!(
        "Your password was changed. You have been signed out elsewhere.\n\n\
         If that was not you, ask for a new one now:\n\
         POST {public_url}/api/v1/auth/password-reset\n"
    )
}

fn taken(public_url: &str, verified: bool) -> String {
    let state = if verified {
        "This address has an account already, so no new one was made."
    } else {
        "This address has an account already that was not confirmed yet, so no new one was made."
    };
    format!(
        "Somebody, perhaps you, wanted to sign up with this address.\n\n\
         {state} If it was you and you do not know its password, ask for a new one:\n\
         POST {public_url}/api/v1/auth/password-reset\n\n\
         If it was not you, you need not do anything.\n"
    )
}
