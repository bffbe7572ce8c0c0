//! Crashes a scenario at every step that posthaste takes and looks at what is left.
//!
//! The scenario is yours: handlers, migrations, what is fed in, what has to be true at the end. It runs
//! once undisturbed on a SQLite file while the failpoints it passes are counted. Then it runs again for
//! each failpoint: there the whole runtime is dropped, a new one opens the same file and the same
//! broker, and works off what is left. Further runs take the broker away, refuse a message, deliver
//! everything again, swap neighbours, and freeze a process while another one takes over.
//!
//! After each run these must hold: nothing is pending, parked or queued; each message on the wire is in
//! the inbox as processed or dead; the order per key is kept on the wire and by ordered subscriptions;
//! each of your tables has as many rows as after the undisturbed run; and what you check yourself.
//!
//! ```no_run
//! # use anyhow::{Result, ensure};
//! # use posthaste::{Cx, Event, Handle, Handled, Message, Store, Subscription, outbox, store::Migration};
//! # use posthaste_testkit::explorer::{Client, Explorer, Scenario};
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct OrderPlaced { order_id: String }
//! # impl Event for OrderPlaced { const TYPE: &'static str = "order.placed"; const TOPIC: &'static str = "orders"; }
//! # struct Ship;
//! # impl Handle<OrderPlaced> for Ship {
//! #     async fn handle(&self, _: OrderPlaced, _: &mut Cx<'_>) -> Handled { Ok(()) }
//! # }
//! # const MIGRATIONS: &[Migration] = &[];
//! # fn main() -> Result<()> {
//! struct Shop;
//! impl Scenario for Shop {
//!     fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
//!         vec![Subscription::new::<OrderPlaced, _>("ship", "orders", Ship)]
//!     }
//!     async fn feed(&self, client: Client) -> Result<()> {
//!         let mut tx = client.store.begin().await?;
//!         for n in 0..10 {
//!             let order = OrderPlaced { order_id: format!("order-{n}") };
//!             outbox::append(&mut tx, "shop", Message::of(&order)?).await?;
//!         }
//!         Ok(tx.commit().await?)
//!     }
//!     async fn check(&self, store: Store) -> Result<()> {
//!         let twice = "SELECT order_id FROM shipments GROUP BY order_id HAVING COUNT(*) <> 1";
//!         ensure!(store.query(twice, vec![]).await?.is_empty(), "an order was shipped twice");
//!         Ok(())
//!     }
//! }
//! let report = Explorer::new("shop", Shop).migrations("shop", MIGRATIONS).run()?;
//! report.assert_clean();
//! # Ok(())
//! # }
//! ```

mod check_invariants;
mod plan_runs;
mod probe_points;
mod report_runs;
mod run_crashes;
mod run_pause;
mod wait_quiet;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use posthaste::failpoint::Mutant;
use posthaste::store::Migration;
use posthaste::{CORE_MIGRATIONS, Publisher, Store, StoreOptions, Subscription};
use tempfile::TempDir;

pub use plan_runs::Plan;
pub use report_runs::{Report, Run};

use self::check_invariants::Rows;

/// What a scenario's closures work with: the client's handles on its database and its transport.
#[derive(Clone)]
pub struct Client {
    /// The SQLite file of this run.
    pub store: Store,
    /// Publishes directly, past the outbox; knows the transport.
    pub publisher: Publisher,
}

/// The transport that a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A broker that outlives the client and redelivers what was not acknowledged.
    Memory,
    /// Queues in the same SQLite file.
    Sql,
}

/// What is explored: handlers, what they are fed with, what has to be true at the end.
pub trait Scenario: Sync {
    /// The handlers, made anew for each client that starts. Their retries are shortened to
    /// milliseconds; everything else stays as it is.
    fn subscriptions(&self, client: &Client) -> Vec<Subscription>;

    /// Appends and publishes what is to be handled. It runs undisturbed before the client starts, once
    /// per run.
    fn feed(&self, client: Client) -> impl Future<Output = Result<()>>;

    /// Looks at the end of each run at what the handlers did; an error is a violation and says which.
    fn check(&self, store: Store) -> impl Future<Output = Result<()>>;
}

/// One scenario and how far to explore it.
pub struct Explorer<S> {
    setup: Setup<S>,
    max_runs: usize,
    threads: usize,
    stop_at_first: bool,
}

pub(crate) struct Setup<S> {
    scenario: S,
    service: String,
    transport: Transport,
    migrations: Vec<(String, Vec<Migration>)>,
    limit: Duration,
    mutant: Option<Mutant>,
}

