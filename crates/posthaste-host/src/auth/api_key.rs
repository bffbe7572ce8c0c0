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
/// Digits of a key behind its beginning.
const DIGITS: usize = 64;
/// A database that cannot be asked is told of so often: requests come as often as anybody likes.
const SAID_AGAIN: Duration = Duration::from_secs(60);

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

/// Whether `secret` has the form in which keys are made; nothing else can be one.
fn is_well_formed(secret: &str) -> bool {
    secret.strip_prefix(api_keys::PREFIX).is_some_and(|digits| {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == DIGITS && digits.bytes().all(digit)
    })
}

/// Looks keys up. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct KnownKeys(Arc<Inner>);

#[derive(Default)]
struct Inner {
    keys: Mutex<HashMap<Known, (Instant, Arc<KeyHolder>)>>,
    /// When it was last said of a database that it cannot be asked.
    said: Mutex<HashMap<usize, Instant>>,
}

/// A key's hash, and whose database it was found in.
type Known = ([u8; 32], usize);

impl KnownKeys {
    /// Who holds `secret`, which one of `stores` has to know; the numbers name the stores.
    pub(super) async fn find(&self, stores: &[(usize, Store)], secret: &str) -> Result<Arc<KeyHolder>, Refusal> {
        if !is_well_formed(secret) {
            return Err(Refusal::Invalid);
        }
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
                    if self.is_to_say(*number) {
                        tracing::warn!(
                            database = store.display(),
                            error = chain(&error),
                            "API keys cannot be checked"
                        );
                    }
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

    /// Whether it is time to say that database `number` cannot be asked.
    fn is_to_say(&self, number: usize) -> bool {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&number).is_some_and(|at| at.elapsed() < SAID_AGAIN) {
            return false;
        }
        said.insert(number, Instant::now());
        true
    }

    fn fresh(&self, known: &Known) -> Option<Arc<KeyHolder>> {
        let keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, holder) = keys.get(known)?;
        (asked.elapsed() < FRESH).then(|| holder.clone())
    }

    fn keep(&self, known: Known, asked: Instant, holder: Arc<KeyHolder>) {
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_been_made_is_looked_up() {
        let key = api_keys::NewKey::random().unwrap();
        assert!(is_well_formed(key.reveal()));
        let digits = "0f".repeat(32);
        assert!(is_well_formed(&format!("ph_{digits}")));
        for other in [
            String::new(),
            "ph_".to_owned(),
            digits.clone(),
            format!("ph_{digits}0"),
            format!("ph_{}", &digits[1..]),
            format!("ph_{}", digits.to_uppercase()),
            format!("ph_{}g", &digits[1..]),
            format!("PH_{digits}"),
            format!("ph_{}", "é".repeat(32)),
        ] {
            assert!(!is_well_formed(&other), "{other}");
        }
    }

    #[test]
    fn of_a_database_that_is_away_is_told_once_a_minute() {
        let keys = KnownKeys::default();
        assert!(keys.is_to_say(0));
        assert!(!keys.is_to_say(0));
        assert!(keys.is_to_say(1), "another one");
    }
}
