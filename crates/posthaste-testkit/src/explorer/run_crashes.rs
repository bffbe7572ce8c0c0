//! Runs with one client at a time: it dies or meets a fault, and its successor works off what is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use posthaste::broker::memory::MemoryBroker;
use posthaste::{Broker, Engine, EngineConfig, Publisher, Roles, Store, Tuning};

use super::check_invariants::{self, Reader, Rows};
use super::probe_points::{Probe, Target, install_crash};
use super::wait_quiet::{let_time_pass, quiet};
use super::{Bench, Client, Finished, Plan, Run, Scenario, Setup, Transport, on_runtime, open};

/// Short, so that the poll that finds what no signal announced comes soon.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// How long closing a file may take.
const CLOSE: Duration = Duration::from_secs(30);
/// How long a broker is away when nothing waits in the outbox that could be refused.
const IDLE_OUTAGE: Duration = Duration::from_secs(2);

/// Makes the undisturbed run and counts its failpoints.
pub(crate) fn count(bench: &Bench<impl Scenario>) -> Result<(Finished, BTreeMap<&'static str, u32>)> {
    explore(bench, &Plan::Undisturbed)
}

/// Makes the run `plan`.
pub(crate) fn run(bench: &Bench<impl Scenario>, plan: &Plan, undisturbed: &Rows) -> Result<Run> {
    let (Finished { mut run, rows, .. }, _) = explore(bench, plan)?;
    run.violations
        .extend(check_invariants::compare_rows(&rows, undisturbed));
    Ok(run)
}

fn explore(bench: &Bench<impl Scenario>, plan: &Plan) -> Result<(Finished, BTreeMap<&'static str, u32>)> {
    let setup = &bench.setup;
    let file = bench.fresh()?;
    let broker = (setup.transport == Transport::Memory).then(MemoryBroker::default);
    on_runtime(feed(setup, &file, broker.as_ref())).context("the scenario's feed failed")?;
    let probe = Arc::new(Probe::default());
    let mut violations = Vec::new();
    let happened = match plan {
        Plan::Crash { point, nth } => crash(setup, &file, broker.as_ref(), (point, *nth))?,
        Plan::CrashTwice { point } => {
            crash(setup, &file, broker.as_ref(), (point, 1))?;
            crash(setup, &file, broker.as_ref(), (point, 1))?
        }
        plan => {
            let _installed = install_crash(&probe, None, setup.mutant);
            on_runtime(disturb(setup, &file, broker.as_ref(), plan, &probe, &mut violations))?
        }
    };
    let hits = probe.hits();
    let _installed = install_crash(&Arc::default(), None, setup.mutant);
    let (rows, ordered) = on_runtime(finish(setup, &file, broker.as_ref(), &mut violations))?;
    let run = Run {
        plan: plan.clone(),
        happened,
        violations,
    };
    Ok((Finished { run, rows, ordered }, hits))
}

/// The messages and rows that a run starts with.
pub(crate) async fn feed(setup: &Setup<impl Scenario>, file: &Path, broker: Option<&MemoryBroker>) -> Result<()> {
    let store = open(file)?;
    let client = client(setup, &store, broker)?;
    tokio::time::timeout(setup.limit, setup.scenario.feed(client)).await??;
    close(&store).await
}

/// A client that dies at `target`; `false` when it was done before.
fn crash(setup: &Setup<impl Scenario>, file: &Path, broker: Option<&MemoryBroker>, target: Target) -> Result<bool> {
    let probe = Arc::new(Probe::default());
    let _installed = install_crash(&probe, Some(target), setup.mutant);
    on_runtime(async {
        let running = Running::start(setup, file, broker, Role::Full).await?;
        tokio::select! {
            biased;
            // The return drops the runtime: tasks, connections and open transactions end where they are.
            () = probe.reached() => return Ok(true),
            // What is left is worked off and judged after the restart.
            _judged_later = running.quiet(setup.limit) => {}
        }
        running.stop().await?;
        Ok(false)
    })
}

