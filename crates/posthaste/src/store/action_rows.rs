//! The rows of `ops_actions`: what operators did, written in the transactions of what was done.

use uuid::Uuid;

use super::{Store, StoreError, Tx};
use crate::settle_letters::{Operator, State};

/// Adds the record `id` of an action that has just been begun and has settled `done` of `total` messages.
pub(crate) async fn begin(
    tx: &Tx,
    id: Uuid,
    operator: &Operator,
    action: &str,
    selection: &str,
    total: u64,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO ops_actions (id, at, actor, address, action, selection, reason, total, done, failed, state) \
        VALUES ($1, {now}, $2, $3, $4, $5, $6, $7, 0, 0, $8)";
    let values = vec![
        tx.dialect().uuid(id),
        operator.actor.as_str().into(),
        operator.address.clone().into(),
        action.into(),
        selection.into(),
        operator.reason.clone().into(),
        total.cast_signed().into(),
        State::Running.name().into(),
    ];
    tx.execute(sql, values).await.map(drop)
}

/// The action has settled `done` messages in all.
pub(crate) async fn advance(tx: &Tx, id: Uuid, done: u64, state: State) -> Result<(), StoreError> {
    let sql = "UPDATE ops_actions SET done = $2, state = $3 WHERE id = $1";
    let values = vec![tx.dialect().uuid(id), done.cast_signed().into(), state.name().into()];
    tx.execute(sql, values).await.map(drop)
}

/// The action ended between two pages.
pub(crate) async fn end(store: &Store, id: Uuid, state: State) -> Result<(), StoreError> {
    let sql = "UPDATE ops_actions SET state = $2 WHERE id = $1";
    let values = vec![store.dialect().uuid(id), state.name().into()];
    store.execute(sql, values).await.map(drop)
}
