//! While a database is away one caller at a time finds out whether it is back; the others are told at once, and
//! can go elsewhere with what they hold instead of waiting for a connection.

use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub(super) struct Gate {
    away: AtomicBool,
    asked: AtomicBool,
}

impl Gate {
    /// `None`: the database was away just now, and somebody is looking already.
    pub fn enter(&self) -> Option<Pass<'_>> {
        let looks = self.away.load(Ordering::Relaxed);
        if looks && self.asked.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Pass { gate: self, looks })
    }
}

pub(super) struct Pass<'g> {
    gate: &'g Gate,
    looks: bool,
}

impl Pass<'_> {
    /// What the caller has found.
    pub fn found(self, up: bool) {
        self.gate.away.store(!up, Ordering::Relaxed);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.looks {
            self.gate.asked.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn one_looks_while_it_is_away_and_all_may_enter_once_it_is_back() {
        let gate = Gate::default();
        let (one, two) = (gate.enter(), gate.enter());
        one.unwrap().found(false);
        drop(two);
        let looking = gate.enter();
        assert!(looking.is_some() && gate.enter().is_none());
        drop(looking);
        gate.enter().unwrap().found(true);
        assert!(gate.enter().is_some() && gate.enter().is_some());
    }
}
