//! Carries outbox rows to the transport: claim → publish → confirm → mark.
//!
//! The partitions it works on are leased; the mark is refused in the transaction that would write it
//! once the lease is another's. A row stays pending until the transport has confirmed it, however
//! long the transport is away. After a failure the rest of the same key waits, other keys go on.

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
use crate::held_back::{HeldBack, Lane, MAX_DELAY};
use crate::lease::{Held, Keeper, Slot};
use crate::retry::{COLLISIONS, after_collision, back_off, jitter};
use crate::store::outbox_rows::{self as outbox, Pending};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, metric};

const BATCH: u64 = 500;
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
    /// When the next scheduled row falls due, as of the last look at them.
    next_due: Option<Instant>,
    looked: Instant,
    #[cfg(feature = "explore")]
    cursor: i64,
}

/// What a step found.
enum Step {
    Moved,
    /// Nothing of a batch was taken: the transport is away, or all of the batch is at fault.
    Refused,
    Idle,
}

/// What became of a batch.
enum Forwarded {
    /// All of it was taken; the bound of the transaction that marked it.
    All(i64),
    Some,
    Nothing,
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
        while !stop.is_cancelled() {
            // Seen as of now, before the look: what comes in between ends the wait below at once.
            signal.borrow_and_update();
            let pause = match self.step().await {
                Ok(Step::Moved) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Refused) => {
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
        if self.next_due.is_some_and(|at| at <= now) || now - self.looked >= LOOK {
            self.looked = now;
            if let Some(due) = self.due(&partitions, now).await?
                // What the transport refuses waits with its lane and keeps nothing else waiting.
                && !matches!(self.forward(due).await?, Forwarded::Nothing)
            {
                self.next_due = Some(Instant::now());
                return Ok(Step::Moved);
            }
            self.next_due = None;
        }
        self.held_back.forget_old(now);
        let mut moved = false;
        let mut after = self.start();
        let mut highest = None;
        loop {
            let mut page = outbox::pending(&self.store, &self.service, &partitions, after, BATCH).await?;
            // What has a greater number may follow a row that was committed since, behind this page.
            let highest = *highest.get_or_insert(page.highest);
            page.rows.retain(|row| row.seq <= highest);
            let Some(last) = page.rows.last().map(|row| row.seq) else {
                break;
            };
            failpoint::hit("relay.claimed").await;
            if self.floor.moved_to(&page.snapshot) {
                return Ok(Step::Moved);
            }
            let read = page.rows.len();
            let full = read as u64 == BATCH;
            let ready = self.ready(page.rows, now);
            let whole = ready.len() == read && after == self.floor.at();
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
            if matches!(forwarded, Forwarded::Nothing) {
                return Ok(if moved { Step::Moved } else { Step::Refused });
            }
            // To begin anew would be to read all that waits once more for each batch of the others.
            if whole || !full || self.slots.is_empty() || now.elapsed() >= LOOK {
                return Ok(Step::Moved);
            }
            moved = true;
            after = last;
        }
        if moved {
            return Ok(Step::Moved);
        }
        self.floor.idle();
        // Asked each time: one that was appended since may be due before the one that was known.
        let wait = outbox::next_due(&self.store, &self.service, &partitions).await?;
        // Those that are due and still here wait with their lane.
        self.next_due = wait.map(|wait| Instant::now() + Duration::from_secs_f64(wait.clamp(0.2, 3600.0)));
        Ok(Step::Idle)
    }

    /// The oldest scheduled rows that are due and do not wait; `None` when there are none.
    async fn due(&self, partitions: &[i64], now: Instant) -> Result<Option<Vec<Pending>>, StoreError> {
        let mut skipped = 0;
        loop {
            let due = outbox::due(&self.store, &self.service, partitions, skipped, BATCH).await?;
            let read = due.len() as u64;
            let ready = self.ready(due, now);
            if !ready.is_empty() {
                return Ok(Some(ready));
            }
            if read < BATCH {
                return Ok(None);
            }
            skipped += read;
        }
    }

    /// Those of `rows` whose lane does not wait.
    fn ready(&self, mut rows: Vec<Pending>, now: Instant) -> Vec<Pending> {
        rows.retain(|row| self.held_back.is_free(&Lane::of(row), row.seq, now));
        rows
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
        if !self.keeper.still_held(&self.scope, &self.slots).await? {
            return self.fenced().await;
        }
        let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        let mut marked = None;
        if mutant!(MarkBeforeConfirm) {
            marked = self.mark(&seqs).await?;
        }
        let lanes: Vec<Lane> = rows.iter().map(Lane::of).collect();
        let ages: Vec<f64> = rows.iter().map(|row| row.age).collect();
        let copies: HashSet<i64> = rows
            .iter()
            .filter(|row| dead_letter::is_copy(&row.message))
            .map(|row| row.seq)
            .collect();
        failpoint::hit("relay.publishing").await;
        let started = Instant::now();
        let results = self.publish(rows).await;
        failpoint::hit("relay.published").await;
        let took = started.elapsed();
        metrics::histogram!(metric::BROKER_OPERATION, "messaging_operation_name" => "send").record(took);
        let mut confirmed = Vec::with_capacity(seqs.len());
        let mut failed: Option<BrokerError> = None;
        let mut outcomes = Vec::with_capacity(seqs.len());
        for ((result, lane), (seq, age)) in results.into_iter().zip(lanes).zip(seqs.iter().zip(ages)) {
            match result {
                Ok(()) => {
                    metrics::histogram!(metric::OUTBOX_LAG).record(age + took.as_secs_f64());
                    confirmed.push(*seq);
                    outcomes.push((lane, *seq, true));
                }
                // With its cause in its headers it is larger than what came. It would be pending for ever.
                Err(error @ BrokerError::TooLarge(_)) if copies.contains(seq) => {
                    tracing::error!(service = self.service, error = %chain(&error), "a dead letter is kept without a copy in its queue");
                    confirmed.push(*seq);
                }
                Err(error) => {
                    outcomes.push((lane, *seq, false));
                    failed = Some(error);
                }
            }
        }
        metrics::counter!(metric::OUTBOX_PUBLISHED, "posthaste_outcome" => "ok").increment(confirmed.len() as u64);
        metrics::counter!(metric::SENT).increment(confirmed.len() as u64);
        self.held_back.learn(outcomes);
        if let Some(error) = &failed {
            let count = seqs.len() - confirmed.len();
            metrics::counter!(metric::OUTBOX_PUBLISHED, "posthaste_outcome" => "failed").increment(count as u64);
            tracing::warn!(service = self.service, messages = count, error = %chain(error), "not published; they stay pending");
        }
        if !confirmed.is_empty() && !mutant!(MarkBeforeConfirm) {
            marked = self.mark(&confirmed).await?;
            if marked.is_none() {
                return self.fenced().await;
            }
        }
        failpoint::hit("relay.marked").await;
        Ok(match failed {
            None => marked.map_or(Forwarded::Some, Forwarded::All),
            Some(_) if confirmed.is_empty() => Forwarded::Nothing,
            Some(_) => Forwarded::Some,
        })
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
    async fn mark(&self, seqs: &[i64]) -> Result<Option<i64>, StoreError> {
        let mut collisions = 0;
        loop {
            match self.mark_once(seqs).await {
                // Giving up would publish all of it again.
                Err(StoreError::Collision(_)) if collisions < COLLISIONS => collisions += 1,
                other => return other,
            }
            tokio::time::sleep(after_collision(collisions)).await;
        }
    }

    async fn mark_once(&self, seqs: &[i64]) -> Result<Option<i64>, StoreError> {
        let tx = self.store.begin().await?;
        if !self.keeper.fence(&tx, &self.scope, &self.slots).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let bound = outbox::mark_published(&tx, seqs.iter().copied()).await?;
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
