//! The table `users`.

use chrono::{DateTime, Utc};
use posthaste::store::{Column, Insert, OnConflict, Row};
use posthaste::{Store, StoreError, Tx};
use posthaste_host::KeysetCursor;
use uuid::Uuid;

use crate::email_address::EmailAddress;
use crate::user::{USER, User, Verification};

/// A user to be.
#[derive(Clone)]
pub(crate) struct NewUser {
    pub id: Uuid,
    pub email: EmailAddress,
    pub first_name: String,
    pub last_name: String,
    pub bio: Option<String>,
    pub is_active: bool,
    /// A PHC string; without one nobody can sign in.
    pub password_hash: Option<String>,
}

/// What to change of a user; `None` stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    /// `Some(None)` takes it away.
    pub bio: Option<Option<String>>,
    pub is_active: Option<bool>,
}

/// Which part of the list.
#[derive(Debug)]
pub(crate) struct Page {
    pub active_only: bool,
    pub after: Option<KeysetCursor>,
    pub skip: u32,
    pub limit: u32,
}

/// What the worker finds of a sign-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onboarding {
    /// The address is this user's, and this call was the first to say so.
    Begun,
    /// It was done before.
    Repeated,
    /// The address is this other user's.
    Taken(Uuid),
    /// The other user has gone in this moment.
    Freed,
}

const CLAIM: Insert = Insert {
    table: "users",
    columns: &[
        Column::Plain("id"),
        Column::Plain("email"),
        Column::Plain("first_name"),
        Column::Plain("last_name"),
        Column::Plain("bio"),
        Column::Plain("is_active"),
        Column::Plain("role"),
        Column::Plain("password_hash"),
        Column::Plain("verification_state"),
        Column::Plain("version"),
        Column::Now("created_at"),
        Column::Now("updated_at"),
    ],
    on_conflict: OnConflict::Ignore,
    returning: Some("id"),
};

const COLUMNS: &str = "id, email, first_name, last_name, bio, is_active, verification_state, version, \
    last_login, created_at, updated_at";

/// Inserts `user` unless its address or id is somebody's; answers whether it did. Waits for the transaction that is
/// about to claim the same address.
pub(crate) async fn claim(tx: &Tx, user: &NewUser) -> Result<bool, StoreError> {
    let row = vec![
        tx.dialect().uuid(user.id),
        user.email.as_str().into(),
        user.first_name.as_str().into(),
        user.last_name.as_str().into(),
        user.bio.clone().into(),
        user.is_active.into(),
        USER.into(),
        user.password_hash.clone().into(),
        Verification::Pending.as_str().into(),
        1_i64.into(),
    ];
    Ok(!CLAIM.run(tx, vec![row]).await?.is_empty())
}

/// As [`claim`]. An id that follows from an idempotency key may be that of a user who was deleted since the key was last
/// used: where nobody has the address, `user` gets a fresh one.
pub(crate) async fn claim_anew(tx: &Tx, user: &mut NewUser) -> Result<bool, StoreError> {
    if claim(tx, user).await? {
        return Ok(true);
    }
    let holders = tx.query(
        "SELECT id FROM users WHERE email = $1",
        vec![user.email.as_str().into()],
    );
    if !holders.await?.is_empty() {
        return Ok(false);
    }
    user.id = Uuid::now_v7();
    claim(tx, user).await
}

/// Whose `email` is.
pub(crate) async fn owner(tx: &Tx, email: &EmailAddress) -> Result<Option<Uuid>, StoreError> {
    let rows = tx.query("SELECT id FROM users WHERE email = $1", vec![email.as_str().into()]);
    rows.await?.first().map(|row| row.uuid("id")).transpose()
}

/// Notes that the sign-up of `id` for `email` is worked off.
pub(crate) async fn begin_onboarding(tx: &Tx, id: Uuid, email: &EmailAddress) -> Result<Onboarding, StoreError> {
    let id = || tx.dialect().uuid(id);
    let first = "UPDATE users SET onboarded_at = {now} WHERE id = $1 AND onboarded_at IS NULL AND deleted_at IS NULL";
    if tx.execute(first, vec![id()]).await? == 1 {
        return Ok(Onboarding::Begun);
    }
    if !tx
        .query("SELECT id FROM users WHERE id = $1", vec![id()])
        .await?
        .is_empty()
    {
        return Ok(Onboarding::Repeated);
    }
    let owners = tx.query("SELECT id FROM users WHERE email = $1", vec![email.as_str().into()]);
    match owners.await?.first() {
        Some(owner) => Ok(Onboarding::Taken(owner.uuid("id")?)),
        None => Ok(Onboarding::Freed),
    }
}

