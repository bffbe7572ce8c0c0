//! `GET /.well-known/jwks.json`: the public keys, for whoever verifies tokens elsewhere.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use posthaste_host::http::ApiError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Accounts;
use crate::sign_tokens::PUBLISHED_FOR;

/// A set of keys (RFC 7517).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeySet {
    keys: Vec<PublicKey>,
}

/// A public key (RFC 8037).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PublicKey {
    #[schema(example = "OKP")]
    kty: &'static str,
    #[schema(example = "Ed25519")]
    crv: &'static str,
    #[schema(example = "EdDSA")]
    alg: &'static str,
    #[schema(example = "sig")]
    r#use: &'static str,
    kid: String,
    x: String,
}

/// The keys that access tokens are signed with.
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    tag = "sessions",
    responses(
        (status = 200, description = "The public keys", body = KeySet),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn publish_keys(
    State(accounts): State<Accounts>,
) -> Result<([(HeaderName, String); 1], Json<KeySet>), ApiError> {
    let keys = accounts.sessions.keys.published().await?;
    let keys = keys.iter().map(|key| PublicKey {
        kty: "OKP",
        crv: "Ed25519",
        alg: "EdDSA",
        r#use: "sig",
        kid: key.kid.clone(),
        x: key.public_key.clone(),
    });
    let cached = (CACHE_CONTROL, format!("public, max-age={PUBLISHED_FOR}"));
    Ok(([cached], Json(KeySet { keys: keys.collect() })))
}
