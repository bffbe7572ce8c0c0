//! One store of users and the doors to it: sign-up, management, sign-in.

mod audit_repository;
mod block_passwords;
mod create_user;
mod delete_user;
mod email_address;
mod hash_password;
mod mail_user;
mod onboard_user;
mod password;
mod read_users;
mod secret_token;
mod send_mail;
mod sign_up;
mod update_user;
mod user;
mod users_repository;
mod verify_email;

use std::time::Duration;

use axum::extract::FromRef;
use posthaste::store::{Migration, Sql};
use posthaste::{Event, RetryPolicy, Subscription, Unread};
use posthaste_host::auth::Guard;
use posthaste_host::http::TrustedProxies;
use posthaste_host::{ConfigError, Service, ServiceContext, ServiceParts};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use hash_password::PasswordHashing;
use mail_user::{MailRequested, MailUser};
use onboard_user::{OnboardUser, SignupRequested};
pub use send_mail::Mailer;

/// The service, for a host to run.
pub fn service() -> Service {
    Service {
        name: "accounts",
        version: env!("CARGO_PKG_VERSION"),
        migrations: MIGRATIONS,
        build,
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "accounts",
    up: Sql {
        postgres: include_str!("../migrations/0001_accounts.postgres.up.sql"),
        sqlite: include_str!("../migrations/0001_accounts.sqlite.up.sql"),
        mysql: include_str!("../migrations/0001_accounts.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0001_accounts.postgres.down.sql"),
        sqlite: include_str!("../migrations/0001_accounts.sqlite.down.sql"),
        mysql: include_str!("../migrations/0001_accounts.mysql.down.sql"),
    },
}];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Accounts {
    context: ServiceContext,
    hashing: PasswordHashing,
    guard: Guard,
    proxies: TrustedProxies,
}

impl FromRef<Accounts> for Guard {
    fn from_ref(accounts: &Accounts) -> Self {
        accounts.guard.clone()
    }
}

impl FromRef<Accounts> for TrustedProxies {
    fn from_ref(accounts: &Accounts) -> Self {
        accounts.proxies.clone()
    }
}

fn build(context: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let accounts = Accounts {
        context: context.clone(),
        hashing: PasswordHashing::of(&context.settings)?,
        guard: context.guard(),
        proxies: TrustedProxies::of(&context.settings)?,
    };
    let mailer = Mailer::of(&context.settings)?;
    Ok(ServiceParts::new(routes(accounts), subscriptions(mailer)))
}

fn routes(accounts: Accounts) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(sign_up::sign_up))
        .routes(routes!(sign_up::register))
        .routes(routes!(verify_email::read_signup, verify_email::verify_user))
        .routes(routes!(verify_email::verify_email))
        .routes(routes!(create_user::create_user, read_users::list_users))
        .routes(routes!(
            read_users::read_user,
            update_user::update_user,
            delete_user::delete_user
        ))
        .routes(routes!(read_users::read_user_by_email))
        .merge(verify_email::pages())
        .with_state(accounts)
}

/// What the service subscribes to, also for the crash explorer.
pub fn subscriptions(mailer: Mailer) -> Vec<Subscription> {
    let mut onboarding =
        Subscription::new::<SignupRequested, _>("accounts.onboard_user", SignupRequested::TOPIC, OnboardUser);
    onboarding.retry = RetryPolicy {
        attempts: 10,
        immediate: 2,
        first_delay: Duration::from_secs(2),
        max_delay: Duration::from_secs(10),
    };
    onboarding.unread = Some(Unread {
        after: Duration::from_secs(3600),
        queue: format!("{}_dlq", SignupRequested::TOPIC),
    });
    let mut mail =
        Subscription::new::<MailRequested, _>("accounts.mail_user", MailRequested::TOPIC, MailUser { mailer });
    // A mail that was sent cannot be taken back with the rest of a batch.
    mail.batch = 1;
    mail.retry = RetryPolicy {
        attempts: 20,
        immediate: 1,
        first_delay: Duration::from_secs(2),
        max_delay: Duration::from_secs(300),
    };
    vec![onboarding, mail]
}
