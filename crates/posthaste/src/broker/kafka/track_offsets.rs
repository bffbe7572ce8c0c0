//! What of an assigned partition waits, is in hand and is done. Only the contiguous done part may be
//! committed: what is committed never comes again.

use std::collections::{BTreeMap, VecDeque};

use crate::identity::Given;
use crate::message::Message;

/// A record that has come.
#[derive(Clone)]
pub(super) struct Record {
    pub offset: i64,
    pub message: Message,
    pub given: Given,
}

/// Gaps that are kept from one look to the next; where every transaction makes one, most tell nothing.
const GAPS: usize = 1000;

/// What librdkafka's statistics say of a partition; negative where it does not know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    /// The first offset that is not deleted.
    pub low: i64,
    /// The end that a fetch has met.
    pub end: i64,
    pub next_fetch: i64,
    /// Fetched, and not polled yet.
    pub queued: i64,
}

/// An assigned partition, from its assignment to its end.
pub(super) struct Partition {
    /// Tells this assignment of the partition from others: a late acknowledgement of an older one counts nothing.
    pub assignment: u64,
    /// How many offsets may be handed out beyond the committed one. Whoever takes the partition over
    /// after a crash takes so many with care.
    window: i64,
    waiting: VecDeque<Record>,
    waiting_bytes: usize,
    in_hand: BTreeMap<i64, Record>,
    /// One past the last record that was handed out.
    next: Option<i64>,
    /// What the cluster has confirmed, with the note that records above it are in hand.
    committed: Option<i64>,
    /// What the group had committed when the partition was assigned.
    start: Option<i64>,
    /// Offsets that were passed over since the last look at the statistics.
    gaps: Vec<(i64, i64)>,
    /// The end of the log at the last look, where everything before it had come.
    end: Option<i64>,
    /// The holder before may have died with records in hand.
    suspect: bool,
    /// Records below this one may have been in its hand.
    suspect_to: i64,
    pub revoked: bool,
    pub paused: bool,
}

impl Partition {
    /// `committed` is set when the cluster's commit says that records may be in hand.
    pub fn new(assignment: u64, window: i64, committed: Option<i64>, suspect: bool) -> Self {
        Self {
            assignment,
            window,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_hand: BTreeMap::new(),
            next: None,
            committed,
            start: committed,
            gaps: Vec::new(),
            end: None,
            suspect,
            suspect_to: i64::MIN,
            revoked: false,
            paused: false,
        }
    }

    /// What the group had committed, also where nothing of it is in doubt.
    pub fn started_at(mut self, offset: Option<i64>) -> Self {
        self.start = offset;
        self
    }

    /// The offset that comes next if none is missing.
    fn expected(&self) -> Option<i64> {
        let last = self.waiting.back().map(|last| last.offset + 1);
        last.or(self.next).or(self.start)
    }

    /// Takes in what the client's statistics say, every few seconds. Returns how many offsets the cluster had deleted before
    /// they were read.
    ///
    /// Transactions end with a marker, which is never delivered, so the last record does not tell whether the end is
    /// reached. `next_fetch` equal to `end` says that everything before has been fetched, and `queued` that it has come;
    /// the parts of the statistics differ in age, so it has to be so twice with nothing between.
    pub fn look(&mut self, seen: &Statistics) -> i64 {
        let idle = self.waiting.is_empty() && self.in_hand.is_empty() && !self.revoked && !self.paused;
        let done = idle && seen.queued == 0 && seen.end > 0 && seen.next_fetch == seen.end;
        let end = done.then_some(seen.end);
        if let Some(at) = end.filter(|_| end == self.end) {
            match self.expected() {
                Some(expected) if expected >= at => {}
                expected => {
                    self.pass_over(expected, at);
                    self.next = Some(at);
                }
            }
        }
        self.end = end;
        let deleted = self
            .gaps
            .drain(..)
            .filter(|(from, to)| (*from + 1..=*to).contains(&seen.low));
        deleted.map(|(from, _)| seen.low - from).sum()
    }

    fn pass_over(&mut self, from: Option<i64>, to: i64) {
        if let Some(from) = from.filter(|from| *from < to && self.gaps.len() < GAPS) {
            self.gaps.push((from, to));
        }
    }

    /// The cluster has lost the end of the log (an unclean election, an older disk) and goes on with offsets that were
    /// committed before: `record` is not what had its number then.
    pub fn has_shrunk(&self, record: &Record) -> bool {
        !self.revoked && self.committed.is_some_and(|committed| record.offset < committed)
    }

    /// Begins anew with what arrives next, under another assignment.
    pub fn begin_anew(&mut self, assignment: u64) {
        *self = Self {
            paused: self.paused,
            ..Self::new(assignment, self.window, None, true)
        };
    }

