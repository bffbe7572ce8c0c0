//! Turns for retries that hold a connection: slow handlers leave some connections for everybody else, and those of one
//! subscription leave turns for the others'.

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// The turns of one store.
pub(crate) struct Turns {
    first: Semaphore,
    more: Semaphore,
}

/// A turn; it ends when it is dropped.
pub(crate) struct Turn<'a> {
    _own: Option<SemaphorePermit<'a>>,
    _shared: SemaphorePermit<'a>,
}

impl Turns {
    /// For a pool of `connections`: at least one for each kind of turn.
    pub(super) fn of(connections: u32) -> Self {
        let connections = connections as usize;
        Self {
            first: Semaphore::new((connections / 2).max(1)),
            more: Semaphore::new((connections / 4).max(1)),
        }
    }

    /// Waits for a turn. `own` has one permit and belongs to the subscription: whoever gets it takes one of the turns that a
    /// subscription has once only, the others share what is left.
    pub(crate) async fn next<'a>(&'a self, own: &'a Semaphore) -> Result<Turn<'a>, AcquireError> {
        let first = async {
            let own = own.acquire().await?;
            Ok((own, self.first.acquire().await?))
        };
        tokio::select! {
            biased;
            turn = first => turn.map(|(own, shared)| Turn { _own: Some(own), _shared: shared }),
            more = self.more.acquire() => more.map(|shared| Turn { _own: None, _shared: shared }),
        }
    }
}
