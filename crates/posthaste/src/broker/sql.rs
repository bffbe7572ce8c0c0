//! Queues in the service's own database. The reader of a partition holds its lease, reads without
//! writing, and deletes the rows in the transaction of the effect: a message is either in the queue
//! or handled, with nothing in between to acknowledge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

use super::{BrokerError, Delivery};
use crate::failpoint;
use crate::group_commit::GroupCommit;
use crate::lease::{Held, Keeper, Slot};
use crate::message::Message;
use crate::store::{Store, StoreError, Tx, queue_rows};

/// The embedded transport on one database.
#[derive(Clone)]
pub struct SqlBroker {
    store: Store,
    grouped: GroupCommit,
}

impl SqlBroker {
    pub(super) fn start(store: Store) -> Self {
        let writer = store.clone();
        let grouped = GroupCommit::start(&store, move |messages| {
            let writer = writer.clone();
            async move { insert(&writer, messages).await }
        });
        Self { store, grouped }
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), BrokerError>> {
        let count = messages.len();
        let inserted = insert(&self.store, messages).await;
        vec![inserted.map_err(BrokerError::from); count]
    }

    pub(super) async fn publish_grouped(&self, message: Message) -> Result<(), BrokerError> {
        Ok(self.grouped.submit(message).await?)
    }

    pub(super) async fn ping(&self, limit: Duration) -> Result<(), StoreError> {
        self.store.ping(limit).await
    }

    pub(super) fn receiver(&self, queue: &str, keeper: &Arc<Keeper>, scope: &str) -> SqlReceiver {
        SqlReceiver {
            store: self.store.clone(),
            queue: queue.to_owned(),
            scope: scope.to_owned(),
            keeper: keeper.clone(),
            held: keeper.join(scope),
            arrived: self.store.signals().queue(),
            reading: BTreeMap::new(),
            suspects: Suspects::default(),
            floor: crate::floor::Floor::default(),
            bound: AtomicI64::new(UNKNOWN),
        }
    }
}

async fn insert(store: &Store, messages: Vec<Message>) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    queue_rows::insert(&mut tx, messages).await?;
    failpoint::hit("queue.inserted").await;
    tx.commit().await?;
    failpoint::hit("queue.committed").await;
    Ok(())
}

pub(crate) struct SqlReceiver {
    store: Store,
    queue: String,
    scope: String,
    keeper: Arc<Keeper>,
    held: watch::Receiver<Held>,
    arrived: watch::Receiver<u64>,
    /// The slots whose rows were read last.
    reading: BTreeMap<i64, Slot>,
    suspects: Suspects,
    floor: crate::floor::Floor,
    /// The lowest bound of the transactions that have settled what was read last.
    bound: AtomicI64,
}

/// No transaction has settled anything of the last read.
const UNKNOWN: i64 = i64::MAX;

impl SqlReceiver {
    pub async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        loop {
            // Seen as of now, before the look: what comes in between ends the wait below at once.
            self.arrived.borrow_and_update();
            let slots = self.held.borrow_and_update().valid();
            if slots != self.reading {
                for (slot, lease) in &slots {
                    if lease.inherited && self.reading.get(slot) != Some(lease) {
                        self.suspects.inherit(*slot, max);
                    }
                }
                self.floor.reset();
                self.reading = slots;
            }
            if !self.reading.is_empty() {
                let slots: Vec<i64> = self.reading.keys().copied().collect();
                let mut rows = queue_rows::read(&self.store, &self.queue, &slots, &mut self.floor, max).await?;
                if !rows.is_empty() {
                    for (slot, delivery) in &mut rows {
                        delivery.redelivered = self.suspects.hand_out(*slot);
                    }
                    return Ok(rows.into_iter().map(|(_, delivery)| delivery).collect());
                }
                self.suspects = Suspects::default();
                self.floor.idle();
            }
            tokio::select! {
                changed = self.arrived.changed() => ended(changed)?,
                changed = self.held.changed() => ended(changed)?,
            }
        }
    }

    pub async fn settle_in(&self, tx: &Tx, tags: &[i64]) -> Result<bool, StoreError> {
        if !self.keeper.fence(tx, &self.scope, &self.reading).await? {
            return Ok(false);
        }
        let bound = queue_rows::delete(tx, tags).await?;
        self.bound.fetch_min(bound, Relaxed);
        Ok(true)
    }

    pub fn settled(&mut self) {
        match self.bound.swap(UNKNOWN, Relaxed) {
            UNKNOWN => self.floor.unsettled(),
            bound => self.floor.settled(bound),
        }
        self.suspects.settled();
    }

    pub fn abandon(&mut self) {
        self.bound.store(UNKNOWN, Relaxed);
        self.floor.unsettled();
        self.suspects.abandon();
    }
}

/// Slots whose last owner died, each with how many of its first rows may have killed it: as many as that one may have
/// had in hand.
#[derive(Default)]
struct Suspects(BTreeMap<i64, Suspect>);

struct Suspect {
    left: usize,
    in_hand: usize,
}

impl Suspects {
    fn inherit(&mut self, slot: i64, batch: usize) {
        let suspect = Suspect {
            left: batch,
            in_hand: 0,
        };
        self.0.insert(slot, suspect);
    }

    /// Whether the next row of `slot` is one of them.
    fn hand_out(&mut self, slot: i64) -> bool {
        let Some(suspect) = self.0.get_mut(&slot).filter(|suspect| suspect.in_hand < suspect.left) else {
            return false;
        };
        suspect.in_hand += 1;
        true
    }

    fn settled(&mut self) {
        self.0.retain(|_, suspect| {
            suspect.left -= suspect.in_hand;
            suspect.in_hand = 0;
            suspect.left > 0
        });
    }

    fn abandon(&mut self) {
        self.0.values_mut().for_each(|suspect| suspect.in_hand = 0);
    }
}

/// The signals live as long as the store and the keeper; they end with the runtime.
fn ended(changed: Result<(), watch::error::RecvError>) -> Result<(), BrokerError> {
    changed.map_err(|_ended| StoreError::Stopped.into())
}

#[cfg(test)]
mod tests {
    use super::Suspects;

    #[test]
    fn a_slot_stays_suspect_until_its_own_first_rows_are_through() {
        let mut suspects = Suspects::default();
        suspects.inherit(1, 3);
        suspects.inherit(2, 3);
        // The first batch is full of other slots' rows.
        assert_eq!([1, 1, 7].map(|slot| suspects.hand_out(slot)), [true, true, false]);
        suspects.settled();
        assert_eq!([1, 1, 2].map(|slot| suspects.hand_out(slot)), [true, false, true]);
        // What is given back comes again.
        suspects.abandon();
        assert_eq!([1, 1, 2].map(|slot| suspects.hand_out(slot)), [true, false, true]);
        suspects.settled();
        assert_eq!(
            [1, 2, 2, 2].map(|slot| suspects.hand_out(slot)),
            [false, true, true, false]
        );
    }
}
