//! One store of users and the doors to it: sign-up, management, sign-in.

mod attempts_repository;
mod audit_repository;
mod block_passwords;
mod change_password;
mod check_caller;
mod create_admin;
mod create_user;
mod credentials_repository;
mod delete_user;
mod email_address;
mod erase_users;
mod hash_password;
mod limit_attempts;
mod locate_user;
mod log_in;
mod log_out;
mod mail_user;
mod manage_sessions;
mod onboard_user;
mod password;
mod publish_keys;
mod purge_ended;
mod read_users;
mod refresh_cookie;
mod refresh_session;
mod reset_password;
mod revoke_keys;
mod secret_token;
mod send_mail;
mod server_secret;
mod sessions;
mod sessions_repository;
mod sign_tokens;
mod sign_up;
mod signing_keys_repository;
mod update_user;
mod user;
mod users_repository;
mod verify_access;
mod verify_email;
mod waiting_passwords_repository;

use std::time::Duration;

use axum::extract::FromRef;
use http::Method;
use posthaste::store::{Migration, Sql};
use posthaste::{Event, RetryPolicy, Subscription, Unread};
use posthaste_host::auth::{Guard, OpenRoute};
use posthaste_host::http::TrustedProxies;
use posthaste_host::{ConfigError, ReadyCheck, Service, ServiceCommand, ServiceContext, ServiceParts};
use utoipa::openapi::security::{self as openapi, Flow, OAuth2, Scopes, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use hash_password::PasswordHashing;
use mail_user::{MailRequested, MailUser};
use onboard_user::{OnboardUser, SignupRequested};
use refresh_cookie::RefreshCookie;
use reset_password::{MailReset, ResetRequested};
pub use send_mail::Mailer;
use sessions::Sessions;

/// The service, for a host to run.
pub fn service() -> Service {
    Service {
        version: env!("CARGO_PKG_VERSION"),
        license: Some(env!("CARGO_PKG_LICENSE")),
        area: "users",
        migrations: MIGRATIONS,
        commands: &[
            ServiceCommand {
                name: "create-admin",
                about: "Make a user an administrator; a new one gets the password on the standard input, or a random one",
                argument: "EMAIL",
                run: |context, email| Box::pin(create_admin::create_admin(context, email)),
            },
            ServiceCommand {
                name: "revoke-keys",
                about: "Make access tokens worthless that were signed with a key, or with any",
                argument: "KID|all",
                run: |context, which| Box::pin(revoke_keys::revoke_keys(context, which)),
            },
        ],
        chores: &[purge_ended::CHORE, erase_users::CHORE, erase_users::SECOND_LOOK],
        ..Service::new("accounts", build)
    }
}

const MIGRATIONS: &[Migration] = &[
    ACCOUNTS,
    SESSIONS,
    SIGNING_TURN,
    NOTIFIED_FOR,
    WAITING_PASSWORDS,
    ERASED_AT,
];

const ACCOUNTS: Migration = Migration {
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
};

const SESSIONS: Migration = Migration {
    version: 2,
    name: "sessions",
    up: Sql {
        postgres: include_str!("../migrations/0002_sessions.postgres.up.sql"),
        sqlite: include_str!("../migrations/0002_sessions.sqlite.up.sql"),
        mysql: include_str!("../migrations/0002_sessions.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0002_sessions.postgres.down.sql"),
        sqlite: include_str!("../migrations/0002_sessions.sqlite.down.sql"),
        mysql: include_str!("../migrations/0002_sessions.mysql.down.sql"),
    },
};

const SIGNING_TURN: Migration = Migration {
    version: 3,
    name: "signing_turn",
    up: Sql {
        postgres: include_str!("../migrations/0003_signing_turn.postgres.up.sql"),
        sqlite: include_str!("../migrations/0003_signing_turn.sqlite.up.sql"),
        mysql: include_str!("../migrations/0003_signing_turn.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0003_signing_turn.postgres.down.sql"),
        sqlite: include_str!("../migrations/0003_signing_turn.sqlite.down.sql"),
        mysql: include_str!("../migrations/0003_signing_turn.mysql.down.sql"),
    },
};

const NOTIFIED_FOR: Migration = Migration {
    version: 4,
    name: "notified_for",
    up: Sql {
        postgres: include_str!("../migrations/0004_notified_for.postgres.up.sql"),
        sqlite: include_str!("../migrations/0004_notified_for.sqlite.up.sql"),
        mysql: include_str!("../migrations/0004_notified_for.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0004_notified_for.postgres.down.sql"),
        sqlite: include_str!("../migrations/0004_notified_for.sqlite.down.sql"),
        mysql: include_str!("../migrations/0004_notified_for.mysql.down.sql"),
    },
};

const WAITING_PASSWORDS: Migration = Migration {
    version: 5,
    name: "waiting_passwords",
    up: Sql {
        postgres: include_str!("../migrations/0005_waiting_passwords.postgres.up.sql"),
        sqlite: include_str!("../migrations/0005_waiting_passwords.sqlite.up.sql"),
        mysql: include_str!("../migrations/0005_waiting_passwords.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0005_waiting_passwords.postgres.down.sql"),
        sqlite: include_str!("../migrations/0005_waiting_passwords.sqlite.down.sql"),
        mysql: include_str!("../migrations/0005_waiting_passwords.mysql.down.sql"),
    },
};

const ERASED_AT: Migration = Migration {
    version: 6,
    name: "erased_at",
    up: Sql {
        postgres: include_str!("../migrations/0006_erased_at.postgres.up.sql"),
        sqlite: include_str!("../migrations/0006_erased_at.sqlite.up.sql"),
        mysql: include_str!("../migrations/0006_erased_at.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0006_erased_at.postgres.down.sql"),
        sqlite: include_str!("../migrations/0006_erased_at.sqlite.down.sql"),
        mysql: include_str!("../migrations/0006_erased_at.mysql.down.sql"),
    },
};

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Accounts {
    context: ServiceContext,
    hashing: PasswordHashing,
    sessions: Sessions,
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
        sessions: Sessions::of(context)?,
        guard: context.guard(),
        proxies: TrustedProxies::of(&context.settings)?,
    };
    let mailer = Mailer::of(&context.settings)?;
    let verifier = verify_access::verifier(context, &accounts.sessions);
    let retry = onboard_user::retry(&context.settings)?;
    let keys = accounts.sessions.keys.clone();
    let cookie_warning = RefreshCookie::warning(&context.settings).into_iter().collect();
    let mut parts = ServiceParts::new(routes(accounts), subscriptions(mailer, retry)).open(OPEN);
    parts.verifier = Some(verifier);
    parts.ready = vec![ReadyCheck::new("signing-keys", move || {
        let keys = keys.clone();
        async move { keys.obstacle().await }
    })];
    parts.warnings = cookie_warning;
    if !context.guard().is_open() && context.settings.get("PUBLIC_URL").is_none() {
        let text = "PUBLIC_URL is not set: links in mails lead to this machine, and behind TLS the cookie lacks Secure";
        parts.warnings.push(text.into());
    }
    Ok(parts)
}

