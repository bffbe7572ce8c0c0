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
            suspect,
            suspect_to: i64::MIN,
            revoked: false,
            paused: false,
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

    #[test]
    fn a_revoked_partition_hands_out_nothing() {
        let mut partition = partition(Some(0), false, 0..4);
        assert_eq!(partition.hand_out().map(|(record, _)| record.offset), Some(0));
        partition.revoked = true;
        assert!(partition.hand_out().is_none());
        assert_eq!(partition.done_to(), Some(0));
    }
}
