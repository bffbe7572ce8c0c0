//! `POST /api/v1/auth/refresh`: the refresh token in the cookie is exchanged for the next one, once.
//!
//! The next token is derived from this one, so that requests that come with it at the same time, or again because an
//! answer was lost, are all given the same cookie: there is one successor, whoever asks first. After a fixed time from
//! the first use only a thief has a reason to present it; the session ends then.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use posthaste::message::now;
use posthaste::{Message, Tx, outbox};
use posthaste_host::http::ApiError;
use posthaste_host::redis_cache::Limit;
use uuid::Uuid;

use crate::Accounts;
use crate::attempts_repository;
use crate::audit_repository::{self, AuditEvent, Origin};
use crate::mail_user::{MailRequested, Occasion};
use crate::secret_token::hash_of;
use crate::sessions_repository::{self, Session};
use crate::verify_access::tell_revoked;

/// Most repetitions within the time for them; more than the parallel requests of any page.
const MOST_REPEATED: i64 = 100;

/// How often the token of one session is exchanged; an access token lives a minute at least.
const REFRESHES: Limit = Limit {
    most: 60,
    window: Duration::from_secs(60),
};

/// Exchanges the refresh token in the cookie for a new one and an access token.
#[utoipa::path(
    post,
    path = "/api/v1/auth/refresh",
    tag = "sessions",
    security(()),
    params(("X-Requested-With" = Option<String>, Header, description = "Anything; for clients that are no browsers")),
    responses(
        (status = 200, description = "A new access token, and a new cookie", body = crate::sessions::AccessToken),
        (status = 401, description = "No cookie, or its token is unknown, ended or was used before"),
        (status = 403, description = "The request comes from another site"),
        (status = 415, description = "The body is no JSON"),
        (status = 429, description = "Too many refreshes of this session"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn refresh_session(
    State(accounts): State<Accounts>,
    origin: Origin,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let cookie = &accounts.sessions.cookie;
    cookie.check_site(&headers)?;
    let token = cookie.read(&headers).ok_or_else(refused)?;
    accounts.sessions.keys.check().await?;
    let tx = accounts.context.store.begin().await?;
    let Some((mut session, generation)) = sessions_repository::lock_by_token(&tx, &hash_of(&token)).await? else {
        return Err(refused());
    };
    // Only now: whoever waited for the lock must not count from before what happened under it.
    let at = now();
    let fate = decide(&session, generation, at, accounts.sessions.lives.grace);
    if let Fate::Over = fate {
        return Err(refused().header(SET_COOKIE, cookie.clear()));
    }
    if let Fate::Reused = fate {
        end_reused(&accounts, tx, &session, origin, at).await?;
        return Err(refused().header(SET_COOKIE, cookie.clear()));
    }
    let next = accounts.sessions.secret.successor(session.id, generation, &token);
    let next_hash = hash_of(&next);
    if let Fate::Rotated = fate {
        let bucket = format!("accounts:limit:refresh:{}", session.id);
        let count = attempts_repository::count_in(&tx, &bucket, REFRESHES.window, at).await?;
        // Not committed: whoever comes too often is not kept out any longer for it.
        if !count.within(REFRESHES) {
            return Err(ApiError::too_many(REFRESHES, count.resets_in));
        }
    }
    if let Fate::Repeated = fate {
        if !sessions_repository::is_token(&tx, session.id, session.generation, &next_hash).await? {
            // Nothing is wrong with the client: another process has rotated under another secret.
            tracing::warn!("a refresh was repeated at a process with another ACCOUNTS_SECRET");
            return Err(refused());
        }
        sessions_repository::count_grace(&tx, session.id).await?;
    } else {
        session.generation += 1;
        session.rotated_at = at;
        session.idle_until = (at + accounts.sessions.lives.idle).min(session.absolute_until);
        sessions_repository::rotate(&tx, &session, &next_hash).await?;
    }
    tx.commit().await?;
    accounts.sessions.answer(&session, &next, at).await
}

/// What becomes of a token that is the session's, now or once.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The newest: the next one takes its place.
    Rotated,
    /// The one before, still within its time.
    Repeated,
    /// Used long ago.
    Reused,
    /// The session has ended.
    Over,
}

fn decide(session: &Session, generation: i64, at: DateTime<Utc>, grace: chrono::TimeDelta) -> Fate {
    if session.is_revoked || session.idle_until <= at || session.absolute_until <= at {
        return Fate::Over;
    }
    if generation == session.generation {
        return Fate::Rotated;
    }
    // Two clocks may differ, so none is asked where there is no time.
    let in_time = !grace.is_zero() && session.rotated_at + grace > at && session.grace_hits < MOST_REPEATED;
    if generation + 1 == session.generation && in_time {
        Fate::Repeated
    } else {
        Fate::Reused
    }
}

async fn end_reused(
    accounts: &Accounts,
    mut tx: Tx,
    session: &Session,
    origin: Origin,
    at: DateTime<Utc>,
) -> Result<(), ApiError> {
    sessions_repository::end(&tx, session.id, "reuse", at).await?;
    let event = AuditEvent {
        action: "user.refresh_reuse",
        actor: Some("anonymous".to_owned()),
        user_id: Some(session.user_id),
        origin,
        detail: Some(format!("session {}", session.id)),
    };
    audit_repository::record(&tx, event).await?;
    let mail = Message::of(&MailRequested::to(session.user_id, Occasion::RefreshReused))?;
    outbox::append(&mut tx, accounts.context.name, mail).await?;
    tx.commit().await?;
    tracing::warn!(session_id = %session.id, "a spent refresh token came again: its session has ended");
    let ended: [Uuid; 1] = [session.id];
    tell_revoked(
        accounts.context.cache.as_ref(),
        None,
        &ended,
        accounts.sessions.lives.access,
    )
    .await;
    Ok(())
}

/// One answer for each cause. Whether the cookie goes depends on the session alone: one that lives on may be in use by a
/// request that came just before.
fn refused() -> ApiError {
    ApiError::of(StatusCode::UNAUTHORIZED).detail("Sign in again.")
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_one_before_is_good_for_a_fixed_time_and_older_ones_never() {
        let start = now();
        let session = Session {
            id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(2),
            generation: 3,
            rotated_at: start,
            grace_hits: 0,
            idle_until: start + TimeDelta::days(1),
            absolute_until: start + TimeDelta::days(2),
            is_revoked: false,
        };
        let fate = |generation: i64, seconds: i64, grace: i64| {
            decide(
                &session,
                generation,
                start + TimeDelta::seconds(seconds),
                TimeDelta::seconds(grace),
            )
        };
        assert_eq!(fate(3, 3600, 10), Fate::Rotated);
        assert_eq!((fate(2, 1, 10), fate(2, 9, 10)), (Fate::Repeated, Fate::Repeated));
        assert_eq!((fate(2, 10, 10), fate(2, 11, 10)), (Fate::Reused, Fate::Reused));
        assert_eq!(fate(2, 0, 0), Fate::Reused);
        assert_eq!(fate(1, 1, 10), Fate::Reused);
        assert_eq!(fate(3, 24 * 3600, 10), Fate::Over);
        let over = Session {
            is_revoked: true,
            ..session.clone()
        };
        assert_eq!(decide(&over, 1, start, TimeDelta::seconds(10)), Fate::Over);
    }
}
