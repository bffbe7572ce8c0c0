//! The rows of `api_keys`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Row, Store, StoreError};
use crate::api_keys::ApiKey;

const COLUMNS: &str = "id, name, scopes, created_at, expires_at, revoked_at";

pub(crate) async fn insert(
    store: &Store,
    id: Uuid,
    hash: &str,
    name: &str,
    scopes: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    let dialect = store.dialect();
    let sql = "INSERT INTO api_keys (id, key_hash, name, scopes, created_at, expires_at) \
        VALUES ($1, $2, $3, $4, {now}, $5)";
    let values = vec![
        dialect.uuid(id),
        hash.into(),
        name.into(),
        scopes.into(),
        dialect.time_or_null(expires_at),
    ];
    store.execute(sql, values).await.map(drop)
}

/// The key with `hash`, unless it is revoked or has expired by the database's clock.
pub(crate) async fn find_valid(store: &Store, hash: &str) -> Result<Option<ApiKey>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL \
         AND (expires_at IS NULL OR expires_at > {{now}})"
    );
    store
        .query(&sql, vec![hash.into()])
        .await?
        .first()
        .map(read)
        .transpose()
}

/// The newest keys, at most `limit`.
pub(crate) async fn list(store: &Store, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_at DESC, id DESC LIMIT $1");
    store
        .query(&sql, vec![i64::from(limit).into()])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Returns whether there was such a key that was not revoked yet.
pub(crate) async fn revoke(store: &Store, id: Uuid) -> Result<bool, StoreError> {
    let sql = "UPDATE api_keys SET revoked_at = {now} WHERE id = $1 AND revoked_at IS NULL";
    Ok(store.execute(sql, vec![store.dialect().uuid(id)]).await? == 1)
}

fn read(row: &Row) -> Result<ApiKey, StoreError> {
    let scopes: String = row.get("scopes")?;
    Ok(ApiKey {
        id: row.uuid("id")?,
        name: row.get("name")?,
        scopes: scopes.split(' ').map(str::to_owned).collect(),
        created_at: row.time("created_at")?,
        expires_at: row.time_or_null("expires_at")?,
        revoked_at: row.time_or_null("revoked_at")?,
    })
}
