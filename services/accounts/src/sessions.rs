//! What sessions are made of in this process: their lives, keys, cookie and counters.

use std::sync::Arc;

use axum::Json;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use posthaste_host::auth::{AccessClaims, TokenRules};
use posthaste_host::http::ApiError;
use posthaste_host::{ConfigError, ServiceContext, Settings};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::limit_attempts::Limiter;
use crate::refresh_cookie::RefreshCookie;
use crate::server_secret::ServerSecret;
use crate::sessions_repository::Session;
use crate::sign_tokens::TokenKeys;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    /// An access token, in seconds.
    pub access: i64,
    /// A session without a refresh.
    pub idle: TimeDelta,
    /// A session.
    pub absolute: TimeDelta,
    /// A refresh token after its first use.
    pub grace: TimeDelta,
}

impl Lives {
    fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let seconds = |name: &str, least: i64, most: i64| {
            let text = settings.get(name).unwrap_or_default();
            let number = text.trim().parse::<i64>().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| ConfigError::refused(format!("{name}={text}: write {least} to {most} seconds")))
        };
        let year = 366 * 24 * 3600;
        Ok(Self {
            access: seconds("ACCESS_TOKEN_SECONDS", 60, 900)?,
            idle: TimeDelta::seconds(seconds("SESSION_IDLE_SECONDS", 1, year)?),
            absolute: TimeDelta::seconds(seconds("SESSION_SECONDS", 1, year)?),
            grace: TimeDelta::seconds(seconds("REFRESH_GRACE_SECONDS", 0, 60)?),
        })
    }
}

/// Everything about sessions that the handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions {
    pub lives: Lives,
    pub rules: TokenRules,
    pub secret: Arc<ServerSecret>,
    pub keys: TokenKeys,
    pub cookie: RefreshCookie,
    pub limiter: Limiter,
}

/// A token to call with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccessToken {
    access_token: String,
    #[schema(example = "bearer")]
    token_type: &'static str,
    /// In seconds.
    #[schema(example = 300)]
    expires_in: i64,
}

impl Sessions {
    /// As the settings say.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn of(context: &ServiceContext) -> Result<Self, ConfigError> {
        let secret = Arc::new(ServerSecret::of(context)?);
        Ok(Self {
            lives: Lives::of(&context.settings)?,
            rules: TokenRules::of(&context.settings),
            keys: TokenKeys::new(context.store.clone(), secret.clone()),
            cookie: RefreshCookie::of(&context.settings),
            limiter: Limiter::new(context.store.clone(), context.cache.clone(), secret.clone()),
            secret,
        })
    }

    /// A session of `user` that begins at `at`, with a first refresh token to come.
    pub fn new_session(&self, user: Uuid, at: DateTime<Utc>) -> Session {
        let absolute_until = at + self.lives.absolute;
        Session {
            id: Uuid::new_v4(),
            user_id: user,
            generation: 1,
            rotated_at: at,
            grace_hits: 0,
            idle_until: (at + self.lives.idle).min(absolute_until),
            absolute_until,
            is_revoked: false,
        }
    }

    /// The answer to whoever holds `refresh`, the newest token of `session`: an access token in the body, that one in
    /// the cookie and nowhere else.
    ///
    /// # Errors
    /// When no token can be signed.
    pub async fn answer(&self, session: &Session, refresh: &str, at: DateTime<Utc>) -> Result<Response, ApiError> {
        let issued = at.timestamp();
        let claims = AccessClaims {
            iss: self.rules.issuer.clone(),
            aud: self.rules.audience.clone(),
            sub: session.user_id,
            iat: issued,
            nbf: issued,
            exp: issued + self.lives.access,
            jti: Uuid::new_v4(),
            sid: session.id,
        };
        let body = AccessToken {
            access_token: self.keys.sign(&claims).await?,
            token_type: "bearer",
            expires_in: self.lives.access,
        };
        let cookie = self.cookie.set(refresh, (session.idle_until - at).num_seconds())?;
        Ok(([(SET_COOKIE, cookie)], Json(body)).into_response())
    }

    /// 204, and the browser forgets the cookie.
    pub fn farewell(&self) -> Response {
        let cookie: HeaderValue = self.cookie.clear();
        (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
    }
}