/// A client that lives, under the fault of `plan`; `false` when the fault found nothing to act on.
async fn disturb(
    setup: &Setup<impl Scenario>,
    file: &Path,
    broker: Option<&MemoryBroker>,
    plan: &Plan,
    probe: &Probe,
    violations: &mut Vec<String>,
) -> Result<bool> {
    let mut happened = true;
    let oldest = oldest(file).await?;
    let try_limit = if oldest.is_some() { setup.limit } else { IDLE_OUTAGE };
    match (plan, broker) {
        (Plan::Swap, _) => {
            let relay = Running::start(setup, file, broker, Role::RelayOnly).await?;
            relay
                .carried(setup.limit)
                .await
                .unwrap_or_else(|error| violations.push(error.to_string()));
            happened = relay.double_waiting().await?;
            relay.stop().await?;
        }
        (Plan::Outage, Some(broker)) => broker.set_down(true),
        (Plan::Refuse, Some(broker)) => broker.refuse(oldest),
        _ => {}
    }
    let running = Running::start(setup, file, broker, Role::Full).await?;
    if let (Plan::Outage | Plan::Refuse, Some(broker)) = (plan, broker) {
        let tried = tokio::time::timeout(try_limit, probe.passed("relay.published")).await;
        happened = tried.is_ok();
        broker.set_down(false);
        broker.refuse(None);
    }
    let mut done = running.quiet(setup.limit).await;
    if *plan == Plan::Repeat && done.is_ok() {
        happened = running.repeat_all().await?;
        done = running.quiet(setup.limit).await;
    }
    if let Err(error) = done {
        violations.push(error.to_string());
    }
    running.stop().await?;
    Ok(happened)
}

/// The successor: works off what is left, then everything is checked.
async fn finish(
    setup: &Setup<impl Scenario>,
    file: &Path,
    broker: Option<&MemoryBroker>,
    violations: &mut Vec<String>,
) -> Result<(Rows, bool)> {
    let running = Running::start(setup, file, broker, Role::Full).await?;
    if let Err(error) = running.quiet(setup.limit).await {
        violations.push(error.to_string());
    }
    let ordered = running.readers.iter().any(|reader| reader.ordered);
    Ok((running.judge_and_stop(setup, violations).await?, ordered))
}

/// The id of the oldest message that waits in the outbox to be sent now, one with a key if there is one: what comes
/// after it in its key must wait for it.
async fn oldest(file: &Path) -> Result<Option<String>> {
    let store = open(file)?;
    let sql = "SELECT event_id FROM outbox_messages WHERE status = 'pending' \
        AND (due_at IS NULL OR due_at <= {now}) ORDER BY message_key IS NULL, seq LIMIT 1";
    let rows = store.query(sql, vec![]).await?;
    let id = rows.first().map(|row| row.uuid("event_id")).transpose()?;
    close(&store).await?;
    Ok(id.map(|id| id.to_string()))
}

fn client(setup: &Setup<impl Scenario>, store: &Store, broker: Option<&MemoryBroker>) -> Result<Client> {
    let broker = match broker {
        Some(broker) => Broker::Memory(broker.clone()),
        None => Broker::open("sql:", store)?,
    };
    Ok(Client {
        store: store.clone(),
        publisher: Publisher::new(&setup.service, store.clone(), broker),
    })
}

async fn close(store: &Store) -> Result<()> {
    tokio::time::timeout(CLOSE, store.close())
        .await
        .context("the file was not closed; something keeps a transaction open")
}

/// Which loops a client runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Full,
    RelayOnly,
}

/// A client at work.
pub(crate) struct Running {
    /// Its file.
    pub store: Store,
    broker: Option<MemoryBroker>,
    transport: Broker,
    engine: Engine,
    readers: Vec<Reader>,
}

