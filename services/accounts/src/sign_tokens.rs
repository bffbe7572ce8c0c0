//! The keys that access tokens are signed with: made when they are needed, one published ahead of its use, old ones good
//! until the last token under them has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use posthaste::message::now;
use posthaste::{Store, StoreError};
use posthaste_host::auth::{AccessClaims, TokenHeader, encode_part};
use posthaste_host::http::ApiError;
use tokio::sync::Mutex;

use crate::secret_token::SecretToken;
use crate::server_secret::ServerSecret;
use crate::signing_keys_repository::{self, SigningKey};

/// How old the list of keys may be: a revoked key is noticed after this at the latest. That there is none for now holds
/// as long, so that of many requests one waits for a database that is away.
const FRESH: Duration = Duration::from_secs(1);
/// How long a key signs.
const SIGNS_FOR: TimeDelta = TimeDelta::days(30);
/// How long others may keep the published list.
pub(crate) const PUBLISHED_FOR: u64 = 300;
/// How long a key is published before it signs: everybody has a newer list by then.
const AHEAD: TimeDelta = TimeDelta::seconds(PUBLISHED_FOR as i64 + 60);
/// How long it is of use after it last signed: the longest life of a token, and clocks that differ.
const AFTER: TimeDelta = TimeDelta::seconds(900 + 60);
/// How much the clocks of two processes may differ: a key that signs at once does so for both.
const OFF: TimeDelta = TimeDelta::seconds(5);

const OTHER_SECRET: &str = "the signing keys in the database are sealed under another secret: give all processes the \
    same ACCOUNTS_SECRET; if it is lost, `posthaste revoke-keys` makes way for new keys, and everybody signs in again";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The keys cannot be read or stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys are there, and this process cannot open them.
    #[error("{OTHER_SECRET}")]
    OtherSecret,
    /// The library refuses.
    #[error("a token could not be signed: {0}")]
    Failed(String),
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Store(error) => error.into(),
            SignError::OtherSecret => {
                tracing::error!(error = OTHER_SECRET, "a token could not be signed");
                Self::unavailable("Nobody can be signed in: the secret of this service has changed. Its log says more.")
            }
            SignError::Failed(reason) => {
                tracing::error!(error = reason, "a token could not be signed");
                Self::of(http::StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

fn failed(error: impl std::fmt::Display) -> SignError {
    SignError::Failed(error.to_string())
}

/// When the keys were asked for, and what they were.
type Seen = (Instant, Result<Arc<[SigningKey]>, StoreError>);

/// The keys of the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TokenKeys {
    store: Store,
    secret: Arc<ServerSecret>,
    list: Arc<Mutex<Option<Seen>>>,
}

impl TokenKeys {
    /// The keys in `store` that `secret` opens.
    pub fn new(store: Store, secret: Arc<ServerSecret>) -> Self {
        Self {
            store,
            secret,
            list: Arc::default(),
        }
    }

    /// The keys whose tokens are good, the newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn published(&self) -> Result<Arc<[SigningKey]>, StoreError> {
        let mut list = self.list.lock().await;
        if let Some((at, keys)) = &*list
            && at.elapsed() < FRESH
        {
            return keys.clone();
        }
        let asked = Instant::now();
        let keys = signing_keys_repository::list(&self.store, now()).await.map(Arc::from);
        // A failure is news when it comes, however long it took.
        let at = if keys.is_ok() { asked } else { Instant::now() };
        *list = Some((at, keys.clone()));
        keys
    }

    /// The public key called `kid`, if its tokens are good.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn public_key(&self, kid: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let keys = self.published().await?;
        let key = keys.iter().find(|key| key.kid == kid);
        Ok(key.and_then(|key| URL_SAFE_NO_PAD.decode(&key.public_key).ok()))
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    /// When the keys cannot be read or made.
    pub async fn sign(&self, claims: &AccessClaims) -> Result<String, SignError> {
        let (kid, pair) = self.signer().await?;
        let (header, claims) = (encode_part(&TokenHeader::of(&kid)), encode_part(claims));
        let signed = format!("{}.{}", header.map_err(failed)?, claims.map_err(failed)?);
        let signature = pair.sign(signed.as_bytes());
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whether this process can sign, to be asked before anything is changed for a token that could not be.
    ///
    /// # Errors
    /// As [`TokenKeys::sign`].
    pub async fn check(&self) -> Result<(), SignError> {
        self.signer().await.map(drop)
    }

    /// What keeps this process from signing, where it can be told now.
    pub async fn obstacle(&self) -> Option<String> {
        let now = now();
        // Not the list that requests share: a process that has just started would have none for a second.
        let keys = signing_keys_repository::list(&self.store, now).await.ok()?;
        let mut signing = keys.iter().filter(|key| key.active_from <= now).peekable();
        signing.peek()?;
        let opens = signing.any(|key| self.pair(key).is_some());
        (!opens).then(|| OTHER_SECRET.to_owned())
    }

    /// The newest key that signs by now; the next one is made when this one's time comes to an end.
    async fn signer(&self) -> Result<(String, Ed25519KeyPair), SignError> {
        let now = now();
        let mut keys = self.published().await?;
        if lacks_active(&keys, now) {
            self.make(now - OFF, None, |keys| lacks_active(keys, now)).await?;
            keys = self.published().await?;
        }
        let mut signing = keys.iter().filter(|key| key.active_from <= now);
        // Under another secret this process would take other processes' refresh tokens for stolen ones.
        let signer = signing.find_map(|key| Some((key.kid.clone(), self.pair(key)?)));
        let signer = signer.ok_or(SignError::OtherSecret)?;
        if self.lacks_next(&keys, now) {
            let starts = now + AHEAD;
            let lacks = |keys: &[SigningKey]| self.lacks_next(keys, now);
            self.make(starts, Some(starts + AFTER), lacks).await?;
        }
        Ok(signer)
    }

    fn lacks_next(&self, keys: &[SigningKey], now: DateTime<Utc>) -> bool {
        let newest = keys.iter().find(|key| self.pair(key).is_some());
        newest.is_some_and(|newest| newest.active_from + SIGNS_FOR < now)
    }

    fn pair(&self, key: &SigningKey) -> Option<Ed25519KeyPair> {
        let plain = self.secret.open(&key.kid, &key.sealed_key)?;
        Ed25519KeyPair::from_pkcs8(&plain).ok()
    }

    /// Makes a key if it is still lacking once nobody else makes one.
    async fn make(
        &self,
        active_from: DateTime<Utc>,
        retire: Option<DateTime<Utc>>,
        lacks: impl Fn(&[SigningKey]) -> bool,
    ) -> Result<(), SignError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(failed)?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(failed)?;
        let kid: String = SecretToken::new().map_err(failed)?.reveal().chars().take(16).collect();
        let key = SigningKey {
            public_key: URL_SAFE_NO_PAD.encode(pair.public_key()),
            sealed_key: self.secret.seal(&kid, document.as_ref()).map_err(failed)?,
            kid,
            active_from,
        };
        let tx = self.store.begin().await?;
        signing_keys_repository::take_turn(&tx).await?;
        if lacks(&signing_keys_repository::list_in(&tx, now()).await?) {
            signing_keys_repository::add(&tx, &key, retire).await?;
            tx.commit().await?;
            tracing::info!(kid = key.kid, %active_from, "a key for access tokens was made");
        }
        *self.list.lock().await = None;
        Ok(())
    }
}

/// Whether no key signs at `now`, whoever can open it.
fn lacks_active(keys: &[SigningKey], now: DateTime<Utc>) -> bool {
    keys.iter().all(|key| key.active_from > now)
}
