//! The table `waiting_passwords`: hashes between a registration and the worker, where no row of `users` holds them.

use chrono::{DateTime, Utc};
use posthaste::message::now;
use posthaste::{Store, StoreError, Tx};
use uuid::Uuid;

/// Keeps `hash` for the user `id`, whose address is another's now.
pub(crate) async fn keep(tx: &Tx, id: Uuid, hash: &str) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let sql = "INSERT INTO waiting_passwords (user_id, password_hash, created_at) VALUES ($1, $2, $3) {ignore:user_id}";
    let values = vec![dialect.uuid(id), hash.into(), dialect.time(now())];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Removes the hash for the user `id` and answers it.
pub(crate) async fn take(tx: &Tx, id: Uuid) -> Result<Option<String>, StoreError> {
    let id = vec![tx.dialect().uuid(id)];
    let sql = "SELECT password_hash FROM waiting_passwords WHERE user_id = $1";
    let rows = tx.query(sql, id.clone()).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    tx.execute("DELETE FROM waiting_passwords WHERE user_id = $1", id)
        .await?;
    row.get("password_hash").map(Some)
}

/// Drops at most `most` that were kept before `at`, whose messages are dead; answers whether there may be more.
pub(crate) async fn purge(store: &Store, at: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let sql = "SELECT user_id FROM waiting_passwords WHERE created_at <= $1 ORDER BY created_at LIMIT $2";
    let rows = store.query(sql, vec![dialect.time(at), most.into()]).await?;
    let ids = rows.iter().map(|row| row.uuid("user_id"));
    let ids = dialect.uuids(ids.collect::<Result<Vec<Uuid>, _>>()?);
    if !rows.is_empty() {
        store
            .execute("DELETE FROM waiting_passwords WHERE user_id {in:$1}", vec![ids])
            .await?;
    }
    Ok(rows.len() as i64 == most)
}