impl Running {
    /// Starts a client on `file`, long after any client before it has died or frozen.
    pub async fn start(
        setup: &Setup<impl Scenario>,
        file: &Path,
        broker: Option<&MemoryBroker>,
        role: Role,
    ) -> Result<Self> {
        let store = open(file)?;
        let_time_pass(&store).await?;
        let client = client(setup, &store, broker)?;
        let mut subscriptions = setup.scenario.subscriptions(&client);
        for subscription in &mut subscriptions {
            let retry = &mut subscription.retry;
            retry.first_delay = retry.first_delay.min(Duration::from_millis(5));
            retry.max_delay = retry.max_delay.min(Duration::from_millis(20));
        }
        let readers = subscriptions.iter().map(Reader::of).collect();
        let transport = client.publisher.broker().clone();
        let engine = Engine::start(EngineConfig {
            service: setup.service.clone(),
            store: store.clone(),
            broker: transport.clone(),
            subscriptions,
            roles: Roles {
                worker: role == Role::Full,
                relay: true,
            },
            tuning: Tuning {
                lease: LEASE,
                ..Tuning::default()
            },
        });
        Ok(Self {
            store,
            broker: broker.cloned(),
            transport,
            engine,
            readers,
        })
    }

    fn queues(&self) -> Vec<String> {
        self.readers.iter().map(|reader| reader.queue.clone()).collect()
    }

    /// Waits until nothing is left.
    pub async fn quiet(&self, limit: Duration) -> Result<()> {
        quiet(&self.store, self.broker.as_ref(), &self.queues(), true, limit).await
    }

    /// Waits until nothing is left but what another process has in hand.
    pub async fn quiet_beside(&self, limit: Duration) -> Result<()> {
        quiet(&self.store, self.broker.as_ref(), &self.queues(), false, limit).await
    }

    /// Waits until the outbox is carried over.
    async fn carried(&self, limit: Duration) -> Result<()> {
        quiet(&self.store, None, &[], false, limit).await
    }

    /// Doubles what waits in the queues; `false` when nothing did. Neighbours are swapped where no
    /// subscription asks for order: a transport that swaps cannot keep it.
    async fn double_waiting(&self) -> Result<bool> {
        let Some(broker) = &self.broker else {
            let sql = "INSERT INTO queue_messages (topic, partition_no, message_id, event_type, message_key, headers, body) \
                SELECT topic, partition_no, message_id, event_type, message_key, headers, body FROM queue_messages ORDER BY seq";
            return Ok(self.store.execute(sql, vec![]).await? > 0);
        };
        let waiting = broker.published();
        let mut queues = self.queues();
        queues.sort();
        queues.dedup();
        for queue in &queues {
            if self
                .readers
                .iter()
                .any(|reader| reader.queue == *queue && reader.ordered)
            {
                let again = waiting.iter().filter(|message| message.topic == *queue).cloned();
                self.publish(again.collect()).await?;
            } else {
                broker.duplicate_and_swap(queue);
            }
        }
        Ok(!waiting.is_empty())
    }

    /// Puts everything that was ever on the wire there once more; `false` when nothing was.
    async fn repeat_all(&self) -> Result<bool> {
        if let Some(broker) = &self.broker {
            let again = broker.published();
            let some = !again.is_empty();
            self.publish(again).await?;
            return Ok(some);
        }
        let sql = "INSERT INTO queue_messages (topic, partition_no, message_id, event_type, message_key, headers, body) \
            SELECT topic, partition_no, event_id, event_type, message_key, headers, body FROM outbox_messages \
            WHERE status = 'published' ORDER BY seq";
        Ok(self.store.execute(sql, vec![]).await? > 0)
    }

    async fn publish(&self, messages: Vec<posthaste::Message>) -> Result<()> {
        for result in self.transport.publish(messages).await {
            result?;
        }
        Ok(())
    }

    /// Checks everything that has to be true when nothing is left to do.
    pub async fn judge_and_stop(self, setup: &Setup<impl Scenario>, violations: &mut Vec<String>) -> Result<Rows> {
        let store = self.store.clone();
        let found = check_invariants::check(&store, self.broker.as_ref(), &self.readers).await?;
        violations.extend(found);
        match tokio::time::timeout(setup.limit, setup.scenario.check(store.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(violation)) => violations.push(format!("{violation:#}")),
            Err(_elapsed) => violations.push(format!("the check did not end within {:?}", setup.limit)),
        }
        let rows = check_invariants::count_rows(&store).await?;
        self.stop().await?;
        Ok(rows)
    }

    /// Stops as a process does that was asked to.
    pub async fn stop(self) -> Result<()> {
        self.engine.stop(CLOSE).await;
        close(&self.store).await
    }
}