    /// Takes in what the cluster delivered, in order.
    pub fn arrived(&mut self, record: Record) {
        let last = self.waiting.back().map(|last| last.offset + 1).or(self.next);
        if self.revoked || last.is_some_and(|last| record.offset < last) {
            return;
        }
        self.pass_over(self.expected(), record.offset);
        self.end = None;
        if self.suspect {
            self.suspect = false;
            self.suspect_to = record.offset + self.window;
        }
        self.waiting_bytes += record.message.body.len();
        self.waiting.push_back(record);
    }

    /// The next record and whether it may have been handed out before; `None` when there is none or
    /// too much is in hand or not committed yet.
    pub fn hand_out(&mut self) -> Option<(Record, bool)> {
        let end = self.committed? + self.window;
        if self.revoked || self.waiting.front()?.offset >= end {
            return None;
        }
        let record = self.waiting.pop_front()?;
        self.waiting_bytes -= record.message.body.len();
        self.next = Some(record.offset + 1);
        self.in_hand.insert(record.offset, record.clone());
        let suspect = record.offset < self.suspect_to;
        Some((record, suspect))
    }

    /// `offset` is done.
    pub fn settle(&mut self, offset: i64) {
        self.in_hand.remove(&offset);
    }

    /// What is in hand waits again.
    pub fn give_back(&mut self) {
        for (offset, record) in std::mem::take(&mut self.in_hand).into_iter().rev() {
            self.next = Some(offset);
            self.waiting_bytes += record.message.body.len();
            self.waiting.push_front(record);
        }
    }

    /// Everything below is done; `None` before the first record has come.
    pub fn done_to(&self) -> Option<i64> {
        let first_in_hand = self.in_hand.first_key_value().map(|(offset, _)| *offset);
        // With nothing in hand the offsets up to the next record do not exist: compacted away, or of a
        // transaction that was aborted.
        first_in_hand
            .or_else(|| self.waiting.front().map(|record| record.offset))
            .or(self.next)
    }

    /// The offset to commit, and how many done records that is about; `None` when it is committed already.
    pub fn to_commit(&self) -> Option<(i64, i64)> {
        let done = self.done_to()?;
        match self.committed {
            Some(committed) if committed >= done => None,
            Some(committed) => Some((done, done - committed)),
            // Nothing is handed out before.
            None => Some((done, i64::MAX)),
        }
    }

    /// The cluster has confirmed `offset`.
    pub fn committed(&mut self, offset: i64) {
        self.committed = self.committed.max(Some(offset));
    }

    /// So many of the window are done and not committed that the commit is due at once.
    pub fn is_commit_due(&self, done: i64) -> bool {
        done >= self.window / 2
    }

