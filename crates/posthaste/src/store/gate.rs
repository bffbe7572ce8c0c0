//! While a database is away one caller a second finds out whether it is back; the others are told at once, and
//! can go elsewhere with what they hold instead of waiting for a connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// A look may last much longer: sqlx pauses between its attempts to connect, and would not see at once that the database
/// is back.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Gate {
    away: AtomicBool,
    looked: Mutex<Option<Instant>>,
}

impl Gate {
    /// Whether the caller may try; `false`: the database was away just now, and somebody is looking already.
    pub fn enter(&self) -> bool {
        if !self.away.load(Ordering::Relaxed) {
            return true;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < BETWEEN_LOOKS) {
            return false;
        }
        *looked = Some(Instant::now());
        true
    }

    /// What a caller has found.
    pub fn found(&self, up: bool) {
        if self.away.load(Ordering::Relaxed) == up {
            self.away.store(!up, Ordering::Relaxed);
        }
    }
}

/// A dead connection is found out faster than this, on a busy machine too; a server that is away takes longer.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Connections that died in the pool, as all of them have when the server was restarted: what changes nothing where it
/// fails is tried on the next one.
pub(super) struct DeadConnections {
    left: u32,
}

impl DeadConnections {
    pub fn among(connections: u32) -> Self {
        Self { left: connections }
    }

    /// Whether what was `asked` then failed because of one.
    pub fn is_one(&mut self, error: &StoreError, asked: Instant) -> bool {
        let dead = self.left > 0 && matches!(error, StoreError::Unavailable(_)) && asked.elapsed() < AT_ONCE;
        self.left -= u32::from(dead);
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn one_looks_while_it_is_away_and_all_may_enter_once_it_is_back() {
        let gate = Gate::default();
        assert!(gate.enter() && gate.enter());
        gate.found(false);
        assert!(gate.enter());
        assert!(!gate.enter());
        gate.found(true);
        assert!(gate.enter() && gate.enter());
    }
}
