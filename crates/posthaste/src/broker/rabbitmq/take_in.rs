//! Takes in what a channel delivers, at once and as far as there is room.
//!
//! lapin reads its socket whether anyone asks for deliveries or not, and RabbitMQ limits them by number only. So a task
//! takes each delivery as it comes. One that finds no room (`hold_bytes.rs`) loses its body here and stays
//! unacknowledged; once there is room, it is given back to its queue, which delivers it again. Room is taken before it is
//! given back, so it is dropped once. What follows it on its queue waits behind it, so that order holds.
//!
//! To transfer bodies twice is for a change of sizes. A plain queue is read with a small prefetch at first, and by a second
//! consumer with as large a one as the mean size allows; it is cancelled when the mean has changed. The partition queues
//! have a fixed prefetch: to cancel their consumer would leave the queue to another process.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt};
use lapin::Consumer;
use lapin::message::Delivery as Arrived;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::hold_bytes::MOST;
use super::properties;
use super::target::LIMIT;
use super::unsettled::Ledger;
use crate::failure::chain;

/// Deliveries of a plain queue that may be on their way while nothing is known of their size.
const FIRST: u16 = 8;
/// The last so many deliveries make the mean size.
const RECENT: usize = 16;
/// How long what was given back to a shared queue keeps its room; another process may have got it.
const SHARED_RETURN: Duration = Duration::from_secs(2);
/// How long it may take where only this process reads the queue. It may have expired; then the channel is opened again.
const OWN_RETURN: Duration = Duration::from_secs(30);
/// Most deliveries that are remembered as given back.
const KEPT: usize = 10_000;

/// What comes out of a channel.
pub(super) struct Arrival {
    pub(super) epoch: i64,
    /// From a partition queue.
    pub(super) partition: bool,
    /// It was delivered before, but never handed on.
    pub(super) unused: bool,
    /// `None`: the channel or one of its queues is gone.
    pub(super) arrived: Option<Arrived>,
}

/// How a queue is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// With others.
    Shared,
    /// The second consumer of a queue that is shared.
    Wide,
    /// By this process alone; the number is the queue's on the channel.
    Own(u16),
}

impl Share {
    /// Whether both read the same queue.
    fn same_queue(self, other: Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one == other,
            (Self::Own(_), _) | (_, Self::Own(_)) => false,
            (Self::Shared | Self::Wide, Self::Shared | Self::Wide) => true,
        }
    }

    fn is_own(self) -> bool {
        matches!(self, Self::Own(_))
    }
}

/// One consumer's deliveries.
pub(super) struct Source {
    pub(super) share: Share,
    pub(super) partition: bool,
    pub(super) consumer: Option<Consumer>,
}

impl Stream for Source {
    type Item = (Share, bool, Option<Arrived>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (share, partition) = (self.share, self.partition);
        let Some(consumer) = &mut self.consumer else {
            return Poll::Ready(None);
        };
        match consumer.poll_next_unpin(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(arrived))) => Poll::Ready(Some((share, partition, Some(arrived)))),
            Poll::Ready(ended) => {
                if let Some(Err(error)) = ended {
                    tracing::debug!(error = %chain(&error), "a channel to RabbitMQ ended");
                }
                self.consumer = None;
                Poll::Ready(Some((share, partition, None)))
            }
        }
    }
}

/// A delivery whose body was dropped.
struct Dropped {
    share: Share,
    tag: u64,
    size: usize,
    /// What it is known by when it comes again; `None` where it may have killed another worker.
    print: Option<u64>,
}

/// What was given back to its queue and holds its room.
struct Awaited {
    share: Share,
    size: usize,
    until: Instant,
}

/// The second consumer of the plain queue.
enum Wide {
    None,
    Opening(usize),
    /// Its tag, and the prefetch that was wanted then.
    Open(ShortString, usize),
    Ending,
}

/// The plain queue that is shared, and the most deliveries of it that may be on their way.
pub(super) struct Plain {
    pub(super) queue: ShortString,
    pub(super) most: u16,
}

impl Plain {
    /// What its first consumer may have on the way.
    pub(super) fn first(&self) -> u16 {
        FIRST.min(self.most)
    }
}

pub(super) enum Added {
    Source(Source),
    /// The queue is read as well, in a way that fits the sizes of its messages.
    Plain(Plain),
    NotWidened,
}

/// The task of one channel.
pub(super) struct TakeIn {
    epoch: i64,
    ledger: Arc<Ledger>,
    sources: SelectAll<Source>,
    add: mpsc::WeakUnboundedSender<Added>,
    added: mpsc::UnboundedReceiver<Added>,
    arrivals: mpsc::UnboundedSender<Arrival>,
    /// In the order of their delivery.
    dropped: VecDeque<Dropped>,
    awaited: VecDeque<Awaited>,
    /// What was given back without having been handed on.
    unused: HashSet<u64>,
    prints: RandomState,
    plain: Option<Plain>,
    wide: Wide,
    mean: usize,
    seen: usize,
}

