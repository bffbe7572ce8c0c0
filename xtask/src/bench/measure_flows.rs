//! The run, and its rows A2 (accept), C3 (backlog), E2E (request to visible row), S1 (start) and S2 (memory), on SQLite and PostgreSQL.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use uuid::Uuid;

use super::drive_python::Python;
use super::measure_growth::{self, Sizes};
use super::measure_handlers::Handled;
use super::measure_idle::Idle;
use super::measure_kafka::Drained;
use super::measure_latency::Latency;
use super::measure_path::Whole;
use super::measure_relay::Relayed;
use super::measure_sends::Sends;
use super::print_figures::{Figures, bound, head, rate};
use super::read_rows::Raw;
use super::{check_ids, describe_machine, measure_rabbitmq, send_load};
use crate::run_binary::Running;

/// Requests under way at once.
pub const CONNECTIONS: usize = 32;

#[derive(Default)]
struct Samples {
    echo: Vec<f64>,
    accept: Vec<f64>,
    insert: Vec<f64>,
    drain: Vec<f64>,
    whole: Vec<f64>,
    first_start: Vec<f64>,
    start: Vec<f64>,
    bare_start: Vec<f64>,
    idle: Vec<f64>,
    loaded: Vec<f64>,
}

/// Measures with `binary` and prints the rows that `only` names, all if it is empty.
pub async fn measure(binary: &Path, quick: bool, only: &[String]) -> Result<()> {
    let (repetitions, requests) = if quick { (1, 5_000) } else { (3, 20_000) };
    let span = Duration::from_secs(if quick { 10 } else { 30 });
    let wanted = |id: &str| only.is_empty() || only.iter().any(|one| one.eq_ignore_ascii_case(id));
    describe_machine::describe(binary, &body(Uuid::now_v7())).await?;
    head();
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    for name in ["SQLite", "PostgreSQL"] {
        let (mut samples, mut latency, mut idle) = <(Samples, Latency, Idle)>::default();
        for _ in 0..repetitions {
            if ["A2", "C3", "E2E", "S1", "S2"].into_iter().any(wanted) {
                repeat(binary, folder, name, requests, &mut samples).await?;
            }
            if !wanted("L1") && !wanted("G3") {
                continue;
            }
            let database = create(name).await?;
            let first = Running::start(binary, &["serve", "--migrate"], database.url(), folder).await?;
            first.stop().await?;
            let mut raw = Raw::open(database.url()).await?;
            if wanted("L1") {
                latency.repeat(binary, folder, &database, None, &mut raw, span).await?;
            }
            if wanted("G3") {
                idle.repeat(binary, folder, &database, &mut raw, span).await?;
            }
            drop(raw);
            database.finish().await?;
        }
        print(name, samples, wanted);
        if wanted("L1") {
            latency.print(name);
        }
        if wanted("G3") {
            idle.print(name);
        }
    }
    if wanted("A3") {
        let mut sends = Sends::default();
        for _ in 0..repetitions {
            sends.repeat(binary, folder, requests).await?;
        }
        sends.print();
    }
    let backlog = if quick { 10_000 } else { 50_000 };
    if wanted("L1") {
        let mut latency = Latency::default();
        for _ in 0..repetitions {
            let broker = PrivateRabbitmq::launch(measure_rabbitmq::FIRST_PORT).await?;
            let (url, database) = (broker.url(), TestDatabase::postgres().await?);
            let first =
                Running::start_over(binary, &["serve", "--migrate"], database.url(), Some(&url), folder).await?;
            first.stop().await?;
            let mut raw = Raw::open(database.url()).await?;
            latency
                .repeat(binary, folder, &database, Some(&url), &mut raw, span)
                .await?;
            drop(raw);
            database.finish().await?;
        }
        latency.print("RabbitMQ, PostgreSQL");
    }
    let sizes = Sizes::of(quick);
    let grown = |id| wanted(id) && !(quick && only.is_empty());
    if grown("G1") {
        measure_growth::backlog(binary, folder, &sizes).await?;
    }
    if grown("G2") {
        measure_growth::finished(binary, folder, &sizes).await?;
    }
    if !["A1", "C1", "C1b", "R1", "R2", "C2"].into_iter().any(wanted) {
        return Ok(());
    }
    let python = Python::prepare().await?;
    let python = (&python, if quick { 2_000 } else { 5_000 });
    if wanted("A1") || wanted("C1") {
        for kind in ["classic", "quorum"] {
            let mut flows = measure_rabbitmq::Flows::default();
            for _ in 0..repetitions {
                // Its queue is a classic one.
                let python = (kind == "classic").then_some(python);
                flows.repeat(binary, folder, kind, backlog, python).await?;
            }
            flows.print(kind, wanted);
        }
    }
    if wanted("C1b") {
        let hello = std::env::current_exe()?.with_file_name("hello");
        let mut handled = Handled::default();
        for _ in 0..repetitions {
            handled.repeat(&hello, folder, backlog, python).await?;
        }
        handled.print();
    }
    if wanted("R1") {
        let mut relayed = Relayed::default();
        for _ in 0..repetitions {
            relayed.repeat(binary, folder, backlog, python).await?;
        }
        relayed.print();
    }
    if wanted("R2") {
        let mut whole = Whole::default();
        for _ in 0..repetitions {
            whole.repeat(binary, folder, backlog).await?;
        }
        whole.print();
    }
    if wanted("C2") {
        let mut drained = Drained::default();
        for _ in 0..repetitions {
            drained.repeat(binary, folder, backlog).await?;
        }
        drained.print();
    }
    Ok(())
}