/// Who comes here has no token yet, or shows something else: a password, a cookie, what a mail brought.
const OPEN: [OpenRoute; 14] = [
    (Method::POST, "/signup"),
    (Method::POST, "/api/v1/auth/register"),
    (Method::POST, "/api/v1/auth/login"),
    (Method::POST, "/api/v1/auth/refresh"),
    (Method::POST, "/api/v1/auth/logout"),
    (Method::POST, "/api/v1/auth/password-reset"),
    (Method::POST, "/api/v1/auth/password-reset/confirm"),
    (Method::POST, "/api/v1/auth/verify-email"),
    (Method::PUT, "/users/{user_id}"),
    (Method::GET, "/.well-known/jwks.json"),
    (Method::GET, "/verify-email"),
    (Method::GET, "/verify-email.js"),
    (Method::GET, "/reset-password"),
    (Method::GET, "/reset-password.js"),
];

fn routes(accounts: Accounts) -> OpenApiRouter {
    OpenApiRouter::with_openapi(sign_in())
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
        .routes(routes!(log_in::log_in))
        .routes(routes!(refresh_session::refresh_session))
        .routes(routes!(log_out::log_out))
        .routes(routes!(log_out::log_out_everywhere))
        .routes(routes!(manage_sessions::list_sessions))
        .routes(routes!(manage_sessions::end_session))
        .routes(routes!(manage_sessions::end_sessions_of))
        .routes(routes!(manage_sessions::read_me))
        .routes(routes!(manage_sessions::introspect))
        .routes(routes!(change_password::change_password))
        .routes(routes!(reset_password::ask_for_reset))
        .routes(routes!(reset_password::confirm_reset))
        .routes(routes!(publish_keys::publish_keys))
        .merge(verify_email::pages())
        .with_state(accounts)
}

/// For the API's document: a viewer gets a token by itself, given an address and a password.
fn sign_in() -> OpenApi {
    let flow = Flow::Password(openapi::Password::new("api/v1/auth/login", Scopes::new()));
    let components = ComponentsBuilder::new().security_scheme("password", SecurityScheme::OAuth2(OAuth2::new([flow])));
    OpenApiBuilder::new().components(Some(components.build())).build()
}

/// What the service subscribes to, also for the crash explorer; `retry` is for sign-ups.
pub fn subscriptions(mailer: Mailer, retry: RetryPolicy) -> Vec<Subscription> {
    let mut onboarding =
        Subscription::new::<SignupRequested, _>("accounts.onboard_user", SignupRequested::TOPIC, OnboardUser);
    onboarding.retry = retry;
    onboarding.unread = Some(Unread {
        after: Duration::from_secs(3600),
        queue: format!("{}_dlq", SignupRequested::TOPIC),
    });
    let mut mail = Subscription::outside::<MailRequested, _>(
        "accounts.mail_user",
        MailRequested::TOPIC,
        MailUser { mailer: mailer.clone() },
    );
    let mut reset =
        Subscription::outside::<ResetRequested, _>("accounts.mail_reset", ResetRequested::TOPIC, MailReset { mailer });
    for mailing in [&mut mail, &mut reset] {
        mailing.retry = RetryPolicy {
            attempts: 20,
            immediate: 1,
            first_delay: Duration::from_secs(2),
            max_delay: Duration::from_secs(300),
        };
    }
    vec![onboarding, mail, reset]
}
