//! Who works on which partition: one lease per (scope, slot) with owner, epoch and expiry, all by the
//! database's clock. A scope is one role of one service (`orders/relay`), a slot one of its partitions.
//!
//! One task per process and database renews all leases of the process in one statement, shares the
//! slots fairly among the living members of a scope, and polls for rows that no signal announced.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::PARTITIONS;
use crate::failpoint::mutant;
use crate::failure::{chain, panic_text};
use crate::store::lease_rows::{self, Scope};
use crate::store::retry_rows;
use crate::store::unserved_rows;
use crate::store::{OwnerFile, Store, StoreError, Tx, Wake};

/// How long slots that are to be given up wait for the batch in hand. A transport that does not answer must not keep them.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long a look for rows without an owner may take beside the heartbeat.
const LOOK: Duration = Duration::from_secs(2);

/// A held slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Grows with every change of owner; checked in the transaction that acts on the lease.
    pub epoch: i64,
    /// The owner before did not release it: it died, and perhaps one of its messages killed it.
    pub inherited: bool,
}

/// The slots this process holds in a scope, and until when it may believe so.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub slots: BTreeMap<i64, Slot>,
    until: Instant,
}

impl Held {
    fn none() -> Self {
        Self {
            slots: BTreeMap::new(),
            until: Instant::now(),
        }
    }

    /// The slots, or none when the lease has run out unrenewed.
    pub fn valid(&self) -> BTreeMap<i64, Slot> {
        if Instant::now() < self.until || mutant!(NoFencing) {
            self.slots.clone()
        } else {
            BTreeMap::new()
        }
    }

    /// Whether all of `slots` are held and the lease has not run out unrenewed.
    pub fn covers(&self, slots: &BTreeMap<i64, Slot>) -> bool {
        let valid = self.valid();
        slots.iter().all(|(number, slot)| valid.get(number) == Some(slot))
    }
}

/// The leases of this process on one database.
pub(crate) struct Keeper {
    store: Store,
    owner: Uuid,
    ttl: Duration,
    scopes: Mutex<BTreeMap<String, watch::Sender<Held>>>,
    /// Held for reading while a batch is between its check of the lease and its mark: a slot that is given up before that
    /// would have the batch published twice.
    in_hand: tokio::sync::RwLock<()>,
    joined: Arc<Notify>,
    /// A renewal that is under way while a scope is left would join it again, and the process ends before that is undone:
    /// half of the partitions would wait for this member until its lease runs out.
    turn: tokio::sync::Mutex<()>,
    /// Shows other processes on a SQLite file that this one is alive, while it has leases.
    alive: Mutex<Option<OwnerFile>>,
    /// Services and the `sql:` queues that they read, not noted in the database yet.
    unannounced: Mutex<Vec<(String, Vec<String>)>>,
    _stop: DropGuard,
}

