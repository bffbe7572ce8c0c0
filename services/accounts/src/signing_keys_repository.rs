//! The table `signing_keys`.

use chrono::{DateTime, Utc};
use posthaste::store::Row;
use posthaste::{Store, StoreError, Tx};

/// A key as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct SigningKey {
    /// Its name in tokens.
    pub kid: String,
    /// In base64url.
    pub public_key: String,
    /// The private half, for whoever has the secret.
    pub sealed_key: String,
    /// From when on tokens are signed with it; it is published before.
    pub active_from: DateTime<Utc>,
}

const LIST: &str = "SELECT kid, public_key, sealed_key, active_from FROM signing_keys \
    WHERE revoked_at IS NULL AND (retires_at IS NULL OR retires_at > $1) ORDER BY active_from DESC, kid";

/// The keys whose tokens are good at `at`, the newest first.
pub(crate) async fn list(store: &Store, at: DateTime<Utc>) -> Result<Vec<SigningKey>, StoreError> {
    let rows = store.query(LIST, vec![store.dialect().time(at)]).await?;
    rows.iter().map(read).collect()
}

/// As [`list`], within `tx`.
pub(crate) async fn list_in(tx: &Tx, at: DateTime<Utc>) -> Result<Vec<SigningKey>, StoreError> {
    let rows = tx.query(LIST, vec![tx.dialect().time(at)]).await?;
    rows.iter().map(read).collect()
}

/// Waits until nobody else makes a key, in any process, and keeps others waiting until `tx` ends. What `tx` reads only
/// after this is what they have made.
pub(crate) async fn take_turn(tx: &Tx) -> Result<(), StoreError> {
    tx.execute("UPDATE signing_turn SET turns = turns + 1 WHERE id = 1", vec![])
        .await?;
    Ok(())
}

/// Adds `key`. What was signed with older ones is good until `retire`, where that is given.
pub(crate) async fn add(tx: &Tx, key: &SigningKey, retire: Option<DateTime<Utc>>) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    if let Some(retire) = retire {
        let sql = "UPDATE signing_keys SET retires_at = $1 WHERE retires_at IS NULL";
        tx.execute(sql, vec![dialect.time(retire)]).await?;
    }
    let values = vec![
        key.kid.as_str().into(),
        key.public_key.as_str().into(),
        key.sealed_key.as_str().into(),
        dialect.time(key.active_from),
    ];
    let sql = "INSERT INTO signing_keys (kid, public_key, sealed_key, active_from) VALUES ($1, $2, $3, $4)";
    tx.execute(sql, values).await?;
    Ok(())
}

/// From now on nothing that was signed with `kid`, or with any key for `None`, is good; answers how many keys went.
pub(crate) async fn revoke(tx: &Tx, kid: Option<&str>, at: DateTime<Utc>) -> Result<u64, StoreError> {
    let mut sql = "UPDATE signing_keys SET revoked_at = $1 WHERE revoked_at IS NULL".to_owned();
    let mut values = vec![tx.dialect().time(at)];
    if let Some(kid) = kid {
        sql.push_str(" AND kid = $2");
        values.push(kid.into());
    }
    tx.execute(&sql, values).await
}

/// Drops what retired before `at`.
pub(crate) async fn purge(store: &Store, at: DateTime<Utc>) -> Result<(), StoreError> {
    let sql = "DELETE FROM signing_keys WHERE retires_at <= $1 OR revoked_at <= $1";
    store.execute(sql, vec![store.dialect().time(at)]).await?;
    Ok(())
}

fn read(row: &Row) -> Result<SigningKey, StoreError> {
    Ok(SigningKey {
        kid: row.get("kid")?,
        public_key: row.get("public_key")?,
        sealed_key: row.get("sealed_key")?,
        active_from: row.time("active_from")?,
    })
}
