//! From deliveries to effects: one transaction for a batch's marks, rows and messages, then the
//! acknowledgement. What fails is found by splitting and tried again later; what can never work is dead at once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Datelike;
use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::{Broker, BrokerError, Delivery, Receiver};
use crate::failpoint::{self, mutant};
use crate::failure::{Failure, chain};
use crate::handle::{Effect, Subscription};
use crate::hold_marks::{HoldMarks, OLD};
use crate::identity::{self, Rule, Verdict};
use crate::invoke::{Blame, Failed, blame, blame_store, invoke};
use crate::lease::Keeper;
use crate::message::{Message, MessageId, now};
use crate::outbox;
use crate::retry::{COLLISIONS, after_collision, back_off, jitter};
use crate::status::ReadingStatus;
use crate::store::identity_rows;
use crate::store::inbox_rows::{self as inbox, Fate, Written};
use crate::store::{Dialect, Store, StoreError, Tx, retry_rows};
use crate::telemetry::metric;

/// Longest pause between two batches.
const BREATH: Duration = Duration::from_millis(5);
/// From this many messages in a batch on, throughput counts for more than latency.
const BUSY: usize = 32;
const LONG_BREATH: Duration = Duration::from_millis(20);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How long the database may take to answer before more is received.
const ANSWER: Duration = Duration::from_secs(5);
/// The cause of a message that the transport has moved aside.
const UNREAD: &str = "nobody read the message in time";
/// The first year that a message can have been sent in.
const PLAUSIBLE: i32 = 2000;
/// The cause of a message whose mark may be gone.
const OLDER_THAN_INBOX: &str = "the message is older than the inbox remembers: whether it was handled before is not known; \
    replay it if not";
/// The cause of a message that came, or came to its turn, too late.
pub(crate) const EXPIRED: &str = "the message expired before it was handled";

pub(crate) struct Consumer {
    pub service: String,
    pub store: Store,
    pub subscription: Arc<Subscription>,
    /// It collects what the transport has moved aside from this queue: all of it is dead.
    pub collects: Option<String>,
    /// How long the inbox remembers what was handled.
    pub remembers: Duration,
    pub marks: HoldMarks,
    /// A handler has met a database that has to be mended first.
    pub met_environment: Mutex<Option<String>>,
}

/// Why nothing more can be done with the deliveries in hand; they are given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("the queue's partition belongs to another worker now")]
    Fenced,
}

#[derive(Clone)]
pub(crate) struct Item {
    pub tag: i64,
    pub message: Arc<Message>,
    /// What made the message's id.
    pub rule: Rule,
}

/// What the inbox says of the identities that it had.
type Verdicts = HashMap<MessageId, Verdict>;

/// How a batch's transaction ended.
enum Tried {
    Committed,
    Failed(Failed),
}

impl Consumer {
    /// Runs until `stop`; the batch in hand is finished.
    pub async fn run(self, broker: Broker, keeper: Arc<Keeper>, stop: CancellationToken) {
        let scope = format!("{}/worker", self.service);
        let name = match self.collects {
            Some(_) => format!("{} (unread)", self.subscription.name),
            None => self.subscription.name.clone(),
        };
        let reading = self.store.status().reader(&name);
        let mut receiver = broker.receiver(&self.subscription, &keeper, &scope, &reading);
        self.consume(&mut receiver, &reading, stop).await;
        receiver.close().await;
    }

