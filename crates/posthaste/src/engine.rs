//! Runs one service's loops: relay, consumers, retrier, retention.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::failure::{chain, panic_text};
use crate::handle::Subscription;
use crate::hold_marks::HoldMarks;
use crate::lease::Keeper;
use crate::publish::Publisher;
use crate::relay::Relay;
use crate::retention::Retention;
use crate::retrier::Retrier;
use crate::retry::{back_off, jitter};
use crate::store::{Store, warn_of_cached};

/// Which loops a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Consumers, retries; retention.
    pub worker: bool,
    /// Outbox publishing; retention.
    pub relay: bool,
}

/// Times that a deployment may want to change.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long a lease lasts without renewal, and so how long a take-over takes after a crash.
    pub lease: Duration,
    /// How long published outbox rows are kept.
    pub keep_outbox: Duration,
    /// How long inbox marks are kept; never less than the longest possible redelivery. A message that was made longer ago
    /// and that the inbox does not know is set aside, unless [`Subscription::take_old`] says otherwise.
    pub keep_inbox: Duration,
    /// How long dead letters are kept; `None`: until somebody replays or discards them.
    pub keep_dead: Option<Duration>,
    /// How long messages are kept in `sql:` queues that no service of the database has ever read; `None`: for ever.
    pub keep_unread: Option<Duration>,
    /// How often old rows are looked for.
    pub clean_every: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            lease: Duration::from_secs(10),
            keep_outbox: 7 * day,
            keep_inbox: 15 * day,
            keep_dead: None,
            keep_unread: Some(7 * day),
            clean_every: Duration::from_secs(60),
        }
    }
}

/// What an engine runs.
pub struct EngineConfig {
    /// The service's name; part of its leases and of its outbox rows.
    pub service: String,
    /// Its database.
    pub store: Store,
    /// Its transport.
    pub broker: Broker,
    /// Its handlers.
    pub subscriptions: Vec<Subscription>,
    /// Which loops to run.
    pub roles: Roles,
    /// Times.
    pub tuning: Tuning,
}

/// The running loops of one service. Dropped without [`Engine::stop`] they end where they are, as in
/// a crash: nothing is lost, but leases have to run out.
pub struct Engine {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    keeper: Arc<Keeper>,
    scopes: Vec<String>,
    publisher: Publisher,
}

impl Engine {
    /// Starts the loops; the database and the transport may come later.
    pub fn start(config: EngineConfig) -> Self {
        let EngineConfig {
            service,
            store,
            broker,
            subscriptions,
            roles,
            tuning,
        } = config;
        broker.learn(&subscriptions);
        let keeper = shared_keeper(&store, tuning.lease);
        if matches!(broker, Broker::Sql(_)) && !subscriptions.is_empty() {
            let queues = subscriptions.iter().map(|subscription| subscription.queue.clone());
            keeper.announce(&service, queues.collect());
        }
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut scopes = Vec::new();
        let database = store.clone();
        supervise(&mut tasks, "look at the sequences", &stop, move |stop| {
            warn_of_cached(database.clone(), stop)
        });
        if roles.relay {
            scopes.push(format!("{service}/relay"));
            let (service, store, broker, keeper) = (service.clone(), store.clone(), broker.clone(), keeper.clone());
            let transport = broker.clone();
            supervise(&mut tasks, "relay", &stop, move |stop| {
                Relay::new(&service, &store, &broker, &keeper).run(stop)
            });
            let written = subscriptions.iter().flat_map(|subscription| {
                let dead = subscription.dead_letter_queue.iter();
                subscription.writes.iter().chain(dead).cloned()
            });
            let written: Vec<String> = written.collect();
            if !written.is_empty() {
                supervise(&mut tasks, "declaring", &stop, move |stop| {
                    declare(transport.clone(), written.clone(), stop)
                });
            }
        }
        // Either role: a relay may be all that runs on a database.
        if roles.worker || roles.relay {
            let database = store.clone();
            let reads: Vec<String> = match &broker {
                Broker::Sql(_) => subscriptions.iter().map(|one| one.queue.clone()).collect(),
                _ => Vec::new(),
            };
            supervise(&mut tasks, "retention", &stop, move |stop| {
                let retention = Retention {
                    store: database.clone(),
                    outbox: tuning.keep_outbox,
                    inbox: tuning.keep_inbox,
                    dead: tuning.keep_dead,
                    unread: tuning.keep_unread,
                    reads: reads.clone(),
                    every: tuning.clean_every,
                };
                retention.run(stop)
            });
        }
        if roles.worker {
            scopes.push(format!("{service}/worker"));
            let subscriptions: Vec<Arc<Subscription>> = subscriptions.into_iter().map(Arc::new).collect();
            let readers = subscriptions.iter().flat_map(|subscription| {
                let collector = broker.collector(subscription).map(Arc::new);
                let collector = collector.map(|collector| (collector, Some(subscription.queue.clone())));
                std::iter::once((subscription.clone(), None)).chain(collector)
            });
            for (subscription, collects) in readers {
                let (service, store) = (service.clone(), store.clone());
                let (broker, keeper) = (broker.clone(), keeper.clone());
                supervise(&mut tasks, "consumer", &stop, move |stop| {
                    let consumer = Consumer {
                        service: service.clone(),
                        store: store.clone(),
                        subscription: subscription.clone(),
                        collects: collects.clone(),
                        remembers: tuning.keep_inbox,
                        marks: HoldMarks::default(),
                        met_environment: Mutex::default(),
                    };
                    consumer.run(broker.clone(), keeper.clone(), stop)
                });
            }
            // Each has its own, so that a handler that hangs, or a mail server, holds up no other's retries.
            for subscription in subscriptions {
                let (service, store) = (service.clone(), store.clone());
                supervise(&mut tasks, "retrier", &stop, move |stop| {
                    Retrier::new(&service, &store, &subscription).run(stop)
                });
            }
        }
        let publisher = Publisher::new(&service, store, broker);
        Self {
            stop,
            tasks,
            keeper,
            scopes,
            publisher,
        }
    }

