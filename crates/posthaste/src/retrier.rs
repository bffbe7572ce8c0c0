//! Tries the rows of one subscription again when they are due. The attempt is counted and committed first, so that a message
//! that kills the process ends in the dead letters too, and uses up no other's attempts. What waits behind the first row
//! of an ordering key is drained in batches once that one has ended. What is handled outside of a transaction comes here at
//! once, from the consumer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::consumer::EXPIRED;
use crate::dead_letter;
use crate::failpoint;
use crate::failure::{Failure, chain};
use crate::handle::{Decoded, Effect, Subscription};
use crate::handle_outside::Outside;
use crate::invoke::{self, Blame, Failed, Published, blame, cause, environment};
use crate::message::{Message, now};
use crate::outbox;
use crate::retry::{back_off, decide, jitter};
use crate::status::ReadingStatus;
use crate::store::inbox_rows::{self as inbox, Fate};
use crate::store::retry_rows::{self as rows, Claim, Due, Taken};
use crate::store::{Store, StoreError, Tx};
use crate::telemetry::metric;

/// Rows looked at in one go.
const PAGE: i64 = 500;
/// Keys that are worked off at a time, so that one handler that hangs holds up few others.
const LANES: usize = 4;
/// A row of a worker that died comes back this long after its handler's deadline. Also how long one key is
/// worked off before it is another's turn.
const GRACE: Duration = Duration::from_secs(5);
/// How often rows are looked for that nobody would make due.
const SWEEP: Duration = Duration::from_secs(60);
/// When there is another look after one that found something, should no lane end before.
const AGAIN: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

pub(crate) struct Retrier {
    service: String,
    store: Store,
    subscription: Arc<Subscription>,
    /// The turn that no other subscription can take.
    own_turn: Semaphore,
    /// Rows in hand when the database went away.
    interrupted: Mutex<Vec<Claim>>,
    reading: ReadingStatus,
}

/// How a transaction on rows that were taken ended.
enum Tried {
    Committed,
    /// Another worker has taken the rows since.
    Lost,
    Failed(Failed),
}

/// Rows that others hold: not tried again before this time, or a look would find them over and over.
#[derive(Default)]
struct HeldElsewhere {
    rows: HashMap<Uuid, (Instant, u32)>,
}

impl HeldElsewhere {
    fn note(&mut self, id: Uuid) {
        let (until, times) = self.rows.entry(id).or_insert((Instant::now(), 0));
        *until = Instant::now() + back_off(*times, FIRST_DELAY, MAX_DELAY, jitter());
        *times += 1;
    }

    /// Those of `found` that may be tried now.
    fn without(&mut self, found: Vec<Due>) -> VecDeque<Due> {
        let now = Instant::now();
        let ids: HashSet<Uuid> = found.iter().map(|row| row.id).collect();
        // What is not due any more is not held.
        self.rows.retain(|id, (until, _)| *until > now || ids.contains(id));
        let is_held = |row: &Due| self.rows.get(&row.id).is_some_and(|(until, _)| *until > now);
        found.into_iter().filter(|row| !is_held(row)).collect()
    }

    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        self.rows
            .values()
            .map(|(until, _)| *until)
            .filter(|until| *until > now)
            .min()
    }
}

/// What became of a lane.
enum Worked {
    Took,
    /// Its first row was not there to be taken.
    Gone,
    /// Another lane has failed before this one took anything.
    Halted,
}

impl Retrier {
    pub fn new(service: &str, store: &Store, subscription: &Arc<Subscription>) -> Self {
        Self {
            service: service.to_owned(),
            store: store.clone(),
            subscription: subscription.clone(),
            own_turn: Semaphore::new(1),
            interrupted: Mutex::default(),
            reading: store.status().reader(&subscription.name),
        }
    }

