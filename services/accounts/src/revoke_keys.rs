//! `posthaste revoke-keys KID` or `all`: for a key that somebody else may have. Its tokens open nothing from then on;
//! a refresh gets one under a new key.

use posthaste::StoreError;
use posthaste::failure::chain;
use posthaste::message::now;
use posthaste_host::ServiceContext;

use crate::audit_repository::{self, AuditEvent};
use crate::signing_keys_repository;

/// Drops the key `which`, or all of them.
///
/// # Errors
/// A sentence for the person at the terminal.
pub(crate) async fn revoke_keys(context: ServiceContext, which: String) -> Result<String, String> {
    let kid = (which != "all").then_some(which.as_str());
    let revoked = async {
        let tx = context.store.begin().await?;
        let keys = signing_keys_repository::revoke(&tx, kid, now()).await?;
        if keys > 0 {
            let event = AuditEvent {
                action: "signing_keys.revoke",
                actor: Some("command line".to_owned()),
                detail: Some(format!("{keys} of {which}")),
                ..AuditEvent::default()
            };
            audit_repository::record(&tx, event).await?;
        }
        tx.commit().await?;
        Ok::<_, StoreError>(keys)
    };
    match revoked.await {
        Ok(0) => Err(format!("there is no key {which} that tokens are good with")),
        Ok(keys) => Ok(format!(
            "{keys} keys revoked; a second from now their tokens open nothing.\n"
        )),
        Err(error) => Err(chain(&error)),
    }
}
