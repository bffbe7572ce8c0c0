//! Programs that call with a key: what a key may do, and how it is found to be good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use posthaste::failure::chain;
use posthaste::{Store, api_keys};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Refusal;

/// How long a key that was found is let in without another look: a revocation is noticed after this at the latest.
const FRESH: Duration = Duration::from_secs(2);
/// Most keys that are remembered.
const KEPT: usize = 10_000;

/// A key that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHolder {
    /// Its id, for records.
    pub id: Uuid,
    scopes: Vec<String>,
}

impl KeyHolder {
    /// Whether one of its scopes is `scope` (`orders:read`).
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// The scope that a request with `method` needs in `area`: `orders:read`, `orders:write`.
pub(super) fn scope_of(area: &str, method: &Method) -> String {
    let right = if method.is_safe() { "read" } else { "write" };
    format!("{area}:{right}")
}

/// Looks keys up. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct KnownKeys(Arc<Mutex<HashMap<Known, (Instant, Arc<KeyHolder>)>>>);

/// A key's hash, and whose database it was found in.
type Known = ([u8; 32], usize);

impl KnownKeys {
    /// Who holds `secret`, which one of `stores` has to know; the numbers name the stores.
    pub(super) async fn find(&self, stores: &[(usize, Store)], secret: &str) -> Result<Arc<KeyHolder>, Refusal> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let mut unavailable = false;
        for (number, store) in stores {
            if let Some(known) = self.fresh(&(hash, *number)) {
                return Ok(known);
            }
            // What it says is as old as the question.
            let asked = Instant::now();
            match api_keys::find(store, secret).await {
                Ok(Some(key)) => {
                    let holder = Arc::new(KeyHolder {
                        id: key.id,
                        scopes: key.scopes,
                    });
                    self.keep((hash, *number), asked, holder.clone());
                    return Ok(holder);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "an API key cannot be checked");
                    unavailable = true;
                }
            }
        }
        Err(if unavailable {
            Refusal::Unavailable
        } else {
            Refusal::Invalid
        })
    }

    fn fresh(&self, known: &Known) -> Option<Arc<KeyHolder>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, holder) = keys.get(known)?;
        (asked.elapsed() < FRESH).then(|| holder.clone())
    }

    fn keep(&self, known: Known, asked: Instant, holder: Arc<KeyHolder>) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEPT {
            keys.retain(|_, (asked, _)| asked.elapsed() < FRESH);
        }
        if keys.len() < KEPT {
            keys.insert(known, (asked, holder));
        }
    }
}

impl std::fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KnownKeys")
    }
}