    /// Runs until `stop`; the rows in hand are finished, as far as the drain allows.
    pub async fn run(self, stop: CancellationToken) {
        let mut signal = self.store.signals().parked();
        let mut lanes = FuturesUnordered::new();
        let (mut found, mut in_hand) = (VecDeque::<Due>::new(), HashSet::new());
        let mut held = HeldElsewhere::default();
        let mut halt = stop.child_token();
        let mut failures = 0u32;
        let (mut next_look, mut next_sweep) = (Instant::now(), Instant::now());
        while !stop.is_cancelled() {
            while lanes.len() < LANES
                && let Some(row) = found.pop_front()
            {
                in_hand.insert(row.id);
                lanes.push(self.run_lane(row, halt.clone()));
            }
            let free = lanes.len() < LANES;
            if free && next_look <= Instant::now() {
                signal.borrow_and_update();
                match self.look(&mut next_sweep).await {
                    Ok(due) => {
                        found = held.without(due);
                        found.retain(|row| !in_hand.contains(&row.id));
                        if found.is_empty() && lanes.is_empty() {
                            failures = 0;
                        }
                        let wait = if found.is_empty() { self.pause().await } else { AGAIN };
                        next_look = next_sweep.min(Instant::now() + wait);
                        next_look = held.next().map_or(next_look, |until| next_look.min(until));
                    }
                    Err(error) => next_look = self.failed(&error, &mut failures),
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some((id, worked)) = lanes.next(), if !lanes.is_empty() => {
                    in_hand.remove(&id);
                    match worked {
                        Ok(Worked::Took) => {
                            failures = 0;
                            next_look = Instant::now();
                        }
                        // It has done nothing, so it says nothing about the database.
                        Ok(Worked::Halted) => {}
                        Ok(Worked::Gone) => {
                            held.note(id);
                            next_look = held.next().map_or(next_look, |until| next_look.min(until));
                        }
                        Err(error) => {
                            // The others finish what they have in hand: dropped in the middle it would have cost an attempt.
                            halt.cancel();
                            halt = stop.child_token();
                            found.clear();
                            next_look = self.failed(&error, &mut failures);
                        }
                    }
                }
                () = tokio::time::sleep_until(next_look), if free => {}
                changed = signal.changed(), if free && failures == 0 => {
                    if changed.is_err() {
                        break;
                    }
                    next_look = Instant::now();
                }
            }
        }
        while lanes.next().await.is_some() {}
    }

    /// Notes an error; returns when there is the next look.
    fn failed(&self, error: &StoreError, failures: &mut u32) -> Instant {
        if let StoreError::Environment(_) = error {
            self.reading.cannot_handle(chain(error));
        }
        if *failures == 0 {
            tracing::warn!(subscription = self.subscription.name, error = %chain(error), "the retrier waits for the database");
        }
        *failures += 1;
        Instant::now() + back_off(*failures, FIRST_DELAY, MAX_DELAY, jitter())
    }

    /// How long until a row falls due.
    async fn pause(&self) -> Duration {
        match rows::next_due(&self.store, &self.subscription.name).await {
            Ok(wait) => wait.map_or(SWEEP, |wait| Duration::from_secs_f64(wait.clamp(0.001, 3600.0))),
            Err(_away) => Duration::from_secs(1),
        }
    }

    async fn look(&self, next_sweep: &mut Instant) -> Result<Vec<Due>, StoreError> {
        self.resume().await?;
        let subscription = &self.subscription;
        if *next_sweep <= Instant::now() {
            self.sweep().await?;
            *next_sweep = Instant::now() + SWEEP;
        }
        rows::due(&self.store, &subscription.name, subscription.ordered, PAGE).await
    }

    /// Makes due what waits for nothing, or for a time that a clock of the database has set that was ahead.
    async fn sweep(&self) -> Result<(), StoreError> {
        let Subscription {
            name,
            ordered,
            retry,
            deadline,
            ..
        } = self.subscription.as_ref();
        rows::release_stranded(&self.store, name, *ordered).await?;
        let beyond = retry.longest().max(*deadline + GRACE) + GRACE;
        let bounded = rows::bound_due_times(&self.store, name, beyond).await?;
        if bounded > 0 {
            tracing::warn!(
                subscription = name,
                rows = bounded,
                "the database's clock was set back; due times are bounded by their delays"
            );
        }
        Ok(())
    }

    /// Makes due what an outage interrupted; otherwise it would wait as long as the rows of a process that died.
    async fn resume(&self) -> Result<(), StoreError> {
        let interrupted = self.interrupted().clone();
        if interrupted.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for claim in &interrupted {
            rows::give_back(&mut tx, &self.subscription.name, claim).await?;
        }
        tx.commit().await?;
        self.interrupted().drain(..interrupted.len());
        Ok(())
    }

    fn interrupted(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_lane(&self, row: Due, halt: CancellationToken) -> (Uuid, Result<Worked, StoreError>) {
        (row.id, self.work_off(row, &halt).await)
    }

    /// Tries `first`, and once it has ended the rows that wait behind it.
    async fn work_off(&self, first: Due, halt: &CancellationToken) -> Result<Worked, StoreError> {
        let subscription = self.subscription.as_ref();
        // What acts outside of the database holds no connection meanwhile.
        let _turn = match subscription.effect {
            Effect::Outside(_) => None,
            Effect::Each(_) | Effect::Batch(_) => self.store.retries().next(&self.own_turn).await.ok(),
        };
        let most = match subscription.effect {
            Effect::Outside(_) => 1,
            Effect::Each(_) | Effect::Batch(_) if !subscription.ordered => 1,
            Effect::Each(_) | Effect::Batch(_) => subscription.batch.max(1),
        };
        let lease = subscription.deadline + GRACE;
        let until = Instant::now() + GRACE;
        // Smaller after a batch that failed: the next one begins near its culprit, and others may fail, too.
        let mut part = most;
        let mut next = Some(first);
        let mut took = false;
        while let Some(row) = next {
            if halt.is_cancelled() && !took {
                return Ok(Worked::Halted);
            }
            if halt.is_cancelled() || (took && Instant::now() > until) {
                // The other keys' turn; the row is due.
                return Ok(Worked::Took);
            }
            let Some(taken) = rows::take(&self.store, &subscription.name, &row, lease, part).await? else {
                return Ok(if took { Worked::Took } else { Worked::Gone });
            };
            took = true;
            failpoint::hit("retrier.claimed").await;
            let claim = taken.claim.clone();
            let ended = match self.retry(subscription, taken, &mut part).await {
                Ok(ended) => ended,
                Err(error) => {
                    if error.is_outage() {
                        self.interrupted().push(claim);
                    }
                    return Err(error);
                }
            };
            part = part.min(most);
            next = match claim.key.filter(|_| ended && subscription.ordered) {
                Some(key) => rows::next_of_key(&self.store, &subscription.name, &key).await?,
                None => None,
            };
        }
        Ok(Worked::Took)
    }

    /// Tries what was taken, a failing batch in ever smaller parts. Returns whether its first row has ended: handled or dead.
    async fn retry(&self, subscription: &Subscription, taken: Taken, part: &mut usize) -> Result<bool, StoreError> {
        let Taken { claim, messages } = taken;
        let mut messages: Vec<Arc<Message>> = messages.into_iter().map(Arc::new).collect();
        let Some(first) = messages.first().cloned() else {
            return Ok(false);
        };
        if claim.attempts > subscription.retry.attempts.max(1) {
            let error = "the attempts are used up; the last one ended without an answer, as in a crash";
            return self.bury(subscription, &claim, &first, error).await;
        }
        if first.expired(now()) {
            return self.bury(subscription, &claim, &first, EXPIRED).await;
        }
        let mut decoded = Vec::with_capacity(messages.len());
        for message in &messages {
            match (subscription.contract.decode)(message) {
                Err(reason) if decoded.is_empty() => {
                    return self.bury(subscription, &claim, &first, &reason).await;
                }
                // It ends what is handled together, and is the first the next time.
                Ok(event) if !message.expired(now()) => decoded.push(event),
                _ => break,
            }
        }
        messages.truncate(decoded.len());
        if let Effect::Outside(act) = &subscription.effect
            && let Some(event) = decoded.pop()
        {
            let cx = Outside {
                store: self.store.clone(),
                message: first.clone(),
                attempt: claim.attempt(),
            };
            if let Err(failure) = invoke::act(subscription, act, event, &cx).await {
                return self.fail(subscription, &claim, &first, failure).await;
            }
            failpoint::hit("retrier.acted").await;
        }
        let mut whole = true;
        loop {
            let failed = match self.attempt(subscription, &claim, &messages, decoded).await? {
                Tried::Committed => {
                    if whole {
                        *part = part.saturating_mul(2);
                    }
                    return Ok(true);
                }
                Tried::Lost => return Ok(false),
                Tried::Failed(failed) => failed,
            };
            let fewer = failed.culprit.unwrap_or(messages.len() / 2);
            whole = false;
            *part = fewer.max(1);
            // The database's failures are no message's.
            if fewer == 0 || blame(&failed.failure) != Blame::Message {
                return self.fail(subscription, &claim, &first, failed.failure).await;
            }
            messages.truncate(fewer);
            decoded = messages
                .iter()
                .map_while(|message| (subscription.contract.decode)(message).ok())
                .collect();
        }
    }

    /// One transaction: marks, effects, messages, and the next row of the key.
    async fn attempt(
        &self,
        subscription: &Subscription,
        claim: &Claim,
        messages: &[Arc<Message>],
        decoded: Vec<Decoded>,
    ) -> Result<Tried, StoreError> {
        let mut tx = self.store.begin().await?;
        let behind: Vec<Uuid> = messages.iter().skip(1).map(|message| message.id.0).collect();
        match rows::mark_taken(&mut tx, &subscription.name, claim, behind).await {
            Ok(true) => {}
            Ok(false) => {
                tx.rollback().await?;
                return Ok(Tried::Lost);
            }
            Err(error @ StoreError::Collision(_)) => {
                // The connection may be gone, and the transaction with it.
                drop(tx.rollback().await);
                return Ok(Tried::Failed(error.into()));
            }
            Err(error) => return Err(error),
        }
        let items = messages.iter().cloned().zip(decoded).collect();
        match invoke::invoke(subscription, &mut tx, items, claim.attempt()).await {
            Ok(published) => match self.finish(tx, claim, published).await {
                Ok(()) => {
                    self.count("ok", messages.len() as u64);
                    Ok(Tried::Committed)
                }
                // Whether the database or what was published is at fault, the cause is to be kept.
                Err(error) => Ok(Tried::Failed(error.into())),
            },
            Err(failed) => {
                // The connection may be gone, and the transaction with it.
                drop(tx.rollback().await);
                Ok(Tried::Failed(failed))
            }
        }
    }

    async fn finish(&self, mut tx: Tx, claim: &Claim, published: Published) -> Result<(), StoreError> {
        outbox::append_all(&mut tx, &self.service, published).await?;
        self.make_next_due(&mut tx, claim).await?;
        failpoint::hit("retrier.handled").await;
        tx.commit().await?;
        failpoint::hit("retrier.committed").await;
        Ok(())
    }

    /// In the transaction that ends the first row of a key.
    async fn make_next_due(&self, tx: &mut Tx, claim: &Claim) -> Result<(), StoreError> {
        let Some(key) = claim.key.as_ref().filter(|_| self.subscription.ordered) else {
            return Ok(());
        };
        // After a batch none of its rows is suspect: the process is alive.
        let alone_until = claim.alone_until.filter(|_| claim.attempts > 0);
        rows::make_next_due(tx, &self.subscription.name, key, alone_until).await
    }

    async fn fail(
        &self,
        subscription: &Subscription,
        claim: &Claim,
        message: &Message,
        failure: Failure,
    ) -> Result<bool, StoreError> {
        let error = cause(&failure);
        let attempt = claim.attempt();
        let (attempts, next) = decide(&failure, attempt, &subscription.retry, jitter()).counted(attempt);
        let Some(after) = next else {
            return self.bury(subscription, claim, message, &error).await;
        };
        let unmended = environment(&failure);
        if unmended.is_none() {
            tracing::warn!(
                subscription = subscription.name,
                message_id = %message.id,
                correlation_id = message.correlation_id,
                attempt,
                retry_in_ms = after.as_millis() as u64,
                error,
                "the handler failed"
            );
        }
        self.count("retry", 1);
        let mut tx = self.store.begin().await?;
        let fate = Fate::Retrying {
            after,
            error: Some(&error),
        };
        inbox::settle_taken(&mut tx, &subscription.name, claim.id, claim.attempts, attempts, fate).await?;
        failpoint::hit("retrier.failing").await;
        tx.commit().await?;
        // The subscription's other messages would meet the same.
        unmended.map_or(Ok(false), Err)
    }

    async fn bury(
        &self,
        subscription: &Subscription,
        claim: &Claim,
        message: &Message,
        error: &str,
    ) -> Result<bool, StoreError> {
        self.count("dead", 1);
        let mut tx = self.store.begin().await?;
        let from = dead_letter::Origin::Taken {
            claimed: claim.attempts,
            attempts: claim.attempt(),
        };
        dead_letter::bury(&mut tx, &self.service, subscription, message, from, error).await?;
        self.make_next_due(&mut tx, claim).await?;
        failpoint::hit("retrier.burying").await;
        tx.commit().await?;
        failpoint::hit("retrier.buried").await;
        Ok(true)
    }

    fn count(&self, outcome: &'static str, by: u64) {
        let handler = self.subscription.name.clone();
        metrics::counter!(metric::ATTEMPTS, "posthaste_handler" => handler, "posthaste_outcome" => outcome)
            .increment(by);
    }
}
