//! Wake-ups: a signal in this process after a commit, and on PostgreSQL a coalesced NOTIFY after it
//! for the other processes. Both only save waiting; the poll in `lease.rs` finds everything.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

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

    /// What other processes are told: whose it is, then a letter for each loop.
    fn told_by(self, owner: Uuid) -> String {
        let letters = [(self.outbox, 'o'), (self.queue, 'q'), (self.parked, 'p')];
        let letters: String = letters
            .iter()
            .filter(|(rung, _)| *rung)
            .map(|(_, letter)| letter)
            .collect();
        format!("{} {letters}", owner.simple())
    }

    /// What `text` asks for, unless it is `owner`'s own; everything where another version or a person wrote it.
    fn heard(text: &str, owner: Uuid) -> Self {
        match text.split_once(' ') {
            Some((by, _)) if by == owner.simple().to_string() => Self::default(),
            Some((_, letters)) => Self {
                outbox: letters.contains('o'),
                queue: letters.contains('q'),
                parked: letters.contains('p'),
            },
            None => Self::ALL,
        }
    }
}

/// Counters that grow with each wake-up: a loop that looks before it waits misses none.
pub(crate) struct Signals {
    outbox: watch::Sender<u64>,
    queue: watch::Sender<u64>,
    parked: watch::Sender<u64>,
    committed: Notify,
    /// What other processes are still to be told.
    untold: Mutex<Wake>,
    owner: Uuid,
}

impl Default for Signals {
    fn default() -> Self {
        let counter = || watch::Sender::new(0);
        Self {
            outbox: counter(),
            queue: counter(),
            parked: counter(),
            committed: Notify::new(),
            untold: Mutex::default(),
            owner: Uuid::new_v4(),
        }
    }
}

impl Signals {
    /// After a commit of this process.
    pub(super) fn ring(&self, wake: Wake) {
        if wake != Wake::default() {
            self.ring_here(wake);
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            *untold = untold.and(wake);
            drop(untold);
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
                while let Ok(heard) = listener.recv().await {
                    let signals = &self.0.signals;
                    signals.ring_here(Wake::heard(heard.payload(), signals.owner));
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn notify_others(&self, pool: &sqlx::PgPool) {
        loop {
            let signals = &self.0.signals;
            signals.committed.notified().await;
            let untold = std::mem::take(&mut *signals.untold.lock().unwrap_or_else(PoisonError::into_inner));
            let told = sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(untold.told_by(signals.owner));
            // A lost NOTIFY costs the others one poll interval.
            if let Err(error) = told.execute(pool).await {
                tracing::debug!(error = %error, "NOTIFY failed");
            }
            tokio::time::sleep(COALESCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::Wake;

    #[test]
    fn only_the_loops_that_were_named_wake_and_not_by_themselves() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for wake in [Wake::OUTBOX, Wake::QUEUE.and(Wake::PARKED), Wake::ALL] {
            let told = wake.told_by(one);
            assert_eq!(Wake::heard(&told, other), wake, "{told}");
            assert_eq!(Wake::heard(&told, one), Wake::default(), "{told}");
        }
        assert_eq!(Wake::heard("", one), Wake::ALL, "by hand, or by another version");
    }
}
