//! Which of a channel's deliveries are settled, and the bytes of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::connect::Up;
use super::hold_bytes::Bytes;
use crate::message::MessageId;

/// The deliveries of one channel.
pub(super) struct Ledger {
    up: Arc<Up>,
    channel: Channel,
    bytes: Arc<Bytes>,
    unsettled: Mutex<Unsettled>,
    /// An acknowledgement did not get through.
    failed: AtomicBool,
}

impl Ledger {
    pub(super) fn new(up: Arc<Up>, channel: Channel, bytes: Arc<Bytes>) -> Self {
        Self {
            up,
            channel,
            bytes,
            unsettled: Mutex::new(Unsettled {
                next: 1,
                ..Unsettled::default()
            }),
            failed: AtomicBool::new(false),
        }
    }

    pub(super) fn up(&self) -> &Arc<Up> {
        &self.up
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn alive(&self) -> bool {
        self.up.alive() && self.channel.status().connected() && !self.failed.load(Ordering::Relaxed)
    }

    /// Takes room for `size` bytes; `false` where there is none.
    pub(super) fn take(&self, size: usize) -> bool {
        let mut unsettled = self.lock();
        let taken = !unsettled.closed && self.bytes.take(unsettled.bytes, size);
        if taken {
            unsettled.bytes += size;
        }
        taken
    }

    /// Gives room back that no delivery has.
    pub(super) fn give_back(&self, size: usize) {
        let mut unsettled = self.lock();
        // A closed ledger has given back all.
        let size = size.min(unsettled.bytes);
        unsettled.bytes -= size;
        self.bytes.give_back(size);
    }

    /// Notes a delivery that is kept; room was taken for it.
    pub(super) fn keep(&self, tag: u64, id: Option<MessageId>, size: usize) {
        self.lock().kept.insert(tag, (id, size));
    }

    /// Notes a delivery whose body is not kept.
    pub(super) fn drop_body(&self, tag: u64, id: Option<MessageId>) {
        self.lock().kept.insert(tag, (id, 0));
    }

    /// Settles `tags` by acknowledging them. What does not get through comes again.
    pub(super) async fn acknowledge(&self, tags: impl Iterator<Item = u64>) {
        let up_to = {
            let mut unsettled = self.lock();
            let before = unsettled.bytes;
            let up_to = unsettled.settle(tags);
            self.bytes.give_back(before - unsettled.bytes);
            up_to
        };
        self.send(up_to).await;
    }

    /// Gives one delivery back to its queue, which delivers it again.
    pub(super) async fn give_up(&self, tag: u64) {
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let sent = self.up.in_time(self.channel.basic_nack(tag, options)).await;
        self.note(matches!(sent, Ok(Ok(()))));
        // Those behind it may have waited for it.
        let up_to = self.lock().give_up(tag);
        self.send(up_to).await;
    }

    /// Acknowledges everything up to this delivery.
    async fn send(&self, up_to: Option<u64>) {
        let Some(up_to) = up_to else { return };
        let options = BasicAckOptions { multiple: true };
        let sent = self.up.in_time(self.channel.basic_ack(up_to, options)).await;
        self.note(matches!(sent, Ok(Ok(()))));
    }

    fn note(&self, sent: bool) {
        if !sent {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing is kept from now on. Returns the ids of what was not settled.
    pub(super) fn close(&self) -> Vec<MessageId> {
        let mut unsettled = self.lock();
        unsettled.closed = true;
        self.bytes.give_back(std::mem::take(&mut unsettled.bytes));
        let kept = std::mem::take(&mut unsettled.kept);
        kept.into_values().filter_map(|(id, _)| id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a channel's deliveries still waits for its acknowledgement.
#[derive(Default)]
struct Unsettled {
    /// All before this one are acknowledged.
    next: u64,
    /// Settled, behind one that is not.
    settled: BTreeSet<u64>,
    /// Given back, likewise. RabbitMQ knows their numbers no more.
    given_up: BTreeSet<u64>,
    /// Delivered and not settled, with the bytes that are held.
    kept: BTreeMap<u64, (Option<MessageId>, usize)>,
    /// Bytes of these, and of what is to come again.
    bytes: usize,
    closed: bool,
}

impl Unsettled {
    /// The number up to which everything is to be acknowledged, if it has risen.
    fn settle(&mut self, tags: impl Iterator<Item = u64>) -> Option<u64> {
        for tag in tags {
            if let Some((_, size)) = self.kept.remove(&tag) {
                self.bytes -= size;
                self.settled.insert(tag);
            }
        }
        self.rise()
    }

    /// As [`Self::settle`], of one that is given back.
    fn give_up(&mut self, tag: u64) -> Option<u64> {
        self.kept.remove(&tag);
        self.given_up.insert(tag);
        self.rise()
    }

    fn rise(&mut self) -> Option<u64> {
        let mut up_to = None;
        loop {
            if self.settled.remove(&self.next) {
                up_to = Some(self.next);
            } else if !self.given_up.remove(&self.next) {
                return up_to;
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Unsettled;

    #[test]
    fn only_what_has_nothing_open_before_it_is_acknowledged() {
        let mut unsettled = Unsettled {
            next: 1,
            bytes: 40,
            ..Unsettled::default()
        };
        for tag in [1, 2, 3, 5] {
            unsettled.kept.insert(tag, (None, 10));
        }
        assert_eq!(unsettled.settle([2, 3].into_iter()), None);
        assert_eq!(unsettled.bytes, 20);
        assert_eq!(unsettled.settle([1, 1, 9].into_iter()), Some(3));
        assert_eq!(unsettled.settle([5].into_iter()), None);
        unsettled.kept.insert(4, (None, 0));
        assert_eq!(unsettled.settle([4].into_iter()), Some(5));
        assert_eq!(unsettled.bytes, 0);
        for tag in 6..=9 {
            unsettled.kept.insert(tag, (None, 0));
        }
        assert_eq!(unsettled.settle([6, 8].into_iter()), Some(6));
        assert_eq!(unsettled.give_up(9), None);
        assert_eq!(
            unsettled.give_up(7),
            Some(8),
            "the number of one that RabbitMQ still has"
        );
        assert_eq!(unsettled.next, 10);
    }
}