impl<S: Scenario> Explorer<S> {
    /// Explores `scenario` as the service called `service`.
    pub fn new(service: &str, scenario: S) -> Self {
        Self {
            setup: Setup {
                scenario,
                service: service.to_owned(),
                transport: Transport::Memory,
                migrations: vec![("core".to_owned(), CORE_MIGRATIONS.to_vec())],
                limit: LIMIT,
                mutant: None,
            },
            max_runs: 120,
            threads: 4,
            stop_at_first: false,
        }
    }

    /// Adds the migrations of `set`; the core's are there already.
    #[must_use]
    pub fn migrations(mut self, set: &str, migrations: &[Migration]) -> Self {
        self.setup.migrations.push((set.to_owned(), migrations.to_vec()));
        self
    }

    /// The transport; [`Transport::Memory`] unless said otherwise.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.setup.transport = transport;
        self
    }

    /// Most runs; every failpoint gets its first and last hit before any gets a third. 120 unless said
    /// otherwise.
    #[must_use]
    pub fn max_runs(mut self, runs: usize) -> Self {
        self.max_runs = runs;
        self
    }

    /// How long a client may take to work everything off; 60 s unless said otherwise. The undisturbed run has 60 s at
    /// least.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.setup.limit = limit;
        self
    }

    /// Runs with a deliberate defect and ends at the first run that shows it.
    #[must_use]
    pub fn mutant(mut self, mutant: Mutant) -> Self {
        self.setup.mutant = Some(mutant);
        self.stop_at_first = true;
        self
    }

    /// Explores. Blocks: it starts threads and runtimes of its own.
    ///
    /// # Errors
    /// When the scenario itself cannot run: its migrations, its feed, the file system. Violated
    /// invariants are in the report.
    pub fn run(self) -> Result<Report> {
        let folder = tempfile::tempdir().context("no directory for the explorer's files")?;
        let mut bench = Bench::prepare(self.setup, &folder)?;
        // A short limit is for runs that a defect keeps from an end; that this one has none is beyond doubt.
        let limit = bench.setup.limit;
        bench.setup.limit = limit.max(LIMIT);
        let (first, hits) = std::thread::scope(|scope| join(scope.spawn(|| run_crashes::count(&bench))))?;
        bench.setup.limit = limit;
        let mut report = Report::new(hits);
        let broken = !first.run.violations.is_empty();
        report.push(first.run);
        if broken {
            return Ok(report);
        }
        // A lease gives each partition of a queue in the database to one process; the broker in memory
        // hands a queue to whoever asks.
        let transport = bench.setup.transport;
        let shared = transport == Transport::Sql || !first.ordered;
        let plans = plan_runs::all(&report.hits, transport, shared, self.max_runs);
        let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let runs = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let run = match plan {
                        Plan::Freeze { point } => run_pause::run(&bench, point, &first.rows)?,
                        plan => run_crashes::run(&bench, plan, &first.rows)?,
                    };
                    if self.stop_at_first && !run.violations.is_empty() {
                        done.store(true, Ordering::SeqCst);
                    }
                    lock(&runs).push(run);
                }
                Ok(())
            };
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(join)
        })?;
        for run in lock(&runs).drain(..) {
            report.push(run);
        }
        Ok(report)
    }
}

/// A scenario with its migrated file, to be copied for each run.
pub(crate) struct Bench<S> {
    setup: Setup<S>,
    folder: PathBuf,
    number: AtomicUsize,
}

/// A run and what the tables held after it.
pub(crate) struct Finished {
    pub run: Run,
    pub rows: Rows,
    /// Whether a subscription asks for order.
    pub ordered: bool,
}

impl<S: Scenario> Bench<S> {
    fn prepare(setup: Setup<S>, folder: &TempDir) -> Result<Self> {
        let folder = folder.path().to_owned();
        let template = folder.join(TEMPLATE);
        let migrate = async {
            let store = open(&template)?;
            for (set, migrations) in &setup.migrations {
                store.migrate_up(set, migrations).await?;
            }
            store.close().await;
            Ok(())
        };
        std::thread::scope(|scope| join(scope.spawn(|| on_runtime(migrate))))?;
        Ok(Self {
            setup,
            folder,
            number: AtomicUsize::new(0),
        })
    }

    /// A fresh copy of the migrated file.
    fn fresh(&self) -> Result<PathBuf> {
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        let file = self.folder.join(format!("run-{number}.db"));
        std::fs::copy(self.folder.join(TEMPLATE), &file).context("the migrated file cannot be copied")?;
        Ok(file)
    }
}

/// Long, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

const TEMPLATE: &str = "migrated.db";

fn open(file: &Path) -> Result<Store> {
    Ok(Store::open(
        &format!("sqlite:{}", file.display()),
        StoreOptions::default(),
    )?)
}

/// Runs `work` on a runtime of its own and drops that runtime with everything that still runs on it.
fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(_panic) => Err(anyhow!("a thread of the explorer panicked")),
    }
}

/// A panic elsewhere does not make what is behind `mutex` wrong.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