/// Notes that nothing has to be worked off for `id`, which was made by hand.
pub(crate) async fn skip_onboarding(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE users SET onboarded_at = {now} WHERE id = $1";
    tx.execute(sql, vec![tx.dialect().uuid(id)]).await?;
    Ok(())
}

/// The user `id`, unless it is deleted.
pub(crate) async fn find(store: &Store, id: Uuid) -> Result<Option<User>, StoreError> {
    let rows = store.query(&by("id"), vec![store.dialect().uuid(id)]).await?;
    rows.first().map(read).transpose()
}

/// As [`find`] within a transaction.
pub(crate) async fn find_in(tx: &Tx, id: Uuid) -> Result<Option<User>, StoreError> {
    let rows = tx.query(&by("id"), vec![tx.dialect().uuid(id)]).await?;
    rows.first().map(read).transpose()
}

/// The user whose address is `email`.
pub(crate) async fn find_by_email(store: &Store, email: &EmailAddress) -> Result<Option<User>, StoreError> {
    let rows = store.query(&by("email"), vec![email.as_str().into()]).await?;
    rows.first().map(read).transpose()
}

fn by(column: &str) -> String {
    format!("SELECT {COLUMNS} FROM users WHERE {column} = $1 AND deleted_at IS NULL")
}

/// The newest users of `page`, at most its limit and one more.
pub(crate) async fn list(store: &Store, page: &Page) -> Result<Vec<User>, StoreError> {
    let dialect = store.dialect();
    let mut conditions = conditions(page.active_only);
    let mut values = Vec::new();
    if let Some(KeysetCursor { time, id }) = &page.after {
        values.extend([dialect.time(*time), dialect.uuid(*id)]);
        conditions.push_str(" AND (created_at, id) < ($1, $2)");
    }
    let bound = values.len();
    values.extend([i64::from(page.limit) + 1, i64::from(page.skip)].map(Into::into));
    let sql = format!(
        "SELECT {COLUMNS} FROM users WHERE {conditions} ORDER BY created_at DESC, id DESC LIMIT ${} OFFSET ${}",
        bound + 1,
        bound + 2
    );
    store.query(&sql, values).await?.iter().map(read).collect()
}

/// How many users the whole list has.
pub(crate) async fn count(store: &Store, active_only: bool) -> Result<i64, StoreError> {
    let sql = format!("SELECT COUNT(*) AS n FROM users WHERE {}", conditions(active_only));
    match store.query(&sql, vec![]).await?.first() {
        Some(row) => row.get("n"),
        None => Ok(0),
    }
}

fn conditions(active_only: bool) -> String {
    let active = if active_only { " AND is_active" } else { "" };
    format!("deleted_at IS NULL{active}")
}

/// Changes the user `id`, if `version` is its version where one is given; answers whether it did.
pub(crate) async fn update(tx: &Tx, id: Uuid, version: Option<i64>, changes: Changes) -> Result<bool, StoreError> {
    let mut values = vec![tx.dialect().uuid(id)];
    let mut set = String::new();
    let mut assign = |column: &str, value| {
        values.push(value);
        set.push_str(&format!("{column} = ${}, ", values.len()));
    };
    if let Some(first_name) = changes.first_name {
        assign("first_name", first_name.into());
    }
    if let Some(last_name) = changes.last_name {
        assign("last_name", last_name.into());
    }
    if let Some(bio) = changes.bio {
        assign("bio", bio.into());
    }
    if let Some(is_active) = changes.is_active {
        assign("is_active", is_active.into());
    }
    let mut sql = format!(
        "UPDATE users SET {set}version = version + 1, updated_at = {{now}} WHERE id = $1 AND deleted_at IS NULL"
    );
    if let Some(version) = version {
        values.push(version.into());
        sql.push_str(&format!(" AND version = ${}", values.len()));
    }
    Ok(tx.execute(&sql, values).await? == 1)
}