    async fn consume(&self, receiver: &mut Receiver, reading: &ReadingStatus, stop: CancellationToken) {
        let (mut failures, mut outages) = (0u32, 0u32);
        loop {
            // One is enough to see whether the database is mended; the others stay where they are.
            let most = if outages == 0 { self.subscription.batch } else { 1 };
            let received = tokio::select! {
                () = stop.cancelled() => return,
                received = receiver.receive(most) => received,
            };
            let started = Instant::now();
            let mut unmended = None;
            let (emptied, result) = match received {
                Ok(deliveries) => {
                    reading.receives();
                    let count = deliveries.len();
                    let emptied = (count < self.subscription.batch).then_some(count);
                    let processed = self.process(receiver, deliveries).await;
                    unmended = self
                        .met_environment
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take();
                    match (&processed, &unmended) {
                        (Ok(()), None) => reading.handles(),
                        (Ok(()), Some(why)) => reading.cannot_handle(why.clone()),
                        (Err(stop), _) => reading.cannot_handle(chain(stop)),
                    }
                    (emptied, processed)
                }
                Err(error) => {
                    reading.cannot_receive(chain(&error));
                    (None, Err(error.into()))
                }
            };
            match result {
                Ok(()) => {
                    receiver.settled();
                    failures = 0;
                    if unmended.is_some() {
                        outages += 1;
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(back_off(outages, FIRST_DELAY, MAX_DELAY, jitter())) => {}
                        }
                        continue;
                    }
                    outages = 0;
                    if let Some(count) = emptied
                        && receiver.shares_database()
                    {
                        // As long a pause as the batch took leaves the database half of the time to whoever
                        // publishes, and makes the next batch the larger; under load three quarters of it.
                        let breath = match count {
                            ..BUSY => started.elapsed().min(BREATH),
                            BUSY.. => (3 * started.elapsed()).min(LONG_BREATH),
                        };
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(breath) => {}
                        }
                    }
                }
                Err(reason) => {
                    receiver.abandon();
                    if failures == 0 {
                        tracing::warn!(subscription = self.subscription.name, error = %chain(&reason), "deliveries are given back");
                    }
                    loop {
                        failures += 1;
                        let pause = back_off(failures, FIRST_DELAY, MAX_DELAY, jitter());
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        // A quorum queue counts what is given back, and drops what was given back too often
                        // (RabbitMQ 4: 20 times): nothing is taken that cannot be handled.
                        match inbox::try_writing(&self.store, ANSWER).await {
                            Ok(()) => break,
                            Err(error) => reading.cannot_handle(chain(&error)),
                        }
                    }
                }
            }
        }
    }

    async fn process(&self, receiver: &Receiver, deliveries: Vec<Delivery>) -> Result<(), Stop> {
        failpoint::hit("consumer.received").await;
        metrics::counter!(metric::CONSUMED).increment(deliveries.len() as u64);
        let mut good = Vec::with_capacity(deliveries.len());
        let mut alone = Vec::new();
        let mut old = Vec::new();
        let mut hold = false;
        let outside = matches!(self.subscription.effect, Effect::Outside(_));
        for delivery in deliveries {
            let suspect = delivery.redelivered;
            let item = self.identify(delivery);
            hold |= self.is_older(receiver, &item.message, OLD);
            let refused = if self.collects.is_some() {
                Err(UNREAD.to_owned())
            } else if item.message.expired(now()) {
                Err(EXPIRED.to_owned())
            } else {
                (self.subscription.contract.decode)(&item.message).map(drop)
            };
            match refused {
                Err(reason) => self.bury(receiver, &item, 0, &reason).await?,
                Ok(()) if !self.subscription.take_old && self.is_older(receiver, &item.message, self.remembers) => {
                    old.push((item, suspect || outside))
                }
                // Handed out before: it may have killed its worker.
                Ok(()) if suspect || outside => alone.push(item),
                Ok(()) => good.push(item),
            }
        }
        if hold {
            self.marks.extend(&self.store, &self.subscription.name).await?;
        }
        if !old.is_empty() {
            let messages: Vec<&Message> = old.iter().map(|(item, _)| item.message.as_ref()).collect();
            let known = inbox::known_to(&self.store, &self.subscription.name, &messages).await?;
            for (item, is_alone) in old {
                if !known.contains(&item.message.id.0) {
                    self.bury(receiver, &item, 0, OLDER_THAN_INBOX).await?;
                } else if is_alone {
                    alone.push(item);
                } else {
                    good.push(item);
                }
            }
        }
        // The retrier handles each alone, and counts the attempt first.
        if !alone.is_empty() {
            self.set_aside(receiver, &alone).await?;
        }
        let lanes = match self.store.dialect() {
            Dialect::Sqlite => 1,
            Dialect::Postgres | Dialect::Mysql => self.subscription.concurrency.max(1),
        };
        if lanes == 1 || good.len() < 2 {
            return self.handle(receiver, good).await;
        }
        let mut split: Vec<Vec<Item>> = vec![Vec::new(); lanes];
        let count = u16::try_from(lanes).unwrap_or(u16::MAX);
        for item in good {
            split[usize::from(item.message.partition(count))].push(item);
        }
        try_join_all(split.into_iter().map(|lane| self.handle(receiver, lane)))
            .await
            .map(drop)
    }

    /// Whether `message` was sent longer than `age` ago, where one that is as old may be a repeat. A row of a queue in the own
    /// database cannot come again: it is deleted together with its effect.
    fn is_older(&self, receiver: &Receiver, message: &Message, age: Duration) -> bool {
        if !self.subscription.deduplicate || receiver.shares_database() {
            return false;
        }
        let sent = message.sent_at();
        // A clock that was never set, or a number that was meant otherwise, says nothing about the message's age.
        sent.year() >= PLAUSIBLE && (now() - sent).to_std().is_ok_and(|found| found > age)
    }

    fn identify(&self, delivery: Delivery) -> Item {
        let mut message = delivery.message;
        if message.key.is_none() && self.subscription.ordered {
            // Whoever publishes by hand gives none beside the body.
            message.key = (self.subscription.contract.key)(&message.body);
        }
        message.fit_columns();
        if let Some(queue) = &self.collects {
            message.topic.clone_from(queue);
        }
        let key = || (self.subscription.contract.dedup_key)(&message.body);
        let (id, rule) = identity::identify(&delivery.given, &message, key);
        message.id = id;
        Item {
            tag: delivery.tag,
            message: Arc::new(message),
            rule,
        }
    }

    /// Handles `items` in order, splitting until each one is committed, set aside or dead.
    async fn handle(&self, receiver: &Receiver, items: Vec<Item>) -> Result<(), Stop> {
        let mut open = vec![items];
        let mut collisions = 0;
        while let Some(mut batch) = open.pop() {
            if batch.is_empty() {
                continue;
            }
            if let Some(at) = self.first_other_body(&batch) {
                // What becomes of it depends on how the first one of its identity ends.
                open.push(batch.split_off(at));
            }
            let failed = match self.attempt(receiver, &batch).await? {
                Tried::Committed => continue,
                Tried::Failed(failed) => failed,
            };
            match blame(&failed.failure) {
                // A server that gets more than it takes closes the connection. Where it is away indeed, the next step tells.
                Blame::Unavailable if batch.iter().all(|item| self.store.takes(&item.message)) => {
                    return Err(unavailable(failed.failure));
                }
                Blame::Collision if collisions < COLLISIONS => {
                    collisions += 1;
                    tokio::time::sleep(after_collision(collisions)).await;
                    open.push(batch);
                    continue;
                }
                Blame::Unavailable | Blame::Collision | Blame::Environment | Blame::Message => {}
            }
            match failed.culprit {
                _ if batch.len() == 1 => self.fail(receiver, &batch[0], failed.failure).await?,
                Some(at) => {
                    // The stack is popped from its end: first what came before the culprit.
                    open.push(batch[at + 1..].to_vec());
                    open.push(vec![batch[at].clone()]);
                    open.push(batch[..at].to_vec());
                }
                None => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    open.push(second.to_vec());
                    open.push(first.to_vec());
                }
            }
        }
        Ok(())
    }

    /// The first of `batch` whose identity another one of it has with a different body.
    fn first_other_body(&self, batch: &[Item]) -> Option<usize> {
        if !self.subscription.deduplicate {
            return None;
        }
        let mut first: HashMap<MessageId, &[u8]> = HashMap::with_capacity(batch.len());
        batch.iter().position(|item| {
            let body = item.message.body.as_slice();
            *first.entry(item.message.id).or_insert(body) != body
        })
    }

    /// One transaction: marks, effects, messages, and the acknowledgement where the transport can.
    async fn attempt(&self, receiver: &Receiver, batch: &[Item]) -> Result<Tried, Stop> {
        let subscription = &self.subscription;
        let tags: Vec<i64> = batch.iter().map(|item| item.tag).collect();
        let mut tx = self.store.begin().await?;
        let mut seen = HashSet::with_capacity(batch.len());
        let mut distinct: Vec<&Item> = batch
            .iter()
            .filter(|item| !subscription.deduplicate || seen.insert(item.message.id))
            .collect();
        let (fresh, known) = match self.mark(&mut tx, &distinct).await {
            Ok(marked) => marked,
            Err(error) => return store_failed(error),
        };
        distinct.retain(|item| fresh.contains(&item.message.id.0));
        let differing = [Verdict::Handled, Verdict::Retried];
        let differing = known.values().filter(|verdict| differing.contains(verdict)).count();
        let duplicates = (batch.len() - distinct.len()).saturating_sub(differing) as u64;
        let (ahead, waited_on) = match self.queue_behind(&mut tx, distinct).await {
            Ok(parted) => parted,
            Err(error) => return store_failed(error),
        };
        let mut items = Vec::with_capacity(ahead.len());
        let mut positions = Vec::with_capacity(ahead.len());
        for item in ahead {
            // Decoded before; a handler that failed half-way has used that value up.
            if let Ok(decoded) = (subscription.contract.decode)(&item.message) {
                positions.push(batch.iter().position(|other| other.tag == item.tag));
                items.push((item.message.clone(), decoded));
            }
        }
        let times: Vec<_> = items.iter().map(|(message, _)| message.time).collect();
        failpoint::hit("consumer.marked").await;
        let handled = times.len() as u64;
        match invoke(subscription, &mut tx, items, 1).await {
            Ok(published) => {
                if let Err(error) = outbox::append_all(&mut tx, &self.service, published).await {
                    return store_failed(error);
                }
            }
            Err(mut failed) => {
                failed.culprit = failed.culprit.and_then(|n| positions.get(n).copied().flatten());
                // The connection may be gone, and the transaction with it.
                drop(tx.rollback().await);
                return Ok(Tried::Failed(failed));
            }
        }
        failpoint::hit("consumer.handled").await;
        match receiver.settle_in(&tx, &tags).await {
            Ok(true) => {}
            Ok(false) => {
                tx.rollback().await?;
                return Err(Stop::Fenced);
            }
            Err(error) => return store_failed(error),
        }
        if mutant!(AckBeforeCommit) {
            receiver.acknowledge(&tags).await?;
        }
        failpoint::hit("consumer.committing").await;
        if let Err(error) = tx.commit().await {
            return store_failed(error);
        }
        failpoint::hit("consumer.committed").await;
        self.release(waited_on).await;
        receiver.acknowledge(&tags).await?;
        failpoint::hit("consumer.acknowledged").await;
        metrics::counter!(metric::INBOX_RECEIVED, "posthaste_verdict" => "new").increment(handled);
        metrics::counter!(metric::INBOX_RECEIVED, "posthaste_verdict" => "duplicate").increment(duplicates);
        if duplicates > 0 || !known.is_empty() {
            self.report(batch, &fresh, &known);
        }
        self.count("ok", handled);
        let committed = now();
        let latency = metrics::histogram!(metric::MESSAGE_LATENCY);
        for time in times {
            latency.record((committed - time).as_seconds_f64().max(0.0));
        }
        Ok(Tried::Committed)
    }

    /// Marks `items` as handled. Returns the ids that are to be handled now, and the verdicts on the identities that were
    /// there.
    async fn mark(&self, tx: &mut Tx, items: &[&Item]) -> Result<(HashSet<Uuid>, Verdicts), StoreError> {
        if !self.subscription.deduplicate {
            return Ok((items.iter().map(|item| item.message.id.0).collect(), Verdicts::new()));
        }
        let name = &self.subscription.name;
        let messages = || items.iter().map(|item| item.message.as_ref());
        #[cfg(feature = "explore")]
        if mutant!(MarkOutsideTransaction) {
            let fresh = inbox::mark(tx, name, messages()).await?;
            tx.commit_and_go_on().await?;
            failpoint::hit("consumer.marked").await;
            return Ok((fresh, Verdicts::new()));
        }
        let mut fresh = inbox::mark(tx, name, messages()).await?;
        if fresh.len() == items.len() {
            return Ok((fresh, Verdicts::new()));
        }
        let repeated: Vec<&Message> = messages().filter(|message| !fresh.contains(&message.id.0)).collect();
        let verdicts = identity_rows::admit(tx, name, &repeated).await?;
        let are = |verdict: Verdict| {
            let all = repeated.iter().copied();
            all.filter(|message| verdicts.get(&message.id) == Some(&verdict))
                .collect::<Vec<_>>()
        };
        for message in are(Verdict::Retried) {
            if let Some(aside) = inbox::keep_aside(tx, name, message).await? {
                self.follow(tx, Written::Aside(Box::new(aside))).await?;
            }
        }
        let corrections = are(Verdict::Dead).into_iter();
        fresh.extend(inbox::mark(tx, name, corrections).await?);
        Ok((fresh, verdicts))
    }

    /// Says of the committed `batch` what was a repeat, and what only seemed to be one.
    fn report(&self, batch: &[Item], fresh: &HashSet<Uuid>, known: &Verdicts) {
        let name = &self.subscription.name;
        let mut seen = HashSet::with_capacity(batch.len());
        for item in batch {
            let id = item.message.id;
            let again = !seen.insert(id);
            match known.get(&id).copied() {
                Some(verdict) if verdict != Verdict::Repeat && !again => {
                    identity::report(name, &item.message, Some(item.rule), verdict);
                }
                _ if again || !fresh.contains(&id.0) => identity::report_repeat(name, &item.message, item.rule),
                _ => {}
            }
        }
    }

    /// Sets those of `fresh` aside that have to wait behind another message of their key; returns the others, and the keys
    /// that are waited on.
    ///
    /// It looks after the marks are written, not before: they wait for a worker that had the partition before and is
    /// still at work on it, and that one may have set an earlier message of the key aside.
    async fn queue_behind<'i>(
        &self,
        tx: &mut Tx,
        fresh: Vec<&'i Item>,
    ) -> Result<(Vec<&'i Item>, HashSet<String>), StoreError> {
        if !self.subscription.ordered {
            return Ok((fresh, HashSet::new()));
        }
        let name = &self.subscription.name;
        let keys: HashSet<String> = fresh.iter().filter_map(|item| item.message.key.clone()).collect();
        let blocked = inbox::blocked_keys(tx, name, &keys).await?;
        let (behind, ahead): (Vec<_>, Vec<_>) = fresh
            .into_iter()
            .partition(|item| item.message.key.as_ref().is_some_and(|key| blocked.contains(key)));
        if behind.is_empty() {
            return Ok((ahead, blocked));
        }
        inbox::unmark(tx, name, behind.iter().map(|item| item.message.id)).await?;
        for item in behind {
            let fate = Fate::Waiting { suspect: false };
            let written = inbox::settle_new(tx, name, &item.message, 0, fate).await?;
            self.follow(tx, written).await?;
        }
        failpoint::hit("consumer.queued_behind").await;
        Ok((ahead, blocked))
    }

    /// Looks after a commit that put messages behind others of `keys` whether these have ended meanwhile.
    pub(crate) async fn release(&self, keys: HashSet<String>) {
        // The retrier's sweep does the same.
        if let Err(error) = retry_rows::release(&self.store, &self.subscription.name, keys).await {
            tracing::debug!(subscription = self.subscription.name, error = %chain(&error), "waiting messages were not looked at");
        }
    }

    pub(crate) fn count(&self, outcome: &'static str, by: u64) {
        let handler = self.subscription.name.clone();
        metrics::counter!(metric::ATTEMPTS, "posthaste_handler" => handler, "posthaste_outcome" => outcome)
            .increment(by);
    }
}

/// The database's own failure in a batch: given back if it is away, else the batch's.
fn store_failed(error: StoreError) -> Result<Tried, Stop> {
    match blame_store(&error) {
        Blame::Unavailable | Blame::Environment => Err(error.into()),
        Blame::Collision | Blame::Message => Ok(Tried::Failed(error.into())),
    }
}

fn unavailable(failure: Failure) -> Stop {
    match failure {
        Failure::Retry(error) => match error.downcast::<StoreError>() {
            Ok(error) => Stop::Store(*error),
            Err(other) => Stop::Store(StoreError::Unavailable(sea_orm::DbErr::Custom(chain(other.as_ref())))),
        },
        Failure::Reject(_) | Failure::Later(_) => Stop::Fenced,
    }
}
