//! Wake-ups: a signal in this process after a commit, and on PostgreSQL a coalesced NOTIFY after it
//! for the other processes. Both only save waiting; the poll in `lease.rs` finds everything.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Pools, Store};

/// Which loops have new rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wake {
    pub outbox: bool,
    pub queue: bool,
    pub parked: bool,
}

impl Wake {
    pub(crate) const OUTBOX: Self = Self {
        outbox: true,
        queue: false,
        parked: false,
    };
    pub(crate) const QUEUE: Self = Self {
        outbox: false,
        queue: true,
        parked: false,
    };
    pub(crate) const PARKED: Self = Self {
        outbox: false,
        queue: false,
        parked: true,
    };
    pub(crate) const ALL: Self = Self {
        outbox: true,
        queue: true,
        parked: true,
    };

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            outbox: self.outbox || other.outbox,
            queue: self.queue || other.queue,
            parked: self.parked || other.parked,
        }
    }
}

/// Counters that grow with each wake-up: a loop that looks before it waits misses none.
pub(crate) struct Signals {
    outbox: watch::Sender<u64>,
    queue: watch::Sender<u64>,
    parked: watch::Sender<u64>,
    committed: Notify,
}

impl Default for Signals {
    fn default() -> Self {
        let counter = || watch::Sender::new(0);
        Self {
            outbox: counter(),
            queue: counter(),
            parked: counter(),
            committed: Notify::new(),
        }
    }
}

impl Signals {
    /// After a commit of this process.
    pub(super) fn ring(&self, wake: Wake) {
        if wake != Wake::default() {
            self.ring_here(wake);
            self.committed.notify_one();
        }
    }

    /// Rings this process's loops only.
    pub(crate) fn ring_here(&self, wake: Wake) {
        for (ring, sender) in [
            (wake.outbox, &self.outbox),
            (wake.queue, &self.queue),
            (wake.parked, &self.parked),
        ] {
            if ring {
                sender.send_modify(|count| *count += 1);
            }
        }
    }

    pub(crate) fn outbox(&self) -> watch::Receiver<u64> {
        self.outbox.subscribe()
    }

    pub(crate) fn queue(&self) -> watch::Receiver<u64> {
        self.queue.subscribe()
    }

    pub(crate) fn parked(&self) -> watch::Receiver<u64> {
        self.parked.subscribe()
    }
}

const CHANNEL: &str = "posthaste";

/// At most one NOTIFY in this time: under load the others poll or read on anyway.
const COALESCE: Duration = Duration::from_millis(20);

impl Store {
    /// Exchanges wake-ups with other processes until `stop`; at once done where the database has none.
    pub(crate) async fn exchange_wake_ups(&self, stop: CancellationToken) {
        let Pools::Postgres(pool) = &self.0.pools else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.listen(pool) => {}
            () = self.notify_others(pool) => {}
        }
    }

    async fn listen(&self, pool: &sqlx::PgPool) {
        // A listener keeps its connection for ever; those of the other pool belong to work.
        let own = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with((*pool.connect_options()).clone());
        loop {
            if let Ok(mut listener) = PgListener::connect_with(&own).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                // What came while nobody listened.
                self.0.signals.ring_here(Wake::ALL);
                while listener.recv().await.is_ok() {
                    self.0.signals.ring_here(Wake::ALL);
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn notify_others(&self, pool: &sqlx::PgPool) {
        loop {
            self.0.signals.committed.notified().await;
            // A lost NOTIFY costs the others one poll interval.
            if let Err(error) = sqlx::query("NOTIFY posthaste").execute(pool).await {
                tracing::debug!(error = %error, "NOTIFY failed");
            }
            tokio::time::sleep(COALESCE).await;
        }
    }
}
