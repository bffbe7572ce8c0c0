//! How often one address, and one account, may try. Redis counts where it is configured and answers, else the database;
//! what an account is made to wait for stands in the database alone.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use chrono::TimeDelta;
use posthaste::Store;
use posthaste::failure::chain;
use posthaste::message::now;
use posthaste_host::auth::Guard;
use posthaste_host::http::{ApiError, ClientAddress};
use posthaste_host::redis_cache::{Count, Limit, RedisCache};
use uuid::Uuid;

use crate::attempts_repository::{self, Patience, Tried};
use crate::email_address::EmailAddress;
use crate::server_secret::ServerSecret;

const fn per_minute(most: u32) -> Limit {
    Limit {
        most,
        window: Duration::from_secs(60),
    }
}

/// Sign-ins from one address.
pub(crate) const LOGINS: (&str, Limit) = ("login", per_minute(30));
/// Failed ones among them.
pub(crate) const FAILED_LOGINS: (&str, Limit) = ("login-failed", per_minute(10));
/// Sign-ups from one address.
const REGISTRATIONS: (&str, Limit) = ("register", per_minute(20));
/// Requests about forgotten passwords and addresses from one address.
pub(crate) const RESETS: (&str, Limit) = ("reset", per_minute(20));
/// Mails about a forgotten password to one account.
pub(crate) const RESET_MAILS: [(&str, Limit); 2] = [
    ("reset-mail", per_minute(5)),
    (
        "reset-mail-hour",
        Limit {
            most: 10,
            window: Duration::from_secs(3600),
        },
    ),
];

/// Mails to an owner about strangers who try its account.
const LOCK_MAIL: (&str, Limit) = (
    "lock-mail",
    Limit {
        most: 1,
        window: Duration::from_secs(24 * 3600),
    },
);

const PATIENCE: Patience = Patience {
    limit: Limit {
        most: 5,
        window: Duration::from_secs(300),
    },
    first: TimeDelta::seconds(30),
    longest: TimeDelta::minutes(15),
    in_row: 100,
};

/// The counters. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Limiter {
    store: Store,
    cache: Option<RedisCache>,
    secret: Arc<ServerSecret>,
}

impl Limiter {
    /// Counters in `cache`, where there is one, before `store`; accounts are named under `secret`.
    pub fn new(store: Store, cache: Option<RedisCache>, secret: Arc<ServerSecret>) -> Self {
        Self { store, cache, secret }
    }

    /// Counts one more request of `client`.
    ///
    /// # Errors
    /// 429 beyond the limit; 503 when nobody can count.
    pub async fn count(&self, (name, limit): (&str, Limit), client: ClientAddress) -> Result<(), ApiError> {
        let count = self.count_one(&bucket(name, &client.bucket()), limit).await?;
        refuse_beyond(count.within(limit), limit, count)
    }

    /// Counts one more sign-up of `client`. Where everybody may manage users anyway nothing is counted; while nobody can
    /// count, sign-ups go on, as they do without the database.
    ///
    /// # Errors
    /// 429 beyond the limit.
    pub async fn count_sign_up(&self, guard: &Guard, client: ClientAddress) -> Result<(), ApiError> {
        if guard.is_open() {
            return Ok(());
        }
        match self.count(REGISTRATIONS, client).await {
            Err(error) if error.status() != StatusCode::TOO_MANY_REQUESTS => Ok(()),
            counted => counted,
        }
    }

    /// Counts one more failure of `client`, which has its answer already.
    ///
    /// # Errors
    /// 503 when nobody can count.
    pub async fn note(&self, (name, limit): (&str, Limit), client: ClientAddress) -> Result<(), ApiError> {
        self.count_one(&bucket(name, &client.bucket()), limit).await.map(drop)
    }

    /// Whether `client` may go on, without counting.
    ///
    /// # Errors
    /// As [`Limiter::count`].
    pub async fn check(&self, (name, limit): (&str, Limit), client: ClientAddress) -> Result<(), ApiError> {
        let bucket = bucket(name, &client.bucket());
        if let Some(cache) = &self.cache {
            match cache.get(&bucket).await {
                Ok(used) => {
                    let used = used.and_then(|text| text.parse().ok()).unwrap_or(0);
                    let count = Count {
                        used,
                        resets_in: limit.window,
                    };
                    return refuse_beyond(used < limit.most, limit, count);
                }
                Err(error) => tracing::debug!(error = chain(&error), "the database counts instead of Redis"),
            }
        }
        let count = attempts_repository::used(&self.store, &bucket, now()).await?;
        refuse_beyond(count.used < limit.most, limit, count)
    }

