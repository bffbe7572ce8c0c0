//! `Idempotency-Key`: the answer to a request commits with its effect, and a repeat gets that answer
//! (draft-ietf-httpapi-idempotency-key-header-07).

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::failure::chain;
use crate::store::{Store, StoreError, Tx, idempotency_rows};
use crate::telemetry::metric;

/// How long a key is remembered, µs: 24 h.
const LIFE: i64 = 24 * 3_600_000_000;

/// An answer that can be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Vec<u8>,
}

/// What became of a request with a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was the first: its effect and this answer are committed.
    First(StoredResponse),
    /// It was done before with the same body: this was the answer.
    Replayed(StoredResponse),
    /// The key was used with another body.
    Mismatch,
    /// The first request with this key is still running.
    InFlight,
}

/// The future that the work of [`run`] answers.
pub type Work<'t, E> = Pin<Box<dyn Future<Output = Result<StoredResponse, E>> + Send + 't>>;

/// Does `work` once for `key` within `scope` (service and route). `fingerprint` is the request's body.
/// An error of `work` rolls everything back and forgets the key.
///
/// # Errors
/// What `work` answers, or the database's own failure.
pub async fn run<E, F>(store: &Store, scope: &str, key: &str, fingerprint: &[u8], work: F) -> Result<Outcome, E>
where
    E: From<StoreError>,
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, E>,
{
    let outcome = once(store, scope, key, fingerprint, work).await?;
    let verdict = match outcome {
        Outcome::First(_) => "first",
        Outcome::Replayed(_) => "replayed",
        Outcome::Mismatch => "mismatch",
        Outcome::InFlight => "conflict",
    };
    metrics::counter!(metric::IDEMPOTENCY, "posthaste_verdict" => verdict).increment(1);
    Ok(outcome)
}

async fn once<E, F>(store: &Store, scope: &str, key: &str, fingerprint: &[u8], work: F) -> Result<Outcome, E>
where
    E: From<StoreError>,
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, E>,
{
    let Some(_running) = Running::enter(format!("{}|{scope}|{key}", store.display())) else {
        return Ok(Outcome::InFlight);
    };
    let mut tx = store.begin().await?;
    let outcome = outcome(&mut tx, scope, key, fingerprint, work).await;
    // Not left to the drop: that rolls back after the response is out, and a repeat would still meet the lock.
    if matches!(outcome, Ok(Outcome::First(_))) {
        tx.commit().await?;
    } else if let Err(error) = tx.rollback().await {
        tracing::debug!(error = %chain(&error), "the connection is gone, and the transaction with it");
    }
    outcome
}

async fn outcome<E, F>(tx: &mut Tx, scope: &str, key: &str, fingerprint: &[u8], work: F) -> Result<Outcome, E>
where
    E: From<StoreError>,
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, E>,
{
    if !idempotency_rows::lock(tx, scope, key).await? {
        return Ok(Outcome::InFlight);
    }
    let fingerprint = hex(&Sha256::digest(fingerprint));
    if let Some(known) = idempotency_rows::find(tx, scope, key).await? {
        return Ok(match known.fingerprint == fingerprint {
            true => Outcome::Replayed(known.response),
            false => Outcome::Mismatch,
        });
    }
    let response = work(tx).await?;
    idempotency_rows::insert(tx, scope, key, &fingerprint, &response, LIFE).await?;
    Ok(Outcome::First(response))
}

/// Keys at work in this process. Nothing in the database says "running", so a crash leaves no key
/// that answers 409 for ever.
static RUNNING: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

struct Running(String);

impl Running {
    fn enter(key: String) -> Option<Self> {
        let entered = RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone());
        entered.then_some(Self(key))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
