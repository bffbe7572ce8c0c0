//! What of the table `users` and of `reset_tokens` is about passwords.

use chrono::{DateTime, Utc};
use posthaste::store::Row;
use posthaste::{Store, StoreError, Tx};
use uuid::Uuid;

use crate::email_address::EmailAddress;
use crate::user::{ADMIN, Verification};

/// What signing in is checked against.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub user_id: Uuid,
    /// The canonical address.
    pub email: String,
    /// A PHC string; `None` for users who have never set a password.
    pub password_hash: Option<String>,
    pub is_active: bool,
    pub is_verified: bool,
}

const COLUMNS: &str = "id, email, password_hash, is_active, verification_state";

/// Those of the user with this address.
pub(crate) async fn by_email(store: &Store, email: &EmailAddress) -> Result<Option<Credentials>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE email = $1 AND deleted_at IS NULL");
    let rows = store.query(&sql, vec![email.as_str().into()]).await?;
    rows.first().map(read).transpose()
}

/// Those of the user `id`.
pub(crate) async fn by_id(store: &Store, id: Uuid) -> Result<Option<Credentials>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE id = $1 AND deleted_at IS NULL");
    let rows = store.query(&sql, vec![store.dialect().uuid(id)]).await?;
    rows.first().map(read).transpose()
}

/// Notes a sign-in with the password whose hash is `checked`, and puts `stronger` in its place where that is given.
/// `false`: the password was changed or the user disabled meanwhile. The row stays locked until `tx` ends.
pub(crate) async fn sign_in(
    tx: &Tx,
    id: Uuid,
    checked: &str,
    stronger: Option<String>,
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET last_login = $3, password_hash = $4 \
        WHERE id = $1 AND password_hash = $2 AND is_active AND deleted_at IS NULL";
    let kept = stronger.unwrap_or_else(|| checked.to_owned());
    let values = vec![
        tx.dialect().uuid(id),
        checked.into(),
        tx.dialect().time(at),
        kept.into(),
    ];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Locks the row of `id` until `tx` ends; `false`: there is no such user.
pub(crate) async fn lock(tx: &Tx, id: Uuid) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET version = version WHERE id = $1 AND deleted_at IS NULL";
    Ok(tx.execute(sql, vec![tx.dialect().uuid(id)]).await? == 1)
}

/// Whether `id` is active and has `role` now; its row stays locked until `tx` ends.
pub(crate) async fn still(tx: &Tx, id: Uuid, role: &str) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET version = version WHERE id = $1 AND role = $2 AND is_active AND deleted_at IS NULL";
    Ok(tx.execute(sql, vec![tx.dialect().uuid(id), role.into()]).await? == 1)
}

/// Gives `id` the password whose hash is `hash`; only in the place of the one whose hash is `checked`, where that is
/// given. `false`: there is no such user or password.
pub(crate) async fn set_password(tx: &Tx, id: Uuid, checked: Option<&str>, hash: &str) -> Result<bool, StoreError> {
    let mut sql = "UPDATE users SET password_hash = $2, version = version + 1, updated_at = {now} \
        WHERE id = $1 AND is_active AND deleted_at IS NULL"
        .to_owned();
    let mut values = vec![tx.dialect().uuid(id), hash.into()];
    if let Some(checked) = checked {
        values.push(checked.into());
        sql.push_str(" AND password_hash = $3");
    }
    Ok(tx.execute(&sql, values).await? == 1)
}

/// Makes `id` an administrator; `false`: there is no such user.
pub(crate) async fn promote(tx: &Tx, id: Uuid) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET role = $2, version = version + 1, updated_at = {now} \
        WHERE id = $1 AND deleted_at IS NULL";
    Ok(tx.execute(sql, vec![tx.dialect().uuid(id), ADMIN.into()]).await? == 1)
}

