//! Keys of programs that call a service. A key is 256 random bits that are shown once; its SHA-256 lies in the database
//! of the service that it opens, so that nobody else has to be asked.

use std::fmt;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::{Store, StoreError, api_key_rows};

/// How a key begins, so that people and scanners of repositories recognise one.
pub const PREFIX: &str = "ph_";
/// Most characters of a name.
pub const LONGEST_NAME: usize = 100;
/// Most characters of all scopes together, one space between two.
pub const LONGEST_SCOPES: usize = 1000;

/// What is known of a key; the key itself is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// By this it is revoked. It opens nothing.
    pub id: Uuid,
    /// What its maker called it.
    pub name: String,
    /// What it may do: `orders:read`.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it opens nothing; `None`: it stays until it is revoked.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key, for whoever made it.
pub struct NewKey {
    /// Its id.
    pub id: Uuid,
    secret: String,
}

impl NewKey {
    /// 256 bits from the system.
    ///
    /// # Errors
    /// When the system has none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0_u8; 32];
        getrandom::fill(&mut bits)?;
        Ok(Self {
            id: Uuid::now_v7(),
            secret: format!("{PREFIX}{}", hex(&bits)),
        })
    }

    /// The key itself, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.secret
    }

    /// Adds the key to `store` as `name`, good for `scopes` until `expires_at`.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn add_to(
        &self,
        store: &Store,
        name: &str,
        scopes: &[String],
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        let hash = hash(&self.secret);
        api_key_rows::insert(store, self.id, &hash, name, &scopes.join(" "), expires_at).await
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What `store` knows of the key `secret`; `None` where it is unknown, revoked or expired.
///
/// # Errors
/// When the database cannot be asked.
pub async fn find(store: &Store, secret: &str) -> Result<Option<ApiKey>, StoreError> {
    api_key_rows::find_valid(store, &hash(secret)).await
}

/// The newest keys in `store`, at most `limit`; also those that open nothing any more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(store: &Store, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
    api_key_rows::list(store, limit).await
}

/// Revokes the key `id` in `store`. Returns whether it was there and good.
///
/// # Errors
/// When the database cannot be asked.
pub async fn revoke(store: &Store, id: Uuid) -> Result<bool, StoreError> {
    api_key_rows::revoke(store, id).await
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_random_and_its_debug_form_does_not_show_it() {
        let (one, other) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(one.reveal().len(), PREFIX.len() + 64);
        assert!(!format!("{one:?}").contains(&one.reveal()[3..]));
        assert_ne!(hash(one.reveal()), one.reveal()[3..]);
    }
}
