//! When a client has nothing left to do.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, anyhow};
use posthaste::broker::memory::MemoryBroker;
use posthaste::{Store, StoreError};

use crate::wait_until;

/// What is still to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pending: i64,
    parked: i64,
    queued: i64,
    in_hand: usize,
}

impl Left {
    /// Whether nothing is; what a frozen process has in hand counts only if `in_hand` says so.
    fn nothing(self, in_hand: bool) -> bool {
        self.pending == 0 && self.parked == 0 && self.queued == 0 && (self.in_hand == 0 || !in_hand)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pending,
            parked,
            queued,
            in_hand,
        } = self;
        write!(
            f,
            "{pending} outbox rows pending, {parked} inbox rows parked, {queued} messages queued, {in_hand} in hand"
        )
    }
}

/// What is left in `store` and in the `queues` of `broker`, or `None` while that is changing.
async fn look(store: &Store, broker: Option<&MemoryBroker>, queues: &[String]) -> Result<Option<Left>, StoreError> {
    let wire = || {
        broker.map(|broker| {
            let depth: usize = queues.iter().map(|queue| broker.depth(queue)).sum();
            (broker.published().len(), depth, broker.in_hand())
        })
    };
    let before = wire();
    // Scheduled rows are not waited for.
    let sql = "SELECT \
        (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending' AND (due_at IS NULL OR due_at <= {now})) AS pending, \
        (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) AS parked, \
        (SELECT COUNT(*) FROM queue_messages WHERE topic {in:$1}) AS queued";
    let rows = store
        .query(sql, vec![store.dialect().texts(queues.iter().cloned())])
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut left = Left {
        pending: row.get("pending")?,
        parked: row.get("parked")?,
        queued: row.get("queued")?,
        in_hand: 0,
    };
    if before != wire() {
        return Ok(None);
    }
    if let Some((_, depth, in_hand)) = before {
        left.queued += i64::try_from(depth).unwrap_or(i64::MAX);
        left.in_hand = in_hand;
    }
    Ok(Some(left))
}

/// Waits until nothing is left; an error says what is.
pub(crate) async fn quiet(
    store: &Store,
    broker: Option<&MemoryBroker>,
    queues: &[String],
    in_hand: bool,
    limit: Duration,
) -> Result<()> {
    let last = std::cell::Cell::new(Left::default());
    let done = wait_until("quiet", limit, || async {
        let left = look(store, broker, queues).await.ok()??;
        last.set(left);
        left.nothing(in_hand).then_some(())
    });
    let done = done.await;
    done.map_err(|_elapsed| anyhow!("not worked off within {limit:?}: {}", last.get()))
}

/// Lets the time pass that leases and retries of a dead or frozen process need to run out.
pub(crate) async fn let_time_pass(store: &Store) -> Result<()> {
    for sql in [
        "UPDATE leases SET expires_at = {after:$1}",
        "UPDATE inbox_messages SET due_at = {after:$1} WHERE status = 'retrying' AND due_at > {now}",
    ] {
        store.execute(sql, vec![(-1_000_000_i64).into()]).await?;
    }
    Ok(())
}
