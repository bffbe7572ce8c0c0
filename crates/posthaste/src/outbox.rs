//! Messages that commit with the rows they belong to.

use chrono::{DateTime, Utc};

use crate::message::Message;
use crate::store::{StoreError, Tx, outbox_rows};

/// Appends `message` to the outbox of `service`: it is published if and only if `tx` commits.
///
/// # Errors
/// When the database refuses; the transaction is then of no more use.
pub async fn append(tx: &mut Tx, service: &str, message: Message) -> Result<(), StoreError> {
    append_all(tx, service, vec![(message, None)]).await
}

/// As [`append`], handed to the transport at `due` (to the second) instead of at once. It keeps no
/// order with other messages of its key.
///
/// # Errors
/// As [`append`].
pub async fn append_at(tx: &mut Tx, service: &str, message: Message, due: DateTime<Utc>) -> Result<(), StoreError> {
    append_all(tx, service, vec![(message, Some(due))]).await
}

/// Appends many messages in few statements; each may have a due time.
///
/// # Errors
/// As [`append`].
pub async fn append_all(
    tx: &mut Tx,
    service: &str,
    messages: Vec<(Message, Option<DateTime<Utc>>)>,
) -> Result<(), StoreError> {
    outbox_rows::append(tx, service, messages).await
}