/// Deletes the user `id`: the row stays, without anything that tells who it was, and the address is free. Answers
/// whether there was such a user.
pub(crate) async fn delete(tx: &Tx, id: Uuid) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET email = $2, first_name = 'Deleted', last_name = 'User', bio = NULL, \
        is_active = $3, password_hash = NULL, verification_hash = NULL, verification_expires_at = NULL, \
        last_login = NULL, version = version + 1, deleted_at = {now}, updated_at = {now} \
        WHERE id = $1 AND deleted_at IS NULL";
    // No address that somebody can give ends in this.
    let nobody = format!("deleted-{id}@deleted.invalid");
    let values = vec![tx.dialect().uuid(id), nobody.into(), false.into()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Users who are deleted and whose messages may still say who they were, at most `most`, those who went first.
pub(crate) async fn to_erase(store: &Store, most: i64) -> Result<Vec<Uuid>, StoreError> {
    let sql = "SELECT id FROM users WHERE deleted_at IS NOT NULL AND erased_at IS NULL ORDER BY deleted_at LIMIT $1";
    let rows = store.query(sql, vec![most.into()]).await?;
    rows.iter().map(|row| row.uuid("id")).collect()
}

/// Notes that no message says any more who `users` were.
pub(crate) async fn erased(store: &Store, users: Vec<Uuid>) -> Result<(), StoreError> {
    if users.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE users SET erased_at = {now} WHERE id {in:$1}";
    store.execute(sql, vec![store.dialect().uuids(users)]).await.map(drop)
}

/// Of the users that were erased within `micros` the next `most` behind `after`, by id.
pub(crate) async fn erased_lately(
    store: &Store,
    micros: i64,
    after: Option<Uuid>,
    most: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let sql = "SELECT id FROM users WHERE deleted_at IS NOT NULL AND erased_at > {after:$1} AND id > $2 \
        ORDER BY id LIMIT $3";
    let after = store.dialect().uuid(after.unwrap_or(Uuid::nil()));
    let rows = store.query(sql, vec![(-micros).into(), after, most.into()]).await?;
    rows.iter().map(|row| row.uuid("id")).collect()
}

/// Notes that messages may still say who `users` were.
pub(crate) async fn not_erased(store: &Store, users: Vec<Uuid>) -> Result<(), StoreError> {
    if users.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE users SET erased_at = NULL WHERE id {in:$1}";
    store.execute(sql, vec![store.dialect().uuids(users)]).await.map(drop)
}

/// Makes `hash` the one verification token of `id`, for `life` seconds; an older one is of no more use. `false`:
/// there is nothing to verify.
pub(crate) async fn set_verification(tx: &Tx, id: Uuid, hash: &str, life: i64) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET verification_hash = $2, verification_expires_at = {after:$3} \
        WHERE id = $1 AND deleted_at IS NULL AND verification_state = 'PENDING'";
    let values = vec![tx.dialect().uuid(id), hash.into(), (life * 1_000_000).into()];
    Ok(tx.execute(sql, values).await? == 1)
}

/// Whose verification token has the hash `hash`, unless it expired before it was used.
pub(crate) async fn holder_of_verification(tx: &Tx, hash: &str) -> Result<Option<Uuid>, StoreError> {
    let sql = "SELECT id FROM users WHERE verification_hash = $1 AND deleted_at IS NULL \
        AND (verification_expires_at > {now} OR verification_state = 'VERIFIED')";
    let rows = tx.query(sql, vec![hash.into()]).await?;
    rows.first().map(|row| row.uuid("id")).transpose()
}

/// Notes that the address of `id` is its owner's; answers whether that is new. Its token stays: whoever repeats a request
/// whose answer was lost is known by it.
pub(crate) async fn verify(tx: &Tx, id: Uuid) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET verification_state = 'VERIFIED', version = version + 1, updated_at = {now} \
        WHERE id = $1 AND deleted_at IS NULL AND verification_state = 'PENDING'";
    Ok(tx.execute(sql, vec![tx.dialect().uuid(id)]).await? == 1)
}

/// Notes that `id` is told, by the message `cause`, of an attempt to register its address; `false`: another message told it
/// within the last `pause` seconds, which will do.
pub(crate) async fn may_notify(tx: &Tx, id: Uuid, cause: Uuid, pause: i64) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET notified_at = {now}, notified_for = $3 WHERE id = $1 AND deleted_at IS NULL \
        AND (notified_at IS NULL OR notified_at <= {after:$2} OR notified_for = $4)";
    let cause = tx.dialect().uuid(cause);
    let values = vec![tx.dialect().uuid(id), (-pause * 1_000_000).into(), cause.clone(), cause];
    Ok(tx.execute(sql, values).await? == 1)
}

fn read(row: &Row) -> Result<User, StoreError> {
    let time = |column: &str| -> Result<DateTime<Utc>, StoreError> { row.time(column) };
    let verified: String = row.get("verification_state")?;
    Ok(User {
        id: row.uuid("id")?,
        email: row.get("email")?,
        first_name: row.get("first_name")?,
        last_name: row.get("last_name")?,
        bio: row.get("bio")?,
        is_active: row.get("is_active")?,
        verification: match verified == Verification::Verified.as_str() {
            true => Verification::Verified,
            false => Verification::Pending,
        },
        version: row.get("version")?,
        last_login: row.time_or_null("last_login")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
    })
}
