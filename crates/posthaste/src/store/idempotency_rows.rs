//! The rows of `idempotency_keys`.

use sea_orm::Value;

use super::{Dialect, Store, StoreError, Tx};
use crate::idempotency::StoredResponse;

/// A finished first request.
pub(crate) struct Known {
    pub fingerprint: String,
    pub response: StoredResponse,
}

/// `false` when another process works on this key right now. Where the database has no lock to try, on
/// SQLite and MySQL, it has made us wait for the other one instead.
pub(crate) async fn lock(tx: &Tx, scope: &str, key: &str) -> Result<bool, StoreError> {
    match tx.dialect() {
        Dialect::Sqlite => Ok(true),
        Dialect::Postgres => {
            let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 7406871)) AS locked";
            let rows = tx.query(sql, vec![format!("{scope} {key}").into()]).await?;
            rows.first().map_or(Ok(false), |row| row.get("locked"))
        }
        Dialect::Mysql => {
            // Expired as it is written, and gone with a rollback: only its lock counts.
            let sql = "INSERT INTO idempotency_keys (scope, idempotency_key, fingerprint, expires_at) \
                VALUES ($1, $2, '', {now}) {ignore:scope}";
            match tx.execute(sql, vec![scope.into(), key.into()]).await {
                Ok(_) => Ok(true),
                Err(StoreError::Collision(_)) => Ok(false),
                Err(error) => Err(error),
            }
        }
    }
}

pub(crate) async fn find(tx: &Tx, scope: &str, key: &str) -> Result<Option<Known>, StoreError> {
    let sql = "SELECT fingerprint, status, body FROM idempotency_keys \
        WHERE scope = $1 AND idempotency_key = $2 AND expires_at > {now}";
    let rows = tx.query(sql, vec![scope.into(), key.into()]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let status = row.get::<i32>("status")?;
    let body = row.get::<Option<Vec<u8>>>("body")?.unwrap_or_default();
    let response = StoredResponse {
        status: u16::try_from(status).unwrap_or(200),
        body,
    };
    Ok(Some(Known {
        fingerprint: row.get("fingerprint")?,
        response,
    }))
}

pub(crate) async fn insert(
    tx: &Tx,
    scope: &str,
    key: &str,
    fingerprint: &str,
    response: &StoredResponse,
    life: i64,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO idempotency_keys (scope, idempotency_key, fingerprint, status, body, expires_at) \
        VALUES ($1, $2, $3, $4, $5, {after:$6}) {upsert:scope, idempotency_key} \
        fingerprint = {new:fingerprint}, status = {new:status}, body = {new:body}, expires_at = {new:expires_at}";
    let body = Value::Bytes(Some(response.body.clone()));
    let values = vec![
        scope.into(),
        key.into(),
        fingerprint.into(),
        i32::from(response.status).into(),
        body,
        life.into(),
    ];
    tx.execute(sql, values).await.map(drop)
}

/// Removes expired keys, at most `limit`; answers how many.
pub(crate) async fn remove_expired(store: &Store, limit: i64) -> Result<u64, StoreError> {
    let sql = match store.dialect() {
        // It neither reads the table it deletes from nor limits what IN reads.
        Dialect::Mysql => "DELETE FROM idempotency_keys WHERE expires_at <= {now} ORDER BY expires_at LIMIT $1",
        _ => {
            "DELETE FROM idempotency_keys WHERE (scope, idempotency_key) IN \
        (SELECT scope, idempotency_key FROM idempotency_keys WHERE expires_at <= {clock} LIMIT $1) \
        AND expires_at <= {now}"
        }
    };
    store.execute(sql, vec![limit.into()]).await
}