    /// Publishes for this service.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Stops taking work, lets the batch in hand finish within `limit`, gives the leases back. What is
    /// not finished by then is dropped as in a crash and comes again.
    pub async fn stop(mut self, limit: Duration) {
        self.stop.cancel();
        let drained = tokio::time::timeout(limit, async { while self.tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(
                ?limit,
                "work was still running at the end of the drain; it will be redelivered"
            );
            self.tasks.shutdown().await;
        }
        for scope in &self.scopes {
            let left = tokio::time::timeout(Duration::from_secs(2), self.keeper.leave(scope)).await;
            if !matches!(left, Ok(Ok(()))) {
                tracing::info!(scope, "the lease was not given back; it runs out by itself");
            }
        }
    }
}

/// Makes sure that `queues` exist, which others read; the transport may come later.
async fn declare(broker: Broker, queues: Vec<String>, stop: CancellationToken) {
    const FIRST: Duration = Duration::from_millis(200);
    const MOST: Duration = Duration::from_secs(30);
    for failures in 0.. {
        let declared = tokio::select! {
            () = stop.cancelled() => return,
            declared = broker.declare(&queues) => declared,
        };
        let Err(error) = declared else { return };
        if failures == 0 {
            tracing::warn!(?queues, error = %chain(&error), "queues that others read cannot be declared yet");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(back_off(failures, FIRST, MOST, jitter())) => {}
        }
    }
}

/// Runs a loop until `stop`. A panic in it, which only a defect of ours brings, must not end it in silence.
fn supervise<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    what: &'static str,
    stop: &CancellationToken,
    run: impl Fn(CancellationToken) -> F + Send + 'static,
) {
    const PAUSE: Duration = Duration::from_secs(1);
    let stop = stop.clone();
    tasks.spawn(async move {
        while let Err(panic) = AssertUnwindSafe(run(stop.clone())).catch_unwind().await {
            let panic = panic_text(panic.as_ref());
            tracing::error!(what, panic, "a loop panicked; it starts again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    });
}

/// One keeper per database and process: its renewal, shares and poll serve all services on it.
fn shared_keeper(store: &Store, lease: Duration) -> Arc<Keeper> {
    let mut slot = store.keeper().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(keeper) = slot.upgrade() {
        return keeper;
    }
    let keeper = Keeper::start(store.clone(), lease);
    *slot = Arc::downgrade(&keeper);
    keeper
}

/// Where a store remembers its keeper.
pub(crate) type KeeperSlot = Mutex<Weak<Keeper>>;
