//! Wake-ups: a signal in this process after a commit, and on PostgreSQL a coalesced NOTIFY after it
//! for the other processes. Both only save waiting; the poll in `lease.rs` finds everything.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::suspect_connections::note_silence;
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

/// How long the server may take for a NOTIFY or to say that it still listens.
const LIMIT: Duration = Duration::from_secs(5);

/// A listener that heard nothing for so long asks whether its connection lives: one that was cut without a word is as
/// silent as one without news.
const QUIET: Duration = Duration::from_secs(15);

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
        loop {
            // A listener keeps its connection for ever; those of the other pool belong to work. A pool for each, because one
            // whose connection is dead has no room for another.
            let own = sqlx::postgres::PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(LIMIT)
                .connect_lazy_with((*pool.connect_options()).clone());
            if let Err(error) = self.hear(&own).await {
                tracing::debug!(error = %error, "LISTEN ended");
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Passes on what others say until the connection is lost.
    async fn hear(&self, pool: &sqlx::PgPool) -> Result<(), sqlx::Error> {
        let mut listener = in_time(PgListener::connect_with(pool)).await?;
        // It would connect again by itself, and wait for that as long as TCP does.
        listener.eager_reconnect(false);
        in_time(listener.listen(CHANNEL)).await?;
        let signals = &self.0.signals;
        // What came while nobody listened.
        signals.ring_here(Wake::ALL);
        loop {
            match tokio::time::timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(heard))) => signals.ring_here(Wake::heard(heard.payload(), signals.owner)),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_quiet) => {
                    in_time(sqlx::query("SELECT 1").execute(&mut listener)).await?;
                }
            }
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
            if let Err(error) = in_time(told.execute(pool)).await {
                tracing::debug!(error = %error, "NOTIFY failed");
            }
            tokio::time::sleep(COALESCE).await;
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_elapsed| {
        note_silence();
        Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
    })
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