/// The ends of a task that its reader has.
pub(super) struct Taking {
    pub(super) arrivals: mpsc::UnboundedReceiver<Arrival>,
    pub(super) add: mpsc::UnboundedSender<Added>,
    /// Ends the channel; the consumer goes after it.
    pub(super) stop: oneshot::Sender<Option<Consumer>>,
}

impl TakeIn {
    pub(super) fn start(epoch: i64, ledger: Arc<Ledger>) -> Taking {
        let (arrivals, received) = mpsc::unbounded_channel();
        let (add, added) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let this = Self {
            epoch,
            ledger,
            sources: SelectAll::new(),
            add: add.downgrade(),
            added,
            arrivals,
            dropped: VecDeque::new(),
            awaited: VecDeque::new(),
            unused: HashSet::new(),
            prints: RandomState::new(),
            plain: None,
            wide: Wide::None,
            mean: 0,
            seen: 0,
        };
        tokio::spawn(this.run(stopped));
        Taking {
            arrivals: received,
            add,
            stop,
        }
    }

    async fn run(mut self, mut stop: oneshot::Receiver<Option<Consumer>>) {
        let ledger = self.ledger.clone();
        let mut given_back = ledger.bytes().given_back();
        let turn = loop {
            let lapse = self.awaited.iter().map(|awaited| awaited.until).min();
            let lapsed = async {
                match lapse {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                turn = &mut stop => break turn,
                Some(added) = self.added.recv() => self.add(added),
                Some((share, partition, arrived)) = self.sources.next(), if !self.sources.is_empty() => {
                    match arrived {
                        Some(arrived) => self.take(share, partition, arrived),
                        None => self.ended(share),
                    }
                }
                Ok(()) = given_back.changed(), if !self.dropped.is_empty() => self.call_back().await,
                () = lapsed => self.lapse(),
            }
        };
        // The channel goes before its consumers. Cancelled by themselves, they would let each queue's next reader have what
        // comes after the deliveries in hand here, before these are given back. What still comes is dropped.
        let closing = tokio::time::timeout(LIMIT, ledger.channel().close(200, "OK".into()));
        tokio::pin!(closing);
        loop {
            tokio::select! {
                // Without success only where the connection is gone, and with it the channel.
                _closed = &mut closing => break,
                Some(_) = self.sources.next(), if !self.sources.is_empty() => {}
            }
        }
        drop((self.sources, turn));
    }

    fn add(&mut self, added: Added) {
        match added {
            Added::Plain(plain) => self.plain = Some(plain),
            Added::Source(source) => {
                if let (Wide::Opening(as_of), Share::Wide, Some(consumer)) =
                    (&self.wide, source.share, &source.consumer)
                {
                    self.wide = Wide::Open(consumer.tag(), *as_of);
                }
                self.sources.push(source);
            }
            Added::NotWidened => self.wide = Wide::Ending,
        }
    }

    fn ended(&mut self, share: Share) {
        if share == Share::Wide && matches!(self.wide, Wide::Ending) {
            self.wide = Wide::None;
            self.fit_prefetch();
        } else {
            tracing::info!("RabbitMQ ended the reading of a queue; it begins again");
            self.end();
        }
    }

    /// The reader gives the channel up.
    fn end(&self) {
        let end = Arrival {
            epoch: self.epoch,
            partition: false,
            unused: false,
            arrived: None,
        };
        // It may have given it up already.
        drop(self.arrivals.send(end));
    }

    fn take(&mut self, share: Share, partition: bool, arrived: Arrived) {
        let (tag, size) = (arrived.delivery_tag, properties::size(&arrived));
        let hint = properties::hint(&arrived);
        let awaited = if arrived.redelivered {
            self.came_back(share)
        } else {
            None
        };
        let unused = arrived.redelivered && !self.unused.is_empty() && {
            let print = self.print(&arrived);
            self.unused.remove(&print)
        };
        let came_back = awaited.is_some();
        if let Some(room) = awaited
            && room != size
        {
            self.ledger.give_back(room);
        }
        let has_room = match awaited {
            Some(room) if room == size => true,
            Some(_) => self.ledger.take(size),
            None => !self.waits(share) && self.ledger.take(size),
        };
        if !came_back {
            self.measure(share, size);
        }
        if has_room {
            self.ledger.keep(tag, hint, size);
            let arrival = Arrival {
                epoch: self.epoch,
                partition,
                unused,
                arrived: Some(arrived),
            };
            // Without a reader the channel is about to end.
            drop(self.arrivals.send(arrival));
            return;
        }
        self.ledger.drop_body(tag, hint);
        let print = (!arrived.redelivered || unused).then(|| self.print(&arrived));
        let dropped = Dropped {
            share,
            tag,
            size,
            print,
        };
        if came_back {
            self.dropped.push_front(dropped);
        } else {
            self.dropped.push_back(dropped);
        }
    }

    /// The room that is held for a delivery of this queue that comes again.
    fn came_back(&mut self, share: Share) -> Option<usize> {
        let at = self
            .awaited
            .iter()
            .position(|awaited| awaited.share.same_queue(share))?;
        self.awaited.remove(at).map(|awaited| awaited.size)
    }

    /// Whether something before it on its queue has no body here.
    fn waits(&self, share: Share) -> bool {
        let dropped = self.dropped.iter().any(|dropped| dropped.share.same_queue(share));
        dropped || share.is_own() && self.awaited.iter().any(|awaited| awaited.share.same_queue(share))
    }

    fn print(&self, arrived: &Arrived) -> u64 {
        match properties::hint(arrived) {
            Some(id) => self.prints.hash_one(id),
            None => self.prints.hash_one(&arrived.data),
        }
    }

    /// Gives back to their queues as many as have room by now, the oldest first.
    async fn call_back(&mut self) {
        while let Some(next) = self.dropped.front() {
            if !self.ledger.take(next.size) {
                return;
            }
            let Some(next) = self.dropped.pop_front() else { return };
            if self.unused.len() >= KEPT {
                self.unused.clear();
            }
            self.unused.extend(next.print);
            let patience = if next.share.is_own() { OWN_RETURN } else { SHARED_RETURN };
            self.awaited.push_back(Awaited {
                share: next.share,
                size: next.size,
                until: Instant::now() + patience,
            });
            self.ledger.give_up(next.tag).await;
        }
    }

    fn lapse(&mut self) {
        let now = Instant::now();
        let (lapsed, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.awaited)
            .into_iter()
            .partition(|awaited| awaited.until <= now);
        self.awaited = waiting;
        for awaited in lapsed {
            self.ledger.give_back(awaited.size);
            if awaited.share.is_own() {
                tracing::info!("RabbitMQ did not deliver again what was given back; the queues are read again");
                self.end();
            }
        }
    }

    fn measure(&mut self, share: Share, size: usize) {
        if share.is_own() {
            return;
        }
        self.mean = if self.seen == 0 {
            size
        } else {
            (self.mean * (RECENT - 1) + size).div_ceil(RECENT)
        };
        self.seen += 1;
        if self.seen >= usize::from(FIRST) {
            self.fit_prefetch();
        }
    }

    /// The deliveries of the plain queue that may be on their way: half of the room, as far as the mean tells.
    fn wanted(&self) -> usize {
        let most = self.plain.as_ref().map_or(0, |plain| usize::from(plain.most));
        (MOST / 2 / self.mean.max(1)).min(most)
    }

    fn fit_prefetch(&mut self) {
        let Some(plain) = &self.plain else { return };
        let (first, wanted) = (usize::from(plain.first()), self.wanted());
        match &self.wide {
            Wide::None if wanted >= 2 * first => {
                let (queue, ledger, add) = (plain.queue.clone(), self.ledger.clone(), self.add.clone());
                let prefetch = u16::try_from(wanted - first).unwrap_or(u16::MAX);
                self.wide = Wide::Opening(wanted);
                tokio::spawn(async move {
                    let added = widen(&ledger, queue, prefetch).await;
                    if let Some(add) = add.upgrade() {
                        drop(add.send(added));
                    }
                });
            }
            Wide::Open(tag, as_of) if wanted <= as_of / 2 || wanted >= 2 * as_of => {
                let (tag, ledger) = (tag.clone(), self.ledger.clone());
                self.wide = Wide::Ending;
                tokio::spawn(async move {
                    let cancelled = ledger.channel().basic_cancel(tag, BasicCancelOptions::default());
                    // Where it does not get through, the channel is lost.
                    drop(ledger.up().in_time(cancelled).await);
                });
            }
            Wide::None | Wide::Opening(_) | Wide::Open(..) | Wide::Ending => {}
        }
    }
}

async fn widen(ledger: &Ledger, queue: ShortString, prefetch: u16) -> Added {
    let asked = async {
        let channel = ledger.channel();
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        channel
            .basic_consume(queue, "".into(), options, FieldTable::default())
            .await
    };
    match ledger.up().in_time(asked).await {
        Ok(Ok(consumer)) => Added::Source(Source {
            share: Share::Wide,
            partition: false,
            consumer: Some(consumer),
        }),
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "a channel to RabbitMQ ended");
            Added::NotWidened
        }
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a channel to RabbitMQ ended");
            Added::NotWidened
        }
    }
}
