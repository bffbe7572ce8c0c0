//! Whose an access token is, now: signature first, then what the database says of token, session and user. Redis knows
//! only of what was revoked, and is believed in that alone: its silence, for whatever reason, means nothing.

use chrono::DateTime;
use posthaste::failure::chain;
use posthaste::message::now;
use posthaste::{Store, StoreError};
use posthaste_host::ServiceContext;
use posthaste_host::auth::{AccessClaims, Principal, Refusal, Role, UnverifiedToken, Verifier};
use posthaste_host::redis_cache::RedisCache;
use uuid::Uuid;

use crate::sessions::Sessions;
use crate::sessions_repository;
use crate::user::ADMIN;

/// Seconds that a clock may be off, as for the tokens themselves, and one for the rounding.
pub(crate) const MARGIN: i64 = 6;

/// The verifier of this process.
pub(crate) fn verifier(context: &ServiceContext, sessions: &Sessions) -> Verifier {
    let (store, cache, sessions) = (context.store.clone(), context.cache.clone(), sessions.clone());
    Verifier::new(move |token| {
        let (store, cache, sessions) = (store.clone(), cache.clone(), sessions.clone());
        async move { verify(&store, cache.as_ref(), &sessions, &token).await }
    })
}

async fn verify(
    store: &Store,
    cache: Option<&RedisCache>,
    sessions: &Sessions,
    token: &str,
) -> Result<Principal, Refusal> {
    let unavailable = |error: StoreError| {
        tracing::warn!(error = chain(&error), "a token cannot be checked");
        Refusal::Unavailable
    };
    let read = UnverifiedToken::read(token).map_err(|_forged| Refusal::Invalid)?;
    let key = sessions.keys.public_key(read.kid()).await.map_err(unavailable)?;
    let key = key.ok_or(Refusal::Invalid)?;
    let at = now();
    let claims = read
        .verify(&key, &sessions.rules, at.timestamp())
        .map_err(|_forged| Refusal::Invalid)?;
    let standing = sessions_repository::role_of(store, &claims, at);
    let role = match cache {
        None => standing.await,
        // Both at once, so that a slow Redis costs nothing: what the database says is enough.
        Some(cache) => tokio::select! {
            biased;
            standing = standing => standing,
            () = told_revoked(cache, &claims) => return Err(Refusal::Invalid),
        },
    };
    let role = role.map_err(unavailable)?.ok_or(Refusal::Invalid)?;
    Ok(Principal {
        user_id: claims.sub,
        session_id: claims.sid,
        token_id: claims.jti,
        role: if role == ADMIN { Role::Admin } else { Role::User },
        expires_at: claims.exp,
    })
}

/// Ends if Redis says that the token or its session was revoked, and never otherwise.
async fn told_revoked(cache: &RedisCache, claims: &AccessClaims) {
    let keys = [token_key(claims.jti), session_key(claims.sid)];
    match cache.any(&keys).await {
        Ok(true) => {}
        Ok(false) | Err(_) => std::future::pending().await,
    }
}

/// Tells Redis that these are revoked, for as long as an access token of theirs could be good. The database knows already.
pub(crate) async fn tell_revoked(
    cache: Option<&RedisCache>,
    token: Option<(Uuid, i64)>,
    sessions: &[Uuid],
    access: i64,
) {
    let Some(cache) = cache else {
        return;
    };
    let tokens = token.map(|(id, ends)| (token_key(id), ends - now().timestamp()));
    let sessions = sessions.iter().map(|id| (session_key(*id), access));
    for (key, seconds) in tokens.into_iter().chain(sessions) {
        let life = u64::try_from(seconds + MARGIN).unwrap_or(1);
        if let Err(error) = cache.set(&key, "1", std::time::Duration::from_secs(life)).await {
            tracing::debug!(error = chain(&error), "Redis was not told of a revocation");
            return;
        }
    }
}

/// Until when a revoked token has to be remembered that ends at `expires_at` (seconds since 1970).
pub(crate) fn remember_until(expires_at: i64) -> chrono::DateTime<chrono::Utc> {
    DateTime::from_timestamp(expires_at.saturating_add(MARGIN), 0).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC)
}

fn token_key(id: Uuid) -> String {
    format!("accounts:revoked:token:{id}")
}

fn session_key(id: Uuid) -> String {
    format!("accounts:revoked:session:{id}")
}