    /// Nobody works on its records.
    pub fn is_idle(&self) -> bool {
        self.in_hand.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    fn record(offset: i64) -> Record {
        let message = crate::envelope::decode(MessageId::new(), "t".to_owned(), None, None, None, b"{}".to_vec());
        Record {
            offset,
            message,
            given: Given::Nothing,
        }
    }

    fn partition(committed: Option<i64>, suspect: bool, offsets: impl IntoIterator<Item = i64>) -> Partition {
        let mut partition = Partition::new(1, 4, committed, suspect);
        for offset in offsets {
            partition.arrived(record(offset));
        }
        partition
    }

    fn out(partition: &mut Partition) -> Vec<i64> {
        std::iter::from_fn(|| partition.hand_out())
            .map(|(record, _)| record.offset)
            .collect()
    }

    #[test]
    fn only_the_contiguous_done_part_is_committed() {
        let mut partition = partition(Some(0), false, 0..4);
        assert_eq!(out(&mut partition), [0, 1, 2, 3]);
        partition.settle(2);
        partition.settle(1);
        assert_eq!(partition.to_commit(), None);
        partition.settle(0);
        assert_eq!(partition.to_commit(), Some((3, 3)));
        partition.settle(3);
        assert_eq!(partition.done_to(), Some(4));
        assert!(partition.is_idle());
    }

    #[test]
    fn what_is_given_back_comes_again_in_order_and_once() {
        let mut partition = partition(Some(0), false, 0..4);
        assert_eq!(out(&mut partition), [0, 1, 2, 3]);
        partition.settle(1);
        partition.give_back();
        assert_eq!(partition.done_to(), Some(0));
        partition.arrived(record(3));
        assert_eq!(out(&mut partition), [0, 2, 3]);
        for offset in [0, 2, 3] {
            partition.settle(offset);
        }
        assert_eq!(partition.done_to(), Some(4));
    }

    #[test]
    fn no_more_is_handed_out_than_a_successor_takes_with_care() {
        let mut partition = partition(Some(10), true, 10..30);
        let first: Vec<(i64, bool)> = std::iter::from_fn(|| partition.hand_out())
            .map(|(record, suspect)| (record.offset, suspect))
            .collect();
        assert_eq!(first, [(10, true), (11, true), (12, true), (13, true)]);
        for offset in 10..14 {
            partition.settle(offset);
        }
        assert!(partition.hand_out().is_none(), "nothing of it is committed");
        assert_eq!(partition.to_commit(), Some((14, 4)));
        partition.committed(14);
        assert!(
            partition
                .hand_out()
                .is_some_and(|(record, suspect)| record.offset == 14 && !suspect)
        );
    }

    #[test]
    fn the_first_record_waits_until_its_offset_is_committed() {
        let mut partition = partition(None, false, [7, 8]);
        assert!(partition.hand_out().is_none());
        assert_eq!(partition.to_commit().map(|(offset, _)| offset), Some(7));
        partition.committed(7);
        assert_eq!(out(&mut partition), [7, 8]);
    }

    #[test]
    fn what_comes_under_a_committed_offset_again_is_another_record() {
        let mut partition = partition(Some(0), false, 0..4);
        assert_eq!(out(&mut partition), [0, 1, 2, 3]);
        partition.settle(0);
        partition.settle(1);
        partition.committed(2);
        assert!(!partition.has_shrunk(&record(2)), "it may be fetched once more");
        assert!(partition.has_shrunk(&record(1)));
        partition.begin_anew(2);
        partition.arrived(record(1));
        assert!(partition.hand_out().is_none());
        assert_eq!(partition.to_commit().map(|(offset, _)| offset), Some(1));
        partition.committed(1);
        assert_eq!(out(&mut partition), [1]);
    }

    #[test]
    fn gaps_do_not_hold_anything_up() {
        let mut partition = partition(Some(0), false, [0, 1, 500, 1000]);
        assert_eq!(out(&mut partition), [0, 1]);
        partition.settle(1);
        assert_eq!(partition.to_commit(), None);
        partition.settle(0);
        assert_eq!(partition.to_commit(), Some((500, 500)));
        partition.committed(500);
        assert_eq!(out(&mut partition), [500]);
    }

    fn at_end(end: i64) -> Statistics {
        Statistics {
            low: 0,
            end,
            next_fetch: end,
            queued: 0,
        }
    }

    #[test]
    fn the_end_is_reached_behind_markers_that_never_come() {
        let mut partition = partition(Some(0), false, [0, 1]);
        assert_eq!(out(&mut partition), [0, 1]);
        partition.settle(0);
        partition.look(&at_end(9));
        partition.look(&at_end(9));
        assert_eq!(partition.done_to(), Some(1), "one is in hand");
        partition.settle(1);
        partition.look(&at_end(9));
        assert_eq!(partition.done_to(), Some(2), "once may be too early");
        partition.look(&at_end(9));
        assert_eq!(partition.to_commit(), Some((9, 9)));
        partition.arrived(record(9));
        assert_eq!(partition.done_to(), Some(9));
    }

    #[test]
    fn what_came_or_may_come_between_two_looks_is_not_passed_over() {
        let mut partition = partition(Some(0), false, []);
        partition.look(&at_end(9));
        partition.arrived(record(3));
        assert_eq!(out(&mut partition), [3]);
        partition.settle(3);
        partition.look(&at_end(9));
        assert_eq!(partition.done_to(), Some(4));
        let behind = Statistics {
            next_fetch: 5,
            ..at_end(9)
        };
        let queued = Statistics { queued: 1, ..at_end(9) };
        for seen in [behind, queued] {
            // It breaks the row of looks that say the same.
            partition.look(&seen);
            partition.look(&at_end(9));
            assert_eq!(partition.done_to(), Some(4), "{seen:?}");
        }
    }

    #[test]
    fn what_was_deleted_unread_is_counted_once() {
        let from = |low: i64, end: i64| Statistics { low, ..at_end(end) };
        // Committed up to 2; 2 to 4 are gone.
        let mut some = partition(None, false, []).started_at(Some(2));
        some.arrived(record(5));
        assert_eq!(some.look(&from(5, 6)), 3);
        assert_eq!(some.look(&from(5, 6)), 0);
        // All of it, and nothing comes after.
        let mut all = partition(None, false, []).started_at(Some(2));
        assert_eq!(
            (all.look(&from(6, 6)), all.look(&from(6, 6)), all.look(&from(6, 6))),
            (0, 4, 0)
        );
        // Compacted, or a marker: not deleted.
        let mut gap = partition(Some(0), false, [0, 2]);
        assert_eq!(gap.look(&from(0, 3)), 0);
        gap.arrived(record(7));
        assert_eq!(gap.look(&from(1, 8)), 0);
        // A new group has missed nothing.
        let mut new = partition(None, false, [5]);
        assert_eq!(new.look(&from(5, 6)), 0);
    }

    #[test]
    fn a_revoked_partition_hands_out_nothing() {
        let mut partition = partition(Some(0), false, 0..4);
        assert_eq!(partition.hand_out().map(|(record, _)| record.offset), Some(0));
        partition.revoked = true;
        assert!(partition.hand_out().is_none());
        assert_eq!(partition.done_to(), Some(0));
    }
}
