//! A run with two processes: one freezes, the other takes over, then the first one goes on.

use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use anyhow::{Context, Result, anyhow};
use posthaste::broker::memory::MemoryBroker;
use posthaste::{Message, Store};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::check_invariants::{self, Rows};
use super::plan_runs::relays_only;
use super::probe_points::{Probe, install_crash, install_with};
use super::run_crashes::{LEASE, Role, Running, feed};
use super::{Bench, Plan, Run, Scenario, Setup, Transport, join, lock, on_runtime};

/// Makes the run in which a process freezes at the first hit of `point`.
pub(crate) fn run(bench: &Bench<impl Scenario>, point: &'static str, undisturbed: &Rows) -> Result<Run> {
    let setup = &bench.setup;
    let file = bench.fresh()?;
    let broker = (setup.transport == Transport::Memory).then(MemoryBroker::default);
    on_runtime(feed(setup, &file, broker.as_ref())).context("the scenario's feed failed")?;
    let mut violations = Vec::new();
    let probe = Arc::new(Probe::default());
    // The frozen thread waits for `go_on`; a sender that is dropped wakes it as well.
    let (go_on, frozen) = mpsc::channel::<()>();
    let (end, ended) = oneshot::channel::<()>();
    let (left, gone) = oneshot::channel::<()>();
    let (happened, rows) = std::thread::scope(|scope| {
        let (first_probe, first_broker, path) = (probe.clone(), broker.clone(), file.clone());
        let first = scope.spawn(move || {
            // Dropped when the thread ends, however it ends.
            let _left = left;
            freeze(setup, &path, first_broker, point, &first_probe, frozen, ended)
        });
        let _installed = install_crash(&Arc::default(), None, setup.mutant);
        let work = take_over(
            setup,
            &file,
            broker.as_ref(),
            &probe,
            (go_on, end, gone),
            &mut violations,
        );
        let answer = on_runtime(work);
        join(first)?;
        answer
    })?;
    violations.extend(check_invariants::compare_rows(&rows, undisturbed));
    Ok(Run {
        plan: Plan::Freeze { point },
        happened,
        violations,
    })
}

/// The first process. Its whole thread stops at `point`: lease renewal and all.
fn freeze(
    setup: &Setup<impl Scenario>,
    file: &Path,
    broker: Option<MemoryBroker>,
    point: &'static str,
    probe: &Arc<Probe>,
    frozen: mpsc::Receiver<()>,
    ended: oneshot::Receiver<()>,
) -> Result<()> {
    let frozen = Arc::new(Mutex::new(frozen));
    let store = Arc::new(OnceLock::<Store>::new());
    let (told, own) = (probe.clone(), store.clone());
    let stop_here = move || -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (frozen, own, told) = (frozen.clone(), own.clone(), told.clone());
        Box::pin(async move {
            // No other task of this process may stop inside a transaction: it would hold SQLite's only
            // write lock. A store has one writing connection; it is handed back only when this thread
            // goes on.
            if let Some(store) = own.get()
                && let Ok(tx) = store.begin().await
            {
                drop(tx.rollback().await);
            }
            told.reach();
            // A message or its sender's end: either way this process goes on.
            let (Ok(()) | Err(mpsc::RecvError)) = lock(&frozen).recv();
        })
    };
    let _installed = install_with(probe, Some((point, 1)), setup.mutant, stop_here);
    on_runtime(async {
        let role = if relays_only(point) {
            Role::RelayOnly
        } else {
            Role::Full
        };
        let running = Running::start(setup, file, broker.as_ref(), role).await?;
        // Before any of its tasks has run.
        drop(store.set(running.store.clone()));
        // A sender that is gone ends this process as well.
        drop(ended.await);
        running.stop().await
    })
}

/// The second process and the end of both.
async fn take_over(
    setup: &Setup<impl Scenario>,
    file: &Path,
    broker: Option<&MemoryBroker>,
    probe: &Probe,
    (go_on, end, gone): (mpsc::Sender<()>, oneshot::Sender<()>, oneshot::Receiver<()>),
    violations: &mut Vec<String>,
) -> Result<(bool, Rows)> {
    let happened = tokio::time::timeout(setup.limit, probe.reached()).await.is_ok();
    let frozen = Instant::now();
    // Another task of the frozen process: between its last check and the publish a relay cannot be stopped.
    let hits = probe.hits();
    let count = |point| hits.get(point).copied().unwrap_or(0);
    let is_publishing = count("relay.publishing") > count("relay.published");
    let second = Running::start(setup, file, broker, Role::Full).await?;
    if let Err(error) = second.quiet_beside(setup.limit).await {
        violations.push(format!("taking over: {error}"));
    }
    let before = broker.map(MemoryBroker::published).unwrap_or_default();
    // For the database time was made to pass; the frozen process goes by its own clock as well.
    tokio::time::sleep_until(frozen + LEASE).await;
    drop(go_on);
    if let Err(error) = second.quiet(setup.limit).await {
        violations.push(format!("after the first process went on: {error}"));
    }
    // The first process finishes what it has in hand; only then is it known what it does.
    end.send(())
        .map_err(|()| anyhow!("the first process ended by itself"))?;
    drop(gone.await);
    if let Err(error) = second.quiet(setup.limit).await {
        violations.push(format!("after the first process ended: {error}"));
    }
    if !is_publishing {
        violations.extend(again(&before, broker));
    }
    let rows = second.judge_and_stop(setup, violations).await?;
    Ok((happened, rows))
}

/// What was published after another process had published and marked it.
fn again(before: &[Message], broker: Option<&MemoryBroker>) -> Vec<String> {
    let marked: HashSet<_> = before.iter().map(|message| message.id).collect();
    let after = broker.map(MemoryBroker::published).unwrap_or_default();
    let repeats = after
        .iter()
        .skip(before.len())
        .filter(|message| marked.contains(&message.id));
    repeats
        .map(|message| format!("{} was published again after another process had marked it", message.id))
        .collect()
}