async fn create(name: &str) -> Result<TestDatabase> {
    match name {
        "SQLite" => TestDatabase::sqlite(),
        _ => TestDatabase::postgres().await,
    }
}

/// The body of one event.
pub fn body(id: Uuid) -> String {
    format!(
        r#"{{"event_id":"{id}","user_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"user_registered","message":"Welcome!"}}"#
    )
}

/// Events under ids of our own, so that what was recorded can be compared with what was sent.
pub fn events(count: usize, accepted: &mut BTreeSet<Uuid>) -> Vec<String> {
    let ids = (0..count).map(|_| Uuid::now_v7());
    let made = ids.map(|id| {
        accepted.insert(id);
        body(id)
    });
    made.collect()
}

async fn repeat(binary: &Path, folder: &Path, name: &str, requests: usize, samples: &mut Samples) -> Result<()> {
    let mut accepted = BTreeSet::new();
    let bodies = events(requests, &mut accepted);
    let echo = Running::start(&std::env::current_exe()?, &["bench", "--echo", "PORT"], "", folder).await?;
    samples.bare_start.push(echo.started_in.as_secs_f64() * 1e3);
    samples
        .echo
        .push(send_load::post(echo.port, "/api/events", &bodies, CONNECTIONS).await?);
    drop(echo);

    let database = create(name).await?;
    let first = Running::start(binary, &["serve", "--migrate"], database.url(), folder).await?;
    samples.first_start.push(first.started_in.as_secs_f64() * 1e3);
    first.stop().await?;
    let mut raw = Raw::open(database.url()).await?;
    samples.insert.push(raw.insert(requests).await?);

    let server = Running::start(binary, &["serve"], database.url(), folder).await?;
    samples.start.push(server.started_in.as_secs_f64() * 1e3);
    samples.idle.push(server.resident()?);
    let start = Instant::now();
    samples
        .accept
        .push(send_load::post(server.port, "/api/events", &bodies, CONNECTIONS).await?);
    samples.loaded.push(server.resident()?);
    await_rows(&mut raw, requests, start).await?;
    samples.whole.push(requests as f64 / start.elapsed().as_secs_f64());
    server.stop().await?;

    let api = Running::start(binary, &["serve", "--role", "api"], database.url(), folder).await?;
    let backlog = events(requests, &mut accepted);
    send_load::post(api.port, "/api/events", &backlog, CONNECTIONS).await?;
    api.stop().await?;
    let waiting = raw.recorded().await?;
    ensure!(waiting == requests as i64, "void: the backlog was not left alone");
    // The worker's start-up counts against it: it reads as soon as it can.
    let start = Instant::now();
    let worker = Running::start(binary, &["serve", "--role", "worker"], database.url(), folder).await?;
    await_rows(&mut raw, 2 * requests, start).await?;
    samples.drain.push(requests as f64 / start.elapsed().as_secs_f64());
    worker.stop().await?;
    check_ids::check(&accepted, &raw.recorded_ids().await?)?;
    drop(raw);
    database.finish().await
}

/// Waits until `expected` events are recorded.
pub async fn await_rows(raw: &mut Raw, expected: usize, start: Instant) -> Result<()> {
    while !await_count(raw.recorded().await?, expected, start).await? {}
    Ok(())
}

/// Whether `count` has come to `expected`; if not, after a pause.
pub async fn await_count(count: i64, expected: usize, start: Instant) -> Result<bool> {
    if count >= expected as i64 {
        return Ok(true);
    }
    ensure!(
        start.elapsed() < Duration::from_secs(120),
        "void: {count} of {expected} were recorded, the others are lost or late"
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    Ok(false)
}

fn print(name: &str, samples: Samples, wanted: impl Fn(&str) -> bool) {
    let (echo, insert) = (Figures::of(samples.echo), Figures::of(samples.insert));
    let accept = Figures::of(samples.accept);
    if wanted("A2") {
        rate(&format!("A2 accepted/s beside echo, {name}"), &accept, &echo, Some(0.4));
        rate(
            &format!("A2 accepted/s beside multi-row insert, {name}"),
            &accept,
            &insert,
            None,
        );
    }
    if wanted("C3") {
        let drain = Figures::of(samples.drain);
        rate(
            &format!("C3 backlog to rows/s beside multi-row insert, {name}"),
            &drain,
            &insert,
            Some(0.35),
        );
    }
    if wanted("E2E") {
        let whole = Figures::of(samples.whole);
        rate(
            &format!("E2E recorded/s beside multi-row insert, {name}"),
            &whole,
            &insert,
            None,
        );
    }
    if wanted("S1") {
        let bare = Figures::of(samples.bare_start);
        bound(
            &format!("S1 start, ms, {name}"),
            &Figures::of(samples.start),
            Some(&bare),
            300.0,
        );
        let first = Figures::of(samples.first_start);
        bound(&format!("S1 first start, ms, {name}"), &first, Some(&bare), 1000.0);
    }
    if wanted("S2") {
        bound(
            &format!("S2 memory idle, MB, {name}"),
            &Figures::of(samples.idle),
            None,
            30.0,
        );
        bound(
            &format!("S2 memory after A2, MB, {name}"),
            &Figures::of(samples.loaded),
            None,
            120.0,
        );
    }
}
