//! From where a claim has to look: the low-water mark.
//!
//! A claim that always starts at the oldest entry re-reads every dead index entry (measured: 0.39 of
//! the rate with a backlog of 1 000 000). One that starts behind the last number it saw loses rows,
//! because numbers are taken before they commit. The mark rises only to numbers below which nothing
//! can appear any more: those read in a snapshot that a later snapshot proves complete.
//!
//! The proof on PostgreSQL: a transaction has its id before it takes a number, so whoever holds a number below one that a
//! read has seen had its id by then. An id that is assigned after the read is therefore higher than all of theirs, and
//! once a snapshot has no running transaction below it, they have all ended. The snapshot of the read itself cannot say
//! so: its xmax is one above the last id that *ended*, and a running transaction may have that id or a higher one.

use std::time::{Duration, Instant};

#[cfg(feature = "explore")]
use crate::failpoint::mutant;
use crate::store::Snapshot;

/// An idle reader starts from the beginning this often, for rows that a person has put back.
const SWEEP: Duration = Duration::from_secs(5);

/// A number below which no row of this reader will appear or is left.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    at: i64,
    swept: Option<Instant>,
    /// Rows up to the first number were read before a transaction with the id in second place had it.
    candidate: Option<(i64, i64)>,
    /// Read but not yet settled.
    read: Option<(i64, Snapshot)>,
    /// The server that all of it is about.
    server: Option<i64>,
}

impl Floor {
    /// Rows with a greater number have to be looked at.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// Whether a read went to another server than those before it. After a failover numbers may begin below the mark, so
    /// it is at the beginning again, and what was read is not to be used: earlier rows may be missing.
    #[must_use]
    pub fn moved_to(&mut self, snapshot: &Snapshot) -> bool {
        let moved = self.server.is_some_and(|server| server != snapshot.server);
        if moved {
            self.reset();
        }
        self.server = Some(snapshot.server);
        moved
    }

    /// All rows above the mark up to `last` were read in `snapshot`.
    pub fn read_to(&mut self, last: i64, snapshot: Snapshot) {
        self.read = Some((last, snapshot));
    }

    /// Everything read last is settled: it will not be wanted again. `bound` is the id of a transaction that began after
    /// the read.
    pub fn settled(&mut self, bound: i64) {
        let Some((last, snapshot)) = self.read.take() else {
            return;
        };
        #[cfg(feature = "explore")]
        let bound = if mutant!(SnapshotXmax) { snapshot.xmax } else { bound };
        let (seen, until) = *self.candidate.get_or_insert((last, bound));
        if snapshot.xmin >= until {
            // This read began above the mark and went up to `last` with every transaction that could
            // have taken a number up to `seen` ended.
            self.at = self.at.max(seen.min(last));
            self.candidate = (last > seen).then_some((last, bound));
        }
    }

    /// Some of what was read last is not settled: it is read again.
    pub fn unsettled(&mut self) {
        self.read = None;
    }

    /// Nothing was found above the mark.
    pub fn idle(&mut self) {
        if self.swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            self.reset();
            self.swept = Some(Instant::now());
        }
    }

    /// Rows of further partitions are now wanted, or those below the mark may have changed.
    pub fn reset(&mut self) {
        *self = Self {
            swept: self.swept,
            server: self.server,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(xmin: i64) -> Snapshot {
        Snapshot {
            xmin,
            ..Snapshot::default()
        }
    }

    fn step(floor: &mut Floor, last: i64, xmin: i64, bound: i64) -> i64 {
        floor.read_to(last, snapshot(xmin));
        floor.settled(bound);
        floor.at()
    }

    #[test]
    fn rises_with_the_read_after_the_one_that_saw_the_number() {
        let mut floor = Floor::default();
        // xmin = xmax = 7 says that no id below 7 runs, and nothing of 7 itself, which may hold number 9.
        assert_eq!(step(&mut floor, 10, 7, 8), 0);
        assert_eq!(step(&mut floor, 12, 9, 10), 10);
    }

    #[test]
    fn rises_at_once_where_there_is_one_writer_and_never_where_nothing_is_known() {
        assert_eq!(step(&mut Floor::default(), 10, i64::MAX, i64::MIN), 10, "SQLite");
        let mut floor = Floor::default();
        for last in [10, 20, 30] {
            assert_eq!(step(&mut floor, last, 0, i64::MAX), 0, "MySQL");
        }
    }

    #[test]
    fn waits_for_the_transactions_that_ran_when_it_read() {
        let mut floor = Floor::default();
        assert_eq!(step(&mut floor, 10, 5, 9), 0);
        assert_eq!(
            step(&mut floor, 20, 8, 12),
            0,
            "transaction 8 may still commit number 4"
        );
        assert_eq!(step(&mut floor, 30, 9, 15), 10);
        assert_eq!(step(&mut floor, 40, 15, 16), 30);
    }

    #[test]
    fn never_rises_above_what_was_read() {
        let mut floor = Floor::default();
        step(&mut floor, 50, 5, 9);
        assert_eq!(step(&mut floor, 20, 9, 9), 20, "late rows filled this read");
    }

    #[test]
    fn unsettled_reads_do_not_count_and_keep_what_was_reached() {
        let mut floor = Floor::default();
        step(&mut floor, 10, i64::MAX, i64::MIN);
        floor.read_to(20, snapshot(i64::MAX));
        floor.unsettled();
        floor.settled(i64::MIN);
        assert_eq!(floor.at(), 10);
    }

    #[test]
    fn another_server_begins_at_the_beginning() {
        let on = |server| Snapshot {
            server,
            ..snapshot(i64::MAX)
        };
        let mut floor = Floor::default();
        assert!(!floor.moved_to(&on(1)));
        floor.read_to(1_000, on(1));
        floor.settled(i64::MIN);
        assert!(!floor.moved_to(&on(1)));
        assert_eq!(floor.at(), 1_000);
        assert!(floor.moved_to(&on(2)), "its numbers may begin at 900");
        assert_eq!(floor.at(), 0);
        assert!(!floor.moved_to(&on(2)));
    }
}
