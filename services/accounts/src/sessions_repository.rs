//! The tables `sessions`, `refresh_tokens` and `revoked_tokens`. All times are the caller's clock.

use chrono::{DateTime, Utc};
use posthaste::store::Row;
use posthaste::{Store, StoreError, Tx};
use posthaste_host::auth::AccessClaims;
use uuid::Uuid;

use crate::audit_repository::Origin;

/// Most sessions of one user; the oldest make room.
const MOST: i64 = 20;

/// A session as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub id: Uuid,
    pub user_id: Uuid,
    /// The number of its newest refresh token.
    pub generation: i64,
    /// When that was made.
    pub rotated_at: DateTime<Utc>,
    /// How often the one before was presented since.
    pub grace_hits: i64,
    pub idle_until: DateTime<Utc>,
    pub absolute_until: DateTime<Utc>,
    pub is_revoked: bool,
}

/// A live session, as it is shown to its user.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub user_agent: Option<String>,
    pub ip: Option<String>,
}

/// Stores `session` with its first refresh token, and ends the oldest ones beyond the twentieth.
pub(crate) async fn begin(tx: &Tx, session: &Session, token_hash: &str, origin: &Origin) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let at = dialect.time(session.rotated_at);
    let sql = "INSERT INTO sessions (id, user_id, generation, rotated_at, grace_hits, idle_until, absolute_until, \
        user_agent, ip, created_at, last_used_at) VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9, $10)";
    let values = vec![
        dialect.uuid(session.id),
        dialect.uuid(session.user_id),
        session.generation.into(),
        at.clone(),
        dialect.time(session.idle_until),
        dialect.time(session.absolute_until),
        origin.user_agent.clone().into(),
        origin.ip.clone().into(),
        at.clone(),
        at.clone(),
    ];
    tx.execute(sql, values).await?;
    add_token(tx, session.id, session.generation, token_hash).await?;
    let sql = "SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND idle_until > $2 \
        ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET $3";
    let values = vec![dialect.uuid(session.user_id), at, MOST.into()];
    for row in tx.query(sql, values).await? {
        end(tx, row.uuid("id")?, "evicted", session.rotated_at).await?;
    }
    Ok(())
}

async fn add_token(tx: &Tx, session: Uuid, generation: i64, token_hash: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO refresh_tokens (token_hash, session_id, generation) VALUES ($1, $2, $3)";
    let values = vec![token_hash.into(), tx.dialect().uuid(session), generation.into()];
    tx.execute(sql, values).await?;
    Ok(())
}

/// The session that the refresh token with this hash belongs to, locked until `tx` ends, and the token's number.
pub(crate) async fn lock_by_token(tx: &Tx, token_hash: &str) -> Result<Option<(Session, i64)>, StoreError> {
    let sql = "SELECT session_id, generation FROM refresh_tokens WHERE token_hash = $1";
    let rows = tx.query(sql, vec![token_hash.into()]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let (id, generation) = (row.uuid("session_id")?, row.get("generation")?);
    Ok(lock(tx, id).await?.map(|session| (session, generation)))
}

/// The session `id`, locked until `tx` ends. Whoever locks a user as well locks the user first.
pub(crate) async fn lock(tx: &Tx, id: Uuid) -> Result<Option<Session>, StoreError> {
    let id = vec![tx.dialect().uuid(id)];
    // The one row lock that every database knows.
    tx.execute("UPDATE sessions SET grace_hits = grace_hits WHERE id = $1", id.clone())
        .await?;
    let sql = "SELECT id, user_id, generation, rotated_at, grace_hits, idle_until, absolute_until, revoked_at \
        FROM sessions WHERE id = $1";
    tx.query(sql, id).await?.first().map(read).transpose()
}

/// Makes `token_hash` the newest refresh token of `session`, whose `generation` counts it already.
pub(crate) async fn rotate(tx: &Tx, session: &Session, token_hash: &str) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let sql = "UPDATE sessions SET generation = $2, rotated_at = $3, grace_hits = 0, idle_until = $4, last_used_at = $5 \
        WHERE id = $1";
    let values = vec![
        dialect.uuid(session.id),
        session.generation.into(),
        dialect.time(session.rotated_at),
        dialect.time(session.idle_until),
        dialect.time(session.rotated_at),
    ];
    tx.execute(sql, values).await?;
    add_token(tx, session.id, session.generation, token_hash).await
}

/// Counts that the token before the newest one was presented again.
pub(crate) async fn count_grace(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE sessions SET grace_hits = grace_hits + 1 WHERE id = $1";
    tx.execute(sql, vec![tx.dialect().uuid(id)]).await?;
    Ok(())
}

/// Whether the refresh token number `generation` of `session` has this hash.
pub(crate) async fn is_token(tx: &Tx, session: Uuid, generation: i64, token_hash: &str) -> Result<bool, StoreError> {
    let sql = "SELECT session_id FROM refresh_tokens WHERE token_hash = $1 AND session_id = $2 AND generation = $3";
    let values = vec![token_hash.into(), tx.dialect().uuid(session), generation.into()];
    Ok(!tx.query(sql, values).await?.is_empty())
}