    /// Whether one more mail may go to `email`; counts it.
    ///
    /// # Errors
    /// 503 when nobody can count.
    pub async fn may_mail(&self, email: &EmailAddress) -> Result<bool, ApiError> {
        let account = self.account(email);
        let mut may = true;
        for (name, limit) in RESET_MAILS {
            may &= self.count_one(&bucket(name, &account), limit).await?.within(limit);
        }
        Ok(may)
    }

    /// Notes that somebody tries the password of `email`, whether that is a user's or nobody's. Answers whether the
    /// account has to wait after this, should it fail.
    ///
    /// # Errors
    /// 429 while it has to wait; 503 when nobody can tell.
    pub async fn try_account(&self, email: &EmailAddress) -> Result<bool, ApiError> {
        self.try_one(&self.account(email)).await
    }

    /// The same for the password of whoever has `session` already: what strangers guess does not shut them out, and what
    /// is guessed with a stolen token counts by itself.
    ///
    /// # Errors
    /// As [`Limiter::try_account`].
    pub async fn try_session(&self, session: Uuid) -> Result<(), ApiError> {
        self.try_one(&of_session(session)).await.map(drop)
    }

    /// The right password was given in `session`.
    pub async fn forget_session(&self, session: Uuid) {
        self.forget_one(&of_session(session)).await;
    }

    /// The last try in `session` came to nothing by no fault of whoever tried.
    pub async fn pardon_session(&self, session: Uuid) {
        self.pardon_one(&of_session(session)).await;
    }

    /// Whether the owner of `email` is to be told that strangers have made it wait: once a day.
    ///
    /// # Errors
    /// 503 when nobody can count.
    pub async fn may_warn(&self, email: &EmailAddress) -> Result<bool, ApiError> {
        let (name, limit) = LOCK_MAIL;
        let bucket = bucket(name, &self.account(email));
        Ok(self.count_one(&bucket, limit).await?.within(limit))
    }

    async fn try_one(&self, account: &str) -> Result<bool, ApiError> {
        match attempts_repository::try_account(&self.store, account, &PATIENCE, now()).await? {
            Tried::Noted { last } => Ok(last),
            Tried::Wait(wait) => Err(ApiError::too_many(PATIENCE.limit, wait)),
            // Waiting is of no use: only a new password opens it.
            Tried::Shut => Err(ApiError::of(StatusCode::TOO_MANY_REQUESTS)
                .detail("There were too many wrong passwords. A new one, by mail, opens the account again.")),
        }
    }

    /// The right password was given, or a new one set. That is done whether this can be noted or not.
    pub async fn forget(&self, email: &EmailAddress) {
        self.forget_one(&self.account(email)).await;
    }

    async fn forget_one(&self, account: &str) {
        if let Err(error) = attempts_repository::forget(&self.store, account).await {
            tracing::warn!(error = chain(&error), "an account's failed attempts were not forgotten");
        }
    }

    /// The last try came to nothing by no fault of whoever tried.
    pub async fn pardon(&self, email: &EmailAddress) {
        self.pardon_one(&self.account(email)).await;
    }

    async fn pardon_one(&self, account: &str) {
        if let Err(error) = attempts_repository::pardon(&self.store, account).await {
            tracing::warn!(error = chain(&error), "an attempt that was none was not taken back");
        }
    }

    /// Nobody reads addresses out of the counters.
    fn account(&self, email: &EmailAddress) -> String {
        self.secret.pseudonym(email)
    }

    async fn count_one(&self, bucket: &str, limit: Limit) -> Result<Count, ApiError> {
        if let Some(cache) = &self.cache {
            match cache.count(bucket, limit.window).await {
                Ok(count) => return Ok(count),
                Err(error) => tracing::debug!(error = chain(&error), "the database counts instead of Redis"),
            }
        }
        Ok(attempts_repository::count(&self.store, bucket, limit.window, now()).await?)
    }
}

/// No pseudonym of an address has a colon in it.
fn of_session(session: Uuid) -> String {
    format!("session:{session}")
}

fn bucket(name: &str, who: &str) -> String {
    format!("accounts:limit:{name}:{who}")
}

fn refuse_beyond(within: bool, limit: Limit, count: Count) -> Result<(), ApiError> {
    if within {
        Ok(())
    } else {
        Err(ApiError::too_many(limit, count.resets_in))
    }
}
