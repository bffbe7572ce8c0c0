//! Who knows which tokens are good: something that the accounts service hands over, or that asks it from afar.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::{Principal, Refusal};

/// The answer of a [`Verifier`], on its way.
pub type Verifying = Pin<Box<dyn Future<Output = Result<Principal, Refusal>> + Send>>;

/// Finds out whose a token is. It has to know of every revocation that was answered before it is asked.
#[derive(Clone)]
pub struct Verifier(Arc<dyn Fn(String) -> Verifying + Send + Sync>);

impl Verifier {
    /// A verifier that does as `verify` says.
    pub fn new<F>(verify: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Principal, Refusal>> + Send + 'static,
    {
        Self(Arc::new(move |token| Box::pin(verify(token))))
    }

    /// One that knows no token: where nobody can be asked, none is good.
    pub(crate) fn of_nobody() -> Self {
        Self::new(async |_token| Err(Refusal::Invalid))
    }

    /// Whose `token` is.
    ///
    /// # Errors
    /// When it opens no door.
    pub async fn verify(&self, token: &str) -> Result<Principal, Refusal> {
        (self.0)(token.to_owned()).await
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}
