//! Carries outbox rows to the transport: claim → publish → confirm → mark.
//!
//! The partitions it works on are leased; the mark is refused in the transaction that would write it
//! once the lease is another's. A row stays pending until the transport has confirmed it, however
//! long the transport is away. After a failure the rest of the same key waits, other keys go on; what the transport
//! refuses of one destination keeps no other waiting (`held_back.rs`). What can never be sent is given up as `dead`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::broker::{Broker, BrokerError};
use crate::dead_letter;
use crate::failpoint::{self, mutant};
use crate::failure::chain;
use crate::floor::Floor;
use crate::held_back::{HeldBack, Lane, MAX_DELAY, Outcome};
use crate::lease::{Held, Keeper, Slot};
use crate::message::MessageId;
use crate::retry::{COLLISIONS, after_collision, back_off, jitter};
use crate::store::outbox_rows::{self as outbox, Destination, Pending};
use crate::store::{Store, StoreError, dead_outbox_rows};
use crate::telemetry::{self, metric};

const BATCH: i64 = 500;
/// How long the transport may take to confirm a batch; afterwards its outcome counts as unknown.
const CONFIRM: Duration = Duration::from_secs(30);
/// A lease that lapsed and was renewed by this process itself changes nothing in what it shows.
const FENCED: Duration = Duration::from_millis(500);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(50);
/// A relay that is never idle asks for scheduled rows this often, and begins anew at the oldest row where some of them wait.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct Relay {
    service: String,
    scope: String,
    store: Store,
    broker: Broker,
    keeper: Arc<Keeper>,
    held: watch::Receiver<Held>,
    slots: BTreeMap<i64, Slot>,
    floor: Floor,
    held_back: HeldBack,
    /// In this look a destination was held back because the transport took nothing of a batch that was all for it.
    suspected: bool,
    /// When the next scheduled row falls due, as of the last look at them.
    next_due: Option<Instant>,
    looked: Instant,
    #[cfg(feature = "explore")]
    cursor: i64,
}

/// What a step found.
enum Step {
    Moved,
    /// The transport is away.
    Away,
    /// What is left waits with its key or destination.
    Idle,
}

/// What became of a batch.
enum Forwarded {
    /// All of it was taken or given up; the bound of the transaction that marked it.
    All(i64),
    /// A part of it.
    Some,
    /// Nothing, and the fault is with messages or destinations: they wait.
    Refused,
    /// Nothing, and the fault is the transport's.
    Away,
}

/// What is remembered of a row while its message is on its way.
struct Sent {
    lane: Lane,
    seq: i64,
    age: f64,
    id: MessageId,
    is_copy: bool,
}

impl Sent {
    fn of(row: &Pending) -> Self {
        Self {
            lane: Lane::of(row),
            seq: row.seq,
            age: row.age,
            id: row.message.id,
            is_copy: dead_letter::is_copy(&row.message),
        }
    }
}

/// What the transport has done with a batch.
struct Settled {
    confirmed: Vec<i64>,
    /// What can never be sent, with its error.
    dead: Vec<(i64, String)>,
    /// Some of it stays pending.
    failed: bool,
    /// The transport took nothing, and it is not about one destination.
    away: bool,
}

impl Relay {
    pub fn new(service: &str, store: &Store, broker: &Broker, keeper: &Arc<Keeper>) -> Self {
        let scope = format!("{service}/relay");
        Self {
            service: service.to_owned(),
            held: keeper.join(&scope),
            scope,
            store: store.clone(),
            broker: broker.clone(),
            keeper: keeper.clone(),
            slots: BTreeMap::new(),
            floor: Floor::default(),
            held_back: HeldBack::default(),
            suspected: false,
            next_due: None,
            looked: Instant::now(),
            #[cfg(feature = "explore")]
            cursor: 0,
        }
    }

