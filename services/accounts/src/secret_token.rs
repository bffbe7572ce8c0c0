//! Secrets that stand in links and cookies: 256 random bits, of which only a hash is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthaste_host::http::FieldError;
use sha2::{Digest, Sha256};

/// A fresh secret; never stored and never logged.
pub(crate) struct SecretToken(String);

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers: {0}")]
pub(crate) struct NoRandomness(String);

impl SecretToken {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The 43 characters of base64url that its holder presents.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> String {
        hash_of(&self.0)
    }
}

/// What would be stored of a token that somebody presents; a plain hash will do for 256 random bits.
pub(crate) fn hash_of(presented: &str) -> String {
    Sha256::digest(presented.as_bytes())
        .iter()
        .fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"))
}

/// Notes a `token` of a request that is too long to be one.
pub(crate) fn check_length(token: &str, errors: &mut Vec<FieldError>) {
    if token.len() > 100 {
        errors.push(FieldError::new(
            "/token",
            "too_long",
            "must have at most 100 characters",
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_is_another_one_of_256_bits() {
        let tokens: HashSet<String> = (0..1000).map(|_| SecretToken::new().unwrap().0).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 43));
        let token = SecretToken::new().unwrap();
        assert_eq!(hash_of(token.reveal()), token.hash());
        assert_eq!(token.hash().len(), 64);
    }
}