impl Keeper {
    /// Starts the keeper of `store`; it stops when dropped.
    pub fn start(store: Store, ttl: Duration) -> Arc<Self> {
        let stop = CancellationToken::new();
        let joined = Arc::new(Notify::new());
        let keeper = Arc::new(Self {
            store: store.clone(),
            owner: Uuid::now_v7(),
            alive: Mutex::default(),
            unannounced: Mutex::default(),
            ttl,
            scopes: Mutex::new(BTreeMap::new()),
            in_hand: tokio::sync::RwLock::default(),
            joined: joined.clone(),
            turn: tokio::sync::Mutex::default(),
            _stop: stop.clone().drop_guard(),
        });
        let weak = Arc::downgrade(&keeper);
        let beat = ttl * 3 / 10;
        let stopped = stop.clone();
        let mut failed = false;
        tokio::spawn(async move {
            while let Some(keeper) = weak.upgrade() {
                let beaten = AssertUnwindSafe(tokio::time::timeout(ttl, keeper.beat())).catch_unwind();
                let ended = match beaten.await.map_err(|panic| panic_text(panic.as_ref())) {
                    Err(panic) => Err(format!("a defect: {panic}")),
                    Ok(Ok(Ok(()))) => Ok(()),
                    Ok(Ok(Err(error))) => Err(keeper.store.why_not_written(&error)),
                    Ok(Err(_elapsed)) => Err(format!("the database did not answer within {ttl:?}")),
                };
                // Once at the start of an outage, not at every beat.
                match &ended {
                    Err(error) if !failed => {
                        tracing::warn!(error, database = keeper.store.display(), "leases not renewed");
                    }
                    Ok(()) if failed => tracing::info!(database = keeper.store.display(), "leases are renewed again"),
                    _ => {}
                }
                failed = ended.is_err();
                keeper.store.status().heartbeat(ended);
                keeper.look_for_unserved().await;
                // Not kept over the wait: the last engine to stop drops the keeper and so ends this task.
                drop(keeper);
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(beat) => {}
                    () = joined.notified() => {}
                }
            }
        });
        tokio::spawn(async move { store.exchange_wake_ups(stop).await });
        keeper
    }

    /// Joins `scope`; what the receiver shows changes as slots come and go.
    pub fn join(&self, scope: &str) -> watch::Receiver<Held> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = scopes
            .entry(scope.to_owned())
            .or_insert_with(|| watch::Sender::new(Held::none()))
            .subscribe();
        drop(scopes);
        let mut alive = self.alive();
        if alive.is_none() {
            *alive = self.store.show_owner(self.owner);
        }
        self.joined.notify_one();
        receiver
    }

    /// Notes that `service` reads the `sql:` queues `queues`, for processes that do not know it.
    pub fn announce(&self, service: &str, queues: Vec<String>) {
        self.unannounced().push((service.to_owned(), queues));
        self.joined.notify_one();
    }

    fn alive(&self) -> MutexGuard<'_, Option<OwnerFile>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unannounced(&self) -> MutexGuard<'_, Vec<(String, Vec<String>)>> {
        self.unannounced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the slots of `scope` back, so that others need not wait for the lease to run out.
    pub async fn leave(&self, scope: &str) -> Result<(), StoreError> {
        let sender = self.scopes.lock().unwrap_or_else(PoisonError::into_inner).remove(scope);
        if let Some(sender) = sender {
            sender.send_replace(Held::none());
        }
        let _turn = self.turn.lock().await;
        lease_rows::leave(&self.store, scope, self.owner).await?;
        if self.scope_names().is_empty()
            && let Some(file) = self.alive().take()
        {
            file.remove();
        }
        Ok(())
    }

    /// Slots are not given up by themselves while the guard is held, for [`HANDOVER`] at most.
    pub async fn in_hand(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.in_hand.read().await
    }

    /// Whether `slots` of `scope` are still this process's, checked inside `tx`: a take-over waits
    /// until `tx` has ended.
    pub async fn fence(&self, tx: &Tx, scope: &str, slots: &BTreeMap<i64, Slot>) -> Result<bool, StoreError> {
        if mutant!(NoFencing) {
            return Ok(true);
        }
        lease_rows::fence(tx, scope, self.owner, slots).await
    }

    /// As [`Keeper::fence`] outside a transaction: a late check that makes a stale action unlikely,
    /// where only the fence makes it impossible.
    pub async fn still_held(&self, scope: &str, slots: &BTreeMap<i64, Slot>) -> Result<bool, StoreError> {
        if mutant!(NoFencing) {
            return Ok(true);
        }
        lease_rows::still_held(&self.store, scope, self.owner, slots).await
    }

    fn scope_names(&self) -> Vec<String> {
        self.scopes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Renews, shares out, polls.
    async fn beat(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        for (owner, file) in self.store.dead_owners() {
            lease_rows::end(&self.store, owner).await?;
            file.remove();
        }
        let started = Instant::now();
        // Without leases, too: it shows whether the database can be written to.
        lease_rows::renew(&self.store, self.owner, self.ttl).await?;
        let scopes = self.scope_names();
        if scopes.is_empty() {
            // A worker over a foreign broker: rows that another process parked, or put back from the dead
            // letters, would wait until one of its own is parked.
            if retry_rows::is_due(&self.store).await? {
                self.store.signals().ring_here(Wake::PARKED);
            }
            return Ok(());
        }
        let (found, wake) = lease_rows::scopes(&self.store, self.owner, scopes).await?;
        for (name, scope) in found {
            let until = started + self.ttl * 8 / 10;
            let slots = self.share(&name, scope, until).await?;
            self.show(&name, slots, until);
        }
        // Rows that no signal announced: another process's on SQLite, a lost NOTIFY.
        self.store.signals().ring_here(wake);
        Ok(())
    }

    async fn announce_queues(&self) -> Result<(), StoreError> {
        let unannounced = self.unannounced().clone();
        for (service, queues) in &unannounced {
            unserved_rows::announce(&self.store, service, queues).await?;
        }
        self.unannounced().drain(..unannounced.len());
        Ok(())
    }

    /// Looks for rows that no living process would come to, of any service on the database.
    async fn look_for_unserved(&self) {
        let look = async {
            self.announce_queues().await?;
            unserved_rows::find(&self.store).await
        };
        match tokio::time::timeout(LOOK, look).await {
            Ok(Ok(found)) => self.store.status().unserved(found, self.ttl),
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "rows without an owner were not looked for"),
            Err(_elapsed) => tracing::debug!("the look for rows without an owner took too long"),
        }
    }

    /// Takes or releases slots until this process has its fair part; answers what it holds.
    async fn share(&self, name: &str, scope: Scope, until: Instant) -> Result<BTreeMap<i64, Slot>, StoreError> {
        if !scope.joined {
            lease_rows::enter(&self.store, name, self.owner, self.ttl).await?;
        }
        let others = scope.members - usize::from(scope.joined);
        let fair = usize::from(PARTITIONS).div_ceil(others + 1);
        let mut held = scope.mine;
        let mut given_up = Vec::new();
        while held.len() > fair {
            given_up.extend(held.pop_last().map(|(slot, _)| slot));
        }
        if !given_up.is_empty() {
            // First nothing new is begun in them, then what is in hand is finished, then they are another's.
            self.show(name, held.clone(), until);
            drop(tokio::time::timeout(HANDOVER, self.in_hand.write()).await);
            for slot in given_up {
                lease_rows::release(&self.store, name, self.owner, slot).await?;
            }
        }
        // A scope nobody has used before has no rows yet.
        let open: Vec<i64> = if scope.slots == 0 {
            (0..i64::from(PARTITIONS)).collect()
        } else {
            scope.open
        };
        let want: Vec<i64> = open.into_iter().take(fair.saturating_sub(held.len())).collect();
        if !want.is_empty() {
            held.extend(lease_rows::take(&self.store, name, self.owner, want, self.ttl).await?);
        }
        Ok(held)
    }

    /// Nothing is shown of a scope that is being left.
    fn show(&self, name: &str, slots: BTreeMap<i64, Slot>, until: Instant) {
        let scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = scopes.get(name) else { return };
        sender.send_if_modified(|held| {
            let changed = held.slots != slots;
            held.slots = slots;
            held.until = until;
            changed
        });
    }
}