/// What time it is for the database: the one clock for requests that are compared with each other.
pub(crate) async fn clock(store: &Store) -> Result<DateTime<Utc>, StoreError> {
    let rows = store.query("SELECT {now} AS time", vec![]).await?;
    rows.first().map_or(Ok(Utc::now()), |row| row.time("time"))
}

/// Makes `hash` the one reset token of `user`, good for `life` µs and asked for at `requested_at`, unless a later request
/// or a new password has come between; answers whether it did. A row from far in the future, which no clock of ours has
/// made, counts for nothing.
pub(crate) async fn set_reset(
    tx: &Tx,
    user: Uuid,
    hash: &str,
    requested_at: DateTime<Utc>,
    life: i64,
) -> Result<bool, StoreError> {
    let dialect = tx.dialect();
    let sql = "INSERT INTO reset_tokens (user_id, requested_at, expires_at) VALUES ($1, $2, $3) {ignore:user_id}";
    let long_ago = dialect.time(DateTime::UNIX_EPOCH);
    tx.execute(sql, vec![dialect.uuid(user), long_ago.clone(), long_ago])
        .await?;
    let sql = "UPDATE reset_tokens SET token_hash = $2, requested_at = $3, expires_at = {after:$4} \
        WHERE user_id = $1 AND (requested_at <= $5 OR requested_at > {after:$6})";
    let at = dialect.time(requested_at);
    let far = 300_000_000_i64;
    let values = vec![dialect.uuid(user), hash.into(), at.clone(), life.into(), at, far.into()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Takes the password of a user who has not confirmed the address away, unless the user came within the last `spared` µs:
/// somebody else wants to sign up with it, and whoever owns the mailbox sets a new one.
pub(crate) async fn contest(tx: &Tx, email: &EmailAddress, spared: i64) -> Result<(), StoreError> {
    let sql = "UPDATE users SET password_hash = NULL WHERE email = $1 AND verification_state = 'PENDING' \
        AND deleted_at IS NULL AND created_at <= {after:$2}";
    tx.execute(sql, vec![email.as_str().into(), (-spared).into()]).await?;
    Ok(())
}

/// Whose reset token has the hash `hash` and has not expired.
pub(crate) async fn holder_of_reset(store: &Store, hash: &str) -> Result<Option<Uuid>, StoreError> {
    let sql = "SELECT user_id FROM reset_tokens WHERE token_hash = $1 AND expires_at > {now}";
    let rows = store.query(sql, vec![hash.into()]).await?;
    rows.first().map(|row| row.uuid("user_id")).transpose()
}

/// Uses the reset token with the hash `hash` up; of several callers one is told `true`.
pub(crate) async fn spend_reset(tx: &Tx, user: Uuid, hash: &str) -> Result<bool, StoreError> {
    let sql = "UPDATE reset_tokens SET token_hash = NULL, requested_at = {now} \
        WHERE user_id = $1 AND token_hash = $2 AND expires_at > {now}";
    let values = vec![tx.dialect().uuid(user), hash.into()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// From now on no reset token of `user` that was asked for before is good, whatever its date, not even one that is still
/// on its way.
pub(crate) async fn void_resets(tx: &Tx, user: Uuid) -> Result<(), StoreError> {
    let id = || tx.dialect().uuid(user);
    let sql = "INSERT INTO reset_tokens (user_id, requested_at, expires_at) VALUES ($1, {now}, {now}) {ignore:user_id}";
    tx.execute(sql, vec![id()]).await?;
    let sql = "UPDATE reset_tokens SET token_hash = NULL, requested_at = {now} WHERE user_id = $1";
    tx.execute(sql, vec![id()]).await?;
    Ok(())
}

fn read(row: &Row) -> Result<Credentials, StoreError> {
    let verified: String = row.get("verification_state")?;
    Ok(Credentials {
        user_id: row.uuid("id")?,
        email: row.get("email")?,
        password_hash: row.get("password_hash")?,
        is_active: row.get("is_active")?,
        is_verified: verified == Verification::Verified.as_str(),
    })
}