/// Ends the session `id`; answers whether that is news. From where it was used is nobody's business then.
pub(crate) async fn end(tx: &Tx, id: Uuid, reason: &'static str, at: DateTime<Utc>) -> Result<bool, StoreError> {
    let sql = "UPDATE sessions SET revoked_at = $2, revoked_reason = $3, ip = NULL, user_agent = NULL \
        WHERE id = $1 AND revoked_at IS NULL";
    let values = vec![tx.dialect().uuid(id), tx.dialect().time(at), reason.into()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Ends all sessions of `user`, except one if that is named. The caller has changed or locked the row of the user
/// before in `tx`: a login that is under way then either ends with them or sees the change.
pub(crate) async fn end_all(
    tx: &Tx,
    user: Uuid,
    except: Option<Uuid>,
    reason: &'static str,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let mut sql = "UPDATE sessions SET revoked_at = $2, revoked_reason = $3, ip = NULL, user_agent = NULL \
        WHERE user_id = $1 AND revoked_at IS NULL"
        .to_owned();
    let mut values = vec![dialect.uuid(user), dialect.time(at), reason.into()];
    if let Some(except) = except {
        values.push(dialect.uuid(except));
        sql.push_str(" AND id <> $4");
    }
    tx.execute(&sql, values).await?;
    Ok(())
}

/// The live sessions of `user`, the one that was used last first.
pub(crate) async fn list(store: &Store, user: Uuid, at: DateTime<Utc>) -> Result<Vec<Shown>, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT id, created_at, last_used_at, user_agent, ip FROM sessions \
        WHERE user_id = $1 AND revoked_at IS NULL AND idle_until > $2 ORDER BY last_used_at DESC, id LIMIT 100";
    let rows = store.query(sql, vec![dialect.uuid(user), dialect.time(at)]).await?;
    let shown = rows.iter().map(|row| {
        Ok(Shown {
            id: row.uuid("id")?,
            created_at: row.time("created_at")?,
            last_used_at: row.time("last_used_at")?,
            user_agent: row.get("user_agent")?,
            ip: row.get("ip")?,
        })
    });
    shown.collect()
}

/// From now on the access token of `claims` opens nothing; kept until `until`.
pub(crate) async fn revoke_token(tx: &Tx, token: Uuid, until: DateTime<Utc>) -> Result<(), StoreError> {
    let sql = "INSERT INTO revoked_tokens (token_id, expires_at) VALUES ($1, $2) {ignore:token_id}";
    let values = vec![tx.dialect().uuid(token), tx.dialect().time(until)];
    tx.execute(sql, values).await?;
    Ok(())
}

/// The role of the user of `claims`, if token, session and user are all as good as when it was signed.
pub(crate) async fn role_of(
    store: &Store,
    claims: &AccessClaims,
    at: DateTime<Utc>,
) -> Result<Option<String>, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT users.role FROM users JOIN sessions ON sessions.user_id = users.id \
        WHERE users.id = $1 AND users.is_active AND users.deleted_at IS NULL \
        AND sessions.id = $2 AND sessions.revoked_at IS NULL AND sessions.absolute_until > $3 \
        AND NOT EXISTS (SELECT 1 FROM revoked_tokens WHERE token_id = $4)";
    let values = vec![
        dialect.uuid(claims.sub),
        dialect.uuid(claims.sid),
        dialect.time(at),
        dialect.uuid(claims.jti),
    ];
    let rows = store.query(sql, values).await?;
    rows.first().map(|row| row.get("role")).transpose()
}

/// Drops at most `most` access tokens that were logged out and would have ended before `at`; answers whether there may
/// be more.
pub(crate) async fn purge_revoked(store: &Store, at: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT token_id FROM revoked_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
    let rows = store.query(sql, vec![dialect.time(at), most.into()]).await?;
    let ids = rows.iter().map(|row| row.uuid("token_id"));
    let ids = dialect.uuids(ids.collect::<Result<Vec<_>, _>>()?);
    if !rows.is_empty() {
        let sql = "DELETE FROM revoked_tokens WHERE token_id {in:$1}";
        store.execute(sql, vec![ids]).await?;
    }
    Ok(rows.len() as i64 == most)
}

/// Drops at most `most` refresh tokens of a session that ended before `at`, or sessions whose tokens are gone; answers
/// whether there may be more.
pub(crate) async fn purge(store: &Store, at: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT id FROM sessions WHERE absolute_until <= $1 ORDER BY absolute_until LIMIT $2";
    let rows = store.query(sql, vec![dialect.time(at), most.into()]).await?;
    let ids = rows.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() {
        return Ok(false);
    }
    let sessions = dialect.uuids(ids);
    let sql = "SELECT token_hash FROM refresh_tokens WHERE session_id {in:$1} LIMIT $2";
    let tokens = store.query(sql, vec![sessions.clone(), most.into()]).await?;
    if tokens.is_empty() {
        // Nobody begins a token of a session that has ended.
        store
            .execute("DELETE FROM sessions WHERE id {in:$1}", vec![sessions])
            .await?;
        return Ok(rows.len() as i64 == most);
    }
    let hashes = tokens.iter().map(|row| row.get("token_hash"));
    let hashes = dialect.texts(hashes.collect::<Result<Vec<String>, _>>()?);
    let sql = "DELETE FROM refresh_tokens WHERE token_hash {in:$1}";
    store.execute(sql, vec![hashes]).await?;
    Ok(true)
}

fn read(row: &Row) -> Result<Session, StoreError> {
    Ok(Session {
        id: row.uuid("id")?,
        user_id: row.uuid("user_id")?,
        generation: row.get("generation")?,
        rotated_at: row.time("rotated_at")?,
        grace_hits: row.get("grace_hits")?,
        idle_until: row.time("idle_until")?,
        absolute_until: row.time("absolute_until")?,
        is_revoked: row.time_or_null("revoked_at")?.is_some(),
    })
}
