//! A process without the accounts service asks it over HTTP: its public keys sort out what is forged, and for the rest
//! it says itself whether the token holds, so that nothing revoked is let in for longer than a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use posthaste::failure::chain;
use posthaste::message::now;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use super::verify_token::{TokenRules, UnverifiedToken, bytes_of};
use super::{Principal, Refusal, Verifier};
use crate::config::{ConfigError, Settings};
use crate::redact;

/// How long the accounts service may take for one answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How long its answer about a token counts: a revocation is noticed after this at the latest.
const FRESH: Duration = Duration::from_secs(1);
/// Most answers kept.
const KEPT: usize = 10_000;
/// How long its keys count…
const KEYS_FRESH: Duration = Duration::from_secs(300);
/// … and how soon it is asked again for a key that was not among them.
const KEYS_AGAIN: Duration = Duration::from_secs(2);

/// The verifier that `ACCOUNTS_URL` names; `None` where it is not set.
///
/// # Errors
/// When it cannot be used.
pub(crate) fn accounts_over_http(settings: &Settings) -> Result<Option<Verifier>, ConfigError> {
    let Some(url) = settings.get("ACCOUNTS_URL") else {
        return Ok(None);
    };
    if !url.starts_with("http://") {
        return Err(ConfigError::refused(format!(
            "ACCOUNTS_URL={}: write http://HOST:PORT; this build has no TLS towards the accounts service",
            redact::secret_value(&url)
        )));
    }
    // A token goes to this service and nowhere else: not after a redirect, not through a proxy of the environment.
    let client = Client::builder()
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| ConfigError::refused(format!("ACCOUNTS_URL cannot be used: {error}")))?;
    let accounts = Arc::new(Accounts {
        client,
        url: url.trim_end_matches('/').to_owned(),
        rules: TokenRules::of(settings),
        keys: AsyncMutex::new(Keys::default()),
        answers: Mutex::new(HashMap::new()),
    });
    Ok(Some(Verifier::new(move |token| {
        let accounts = accounts.clone();
        async move { accounts.verify(&token).await }
    })))
}

struct Accounts {
    client: Client,
    url: String,
    rules: TokenRules,
    keys: AsyncMutex<Keys>,
    answers: Mutex<HashMap<[u8; 32], (Instant, Principal)>>,
}

#[derive(Default)]
struct Keys {
    /// By name; empty until the first answer.
    public: HashMap<String, Vec<u8>>,
    asked: Option<Instant>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<PublicKey>,
}

#[derive(Deserialize)]
struct PublicKey {
    kid: String,
    x: String,
}

impl Accounts {
    async fn verify(&self, token: &str) -> Result<Principal, Refusal> {
        let read = UnverifiedToken::read(token).map_err(|_forged| Refusal::Invalid)?;
        let key = self.key(read.kid()).await?;
        read.verify(&key, &self.rules, now().timestamp())
            .map_err(|_forged| Refusal::Invalid)?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.known(&digest) {
            return Ok(known);
        }
        // The answer is as old as the question.
        let asked = Instant::now();
        let principal = self.ask(token).await?;
        self.keep(digest, asked, principal.clone());
        Ok(principal)
    }

    async fn key(&self, kid: &str) -> Result<Vec<u8>, Refusal> {
        let mut keys = self.keys.lock().await;
        let known = keys.public.get(kid).cloned();
        let pause = if known.is_some() { KEYS_FRESH } else { KEYS_AGAIN };
        if keys.asked.is_none_or(|asked| asked.elapsed() > pause) {
            keys.asked = Some(Instant::now());
            match self.fetch_keys().await {
                Ok(public) => keys.public = public,
                Err(error) => tracing::warn!(error = chain(&error), "the keys of the accounts service were not read"),
            }
        }
        match keys.public.get(kid) {
            Some(key) => Ok(key.clone()),
            None if keys.public.is_empty() => Err(Refusal::Unavailable),
            None => Err(Refusal::Invalid),
        }
    }

    async fn fetch_keys(&self) -> Result<HashMap<String, Vec<u8>>, reqwest::Error> {
        let url = format!("{}/.well-known/jwks.json", self.url);
        let answer = self.client.get(url).send().await?.error_for_status()?;
        let set: KeySet = answer.json().await?;
        let readable = set
            .keys
            .into_iter()
            .filter_map(|key| Some((key.kid, bytes_of(&key.x).ok()?)));
        Ok(readable.collect())
    }

    async fn ask(&self, token: &str) -> Result<Principal, Refusal> {
        let url = format!("{}/api/v1/auth/introspect", self.url);
        let unavailable = |error: reqwest::Error| {
            tracing::warn!(
                error = chain(&error),
                "the accounts service does not say whether a token holds"
            );
            Refusal::Unavailable
        };
        let answer = self
            .client
            .get(url)
            .bearer_auth(token)
            .send()
            .await
            .map_err(unavailable)?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(Refusal::Invalid);
        }
        let answer = answer.error_for_status().map_err(unavailable)?;
        answer.json().await.map_err(unavailable)
    }

    fn known(&self, digest: &[u8; 32]) -> Option<Principal> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, principal) = answers.get(digest)?;
        (asked.elapsed() < FRESH).then(|| principal.clone())
    }

    fn keep(&self, digest: [u8; 32], asked: Instant, principal: Principal) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= KEPT {
            answers.retain(|_, (asked, _)| asked.elapsed() < FRESH);
        }
        if answers.len() < KEPT {
            answers.insert(digest, (asked, principal));
        }
    }
}