    /// Runs until `stop`; the batch in hand is finished.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut signal = self.store.signals().outbox();
        let mut failures = 0u32;
        let mut took = Duration::ZERO;
        while !stop.is_cancelled() {
            // A look then passes over all rows of a destination that is held back: not once for each commit, and with
            // many of them no more than a quarter of the time.
            if self.held_back.holds_destinations() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep((3 * took).clamp(SOON, LOOK)) => {}
                }
            }
            // Seen as of now, before the look: what comes in between ends the wait below at once.
            signal.borrow_and_update();
            let began = Instant::now();
            let step = self.step().await;
            took = began.elapsed();
            let pause = match step {
                Ok(Step::Moved) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Away) => {
                    failures += 1;
                    Some(back_off(failures - 1, FIRST_DELAY, MAX_DELAY, jitter()))
                }
                Ok(Step::Idle) => {
                    failures = 0;
                    self.until_next()
                }
                Err(error) => {
                    // Once at the start of an outage, not at every attempt.
                    if failures == 0 {
                        tracing::warn!(service = self.service, error = %chain(&error), "the relay waits for the database");
                    }
                    failures += 1;
                    self.floor.reset();
                    Some(back_off(failures, FIRST_DELAY, MAX_DELAY, jitter()))
                }
            };
            let timer = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                () = stop.cancelled() => true,
                () = timer => false,
                changed = signal.changed(), if failures == 0 => changed.is_err(),
                changed = self.held.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    fn until_next(&self) -> Option<Duration> {
        let next = self.held_back.next().into_iter().chain(self.next_due).min()?;
        // A row whose own time has come may still wait with its lane.
        Some(next.saturating_duration_since(Instant::now()).max(SOON))
    }

    async fn step(&mut self) -> Result<Step, StoreError> {
        let slots = self.held.borrow_and_update().valid();
        if slots != self.slots {
            self.floor.reset();
            self.slots = slots;
            self.next_due = (!self.slots.is_empty()).then(Instant::now);
        }
        if self.slots.is_empty() {
            return Ok(Step::Idle);
        }
        let partitions: Vec<i64> = self.slots.keys().copied().collect();
        // One moment for the whole look: a lane that is ready only at a later page would be overtaken by its own rows there.
        let now = Instant::now();
        self.held_back.begin_look(now);
        self.suspected = false;
        if self.next_due.is_some_and(|at| at <= now) || now - self.looked >= LOOK {
            self.looked = now;
            if let Some(step) = self.send_due(&partitions, now).await? {
                return Ok(step);
            }
        }
        self.send_pending(&partitions, now).await
    }

    /// Sends scheduled rows that are due; `None` when there are none left that could go now.
    async fn send_due(&mut self, partitions: &[i64], now: Instant) -> Result<Option<Step>, StoreError> {
        self.next_due = None;
        while let Some(due) = self.due(partitions, now).await? {
            match self.forward(due).await? {
                Forwarded::All(_) | Forwarded::Some => {
                    self.next_due = Some(Instant::now());
                    return Ok(Some(Step::Moved));
                }
                Forwarded::Away => return Ok(Some(Step::Away)),
                // It waits now, so the next page is another one.
                Forwarded::Refused if now.elapsed() < LOOK => {}
                Forwarded::Refused => break,
            }
        }
        Ok(None)
    }

    async fn send_pending(&mut self, partitions: &[i64], now: Instant) -> Result<Step, StoreError> {
        let mut moved = false;
        let mut after = self.start();
        let mut highest = None;
        loop {
            let waiting = self.held_back.waiting(now);
            let mut page = outbox::pending(&self.store, &self.service, partitions, &waiting, after, BATCH).await?;
            // What has a greater number may follow a row that was committed since, behind this page.
            let highest = *highest.get_or_insert(page.highest);
            page.rows.retain(|row| row.seq <= highest);
            let Some(last) = page.rows.last().map(|row| row.seq) else {
                break;
            };
            if self.floor.moved_to(&page.snapshot) {
                return Ok(Step::Moved);
            }
            failpoint::hit("relay.claimed").await;
            let read = page.rows.len();
            let full = page.full;
            let ready = self.held_back.ready(page.rows, now);
            let whole = waiting.is_empty() && ready.len() == read && after == self.floor.at();
            if ready.is_empty() {
                if !full {
                    break;
                }
                after = last;
                continue;
            }
            if whole {
                self.floor.read_to(last, page.snapshot);
            }
            #[cfg(feature = "explore")]
            {
                self.cursor = last;
            }
            let forwarded = self.forward(ready).await?;
            match forwarded {
                Forwarded::All(bound) if whole => self.floor.settled(bound),
                _ => self.floor.unsettled(),
            }
            match forwarded {
                Forwarded::All(_) | Forwarded::Some => moved = true,
                Forwarded::Refused => {}
                Forwarded::Away if moved => return Ok(Step::Moved),
                Forwarded::Away => return Ok(Step::Away),
            }
            // To begin anew would be to read all that waits once more for each batch of the others.
            if moved && whole || self.slots.is_empty() || now.elapsed() >= LOOK {
                return Ok(Step::Moved);
            }
            if !full {
                break;
            }
            after = last;
        }
        if moved {
            return Ok(Step::Moved);
        }
        self.floor.idle();
        // Asked each time: one that was appended since may be due before the one that was known.
        let waiting = self.held_back.waiting(now);
        let wait = outbox::next_due(&self.store, &self.service, partitions, &waiting).await?;
        // Those that are due and still here wait with their lane.
        self.next_due = wait.map(|wait| Instant::now() + Duration::from_secs_f64(wait.clamp(0.2, 3600.0)));
        Ok(Step::Idle)
    }

    /// The oldest scheduled rows that are due and do not wait; `None` when there are none.
    async fn due(&mut self, partitions: &[i64], now: Instant) -> Result<Option<Vec<Pending>>, StoreError> {
        let mut skipped = 0;
        let waiting = self.held_back.waiting(now);
        loop {
            let (due, full) = outbox::due(&self.store, &self.service, partitions, &waiting, skipped, BATCH).await?;
            let read = due.len() as u64;
            failpoint::hit("relay.due").await;
            let ready = self.held_back.ready(due, now);
            if !ready.is_empty() {
                return Ok(Some(ready));
            }
            if !full {
                return Ok(None);
            }
            skipped += read;
        }
    }

    fn start(&self) -> i64 {
        #[cfg(feature = "explore")]
        if mutant!(Cursor) {
            return self.cursor;
        }
        self.floor.at()
    }

    /// Publishes `rows` and marks what was confirmed.
    async fn forward(&mut self, rows: Vec<Pending>) -> Result<Forwarded, StoreError> {
        let keeper = self.keeper.clone();
        let _in_hand = keeper.in_hand().await;
        let held = self.keeper.still_held(&self.scope, &self.slots).await?;
        failpoint::hit("relay.checked").await;
        // A process that stood still may read an answer that is older than the lease.
        if !held || !self.held.borrow().covers(&self.slots) {
            return self.fenced().await;
        }
        let mut marked = None;
        if mutant!(MarkBeforeConfirm) {
            let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
            marked = self.mark(&seqs, &[]).await?;
        }
        let sent: Vec<Sent> = rows.iter().map(Sent::of).collect();
        failpoint::hit("relay.publishing").await;
        let started = Instant::now();
        let results = self.publish(rows).await;
        failpoint::hit("relay.published").await;
        let took = started.elapsed();
        metrics::histogram!(metric::BROKER_OPERATION, "messaging_operation_name" => "send").record(took);
        let Settled {
            confirmed,
            dead,
            failed,
            away,
        } = self.settle(sent, results, took);
        let ended = !confirmed.is_empty() || !dead.is_empty();
        if ended && !mutant!(MarkBeforeConfirm) {
            marked = self.mark(&confirmed, &dead).await?;
            if marked.is_none() {
                return self.fenced().await;
            }
        }
        failpoint::hit("relay.marked").await;
        Ok(match marked {
            Some(bound) if !failed => Forwarded::All(bound),
            _ if ended => Forwarded::Some,
            _ if away => Forwarded::Away,
            _ => Forwarded::Refused,
        })
    }

    /// Takes in what the transport has answered for a batch.
    fn settle(&mut self, sent: Vec<Sent>, results: Vec<Result<(), BrokerError>>, took: Duration) -> Settled {
        let (mut confirmed, mut dead) = (Vec::with_capacity(sent.len()), Vec::new());
        let mut last_error: Option<BrokerError> = None;
        let mut outcomes = Vec::with_capacity(sent.len());
        // What became unknown because the transport went away, or one destination that confirms nothing.
        let mut unknown = HashSet::new();
        for (
            Sent {
                lane,
                seq,
                age,
                id,
                is_copy,
            },
            result,
        ) in sent.into_iter().zip(results)
        {
            let outcome = match result {
                Ok(()) => {
                    metrics::histogram!(metric::OUTBOX_LAG).record(age + took.as_secs_f64());
                    confirmed.push(seq);
                    Outcome::Taken
                }
                // With its cause in its headers it is larger than what came. The dead letter itself is in the inbox.
                Err(error) if error.is_permanent() && is_copy => {
                    tracing::error!(service = self.service, error = %chain(&error), "a dead letter is kept without a copy in its queue");
                    confirmed.push(seq);
                    Outcome::Taken
                }
                Err(error) if error.is_permanent() => {
                    let error = chain(&error);
                    tracing::error!(
                        service = self.service,
                        message_id = %id,
                        destination = lane.destination.topic,
                        error,
                        "the message can never be sent: dead letter of the outbox"
                    );
                    dead.push((seq, error));
                    Outcome::Dead
                }
                Err(error) => {
                    if error.is_unavailable() {
                        unknown.insert(lane.clone());
                    }
                    last_error = Some(error);
                    Outcome::Refused
                }
            };
            outcomes.push((lane, seq, outcome));
        }
        metrics::counter!(metric::OUTBOX_PUBLISHED, "posthaste_outcome" => "ok").increment(confirmed.len() as u64);
        metrics::counter!(metric::OUTBOX_PUBLISHED, "posthaste_outcome" => "dead").increment(dead.len() as u64);
        metrics::counter!(metric::SENT).increment(confirmed.len() as u64);
        if let Some(error) = &last_error {
            let count = outcomes.len() - confirmed.len() - dead.len();
            metrics::counter!(metric::OUTBOX_PUBLISHED, "posthaste_outcome" => "failed").increment(count as u64);
            tracing::warn!(service = self.service, messages = count, error = %chain(error), "not published; they stay pending");
        }
        let mut away = false;
        if confirmed.is_empty() && !unknown.is_empty() {
            // Nothing was taken, so nothing is known of those: only what was refused holds back its key.
            outcomes.retain(|(lane, ..)| !unknown.contains(lane));
            let topics: HashSet<&str> = unknown.iter().map(|lane| lane.destination.topic.as_str()).collect();
            if topics.len() == 1 && !self.suspected {
                // One destination may be at fault: it waits, and a batch of another one is tried first.
                self.suspected = true;
                let destinations: HashSet<&Destination> = unknown.iter().map(|lane| &lane.destination).collect();
                for destination in destinations {
                    self.held_back.hold(destination);
                }
            } else {
                away = true;
            }
        }
        self.held_back.learn(&outcomes);
        Settled {
            confirmed,
            dead,
            failed: last_error.is_some(),
            away,
        }
    }

    async fn publish(&self, rows: Vec<Pending>) -> Vec<Result<(), BrokerError>> {
        let count = rows.len();
        let span = tracing::info_span!(
            "send",
            otel.kind = "producer",
            messaging.operation.name = "send",
            messaging.system = self.broker.name(),
            messaging.batch.message_count = count,
        );
        for row in &rows {
            if let Some(traceparent) = &row.message.traceparent {
                telemetry::link_trace(&span, traceparent);
            }
        }
        let messages = rows.into_iter().map(|row| row.message).collect();
        match tokio::time::timeout(CONFIRM, self.broker.publish(messages).instrument(span)).await {
            Ok(results) => results,
            Err(_elapsed) => vec![Err(BrokerError::Deadline(CONFIRM)); count],
        }
    }

    /// Returns the bound of the transaction; `None`: the lease is another's.
    async fn mark(&self, confirmed: &[i64], dead: &[(i64, String)]) -> Result<Option<i64>, StoreError> {
        let mut collisions = 0;
        loop {
            match self.mark_once(confirmed, dead).await {
                // Giving up would publish all of it again.
                Err(StoreError::Collision(_)) if collisions < COLLISIONS => collisions += 1,
                other => return other,
            }
            tokio::time::sleep(after_collision(collisions)).await;
        }
    }

    async fn mark_once(&self, confirmed: &[i64], dead: &[(i64, String)]) -> Result<Option<i64>, StoreError> {
        let tx = self.store.begin().await?;
        if !self.keeper.fence(&tx, &self.scope, &self.slots).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        for (seq, error) in dead {
            dead_outbox_rows::mark_dead(&tx, *seq, error).await?;
        }
        let bound = outbox::mark_published(&tx, confirmed.iter().copied()).await?;
        failpoint::hit("relay.marking").await;
        tx.commit().await?;
        Ok(Some(bound))
    }

    /// The lease is another's: its holder goes on, and the keeper will show what is left to this one.
    async fn fenced(&mut self) -> Result<Forwarded, StoreError> {
        tracing::info!(service = self.service, "the relay lost a lease; its new holder goes on");
        self.slots.clear();
        // The keeper's next round corrects what `held` shows; until then there is nothing to do here.
        let changed = tokio::time::timeout(FENCED, self.held.changed()).await;
        match changed {
            Ok(Err(_keeper_gone)) => Err(StoreError::Stopped),
            Ok(Ok(())) | Err(_) => Ok(Forwarded::Some),
        }
    }
}
