//! The rows A2 (accept), E2E (request to visible row), S1 (start) and S2 (memory), on SQLite and PostgreSQL.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;

use super::insert_rows::Raw;
use super::print_figures::{Figures, bound, head, rate};
use super::run_binary::Running;
use super::{describe_machine, send_load};

const BODY: &str =
    r#"{"user_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"user_registered","message":"Welcome!"}"#;
const CONNECTIONS: usize = 32;

#[derive(Default)]
struct Samples {
    echo: Vec<f64>,
    accept: Vec<f64>,
    insert: Vec<f64>,
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
    describe_machine::describe(BODY)?;
    head();
    for name in ["SQLite", "PostgreSQL"] {
        let mut samples = Samples::default();
        for _ in 0..repetitions {
            repeat(binary, name, requests, &mut samples).await?;
        }
        print(name, samples, only);
    }
    Ok(())
}

async fn repeat(binary: &Path, name: &str, requests: usize, samples: &mut Samples) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let echo = Running::start(
        &std::env::current_exe()?,
        &["bench", "--echo", "PORT"],
        "",
        folder.path(),
    )
    .await?;
    samples.bare_start.push(echo.started_in.as_secs_f64() * 1e3);
    samples
        .echo
        .push(send_load::post(echo.port, "/api/events", BODY, CONNECTIONS, requests).await?);
    drop(echo);

    let database = if name == "SQLite" {
        TestDatabase::sqlite()?
    } else {
        TestDatabase::postgres().await?
    };
    let first = Running::start(binary, &["serve", "--migrate"], database.url(), folder.path()).await?;
    samples.first_start.push(first.started_in.as_secs_f64() * 1e3);
    first.stop().await?;
    let mut raw = Raw::open(database.url()).await?;
    samples.insert.push(raw.insert(requests).await?);

    let server = Running::start(binary, &["serve"], database.url(), folder.path()).await?;
    samples.start.push(server.started_in.as_secs_f64() * 1e3);
    samples.idle.push(server.resident()?);
    let start = Instant::now();
    samples
        .accept
        .push(send_load::post(server.port, "/api/events", BODY, CONNECTIONS, requests).await?);
    samples.loaded.push(server.resident()?);
    let expected = requests as i64;
    while raw.recorded().await? < expected {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "void: events were lost or are late"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    samples.whole.push(requests as f64 / start.elapsed().as_secs_f64());
    server.stop().await?;
    let recorded = raw.recorded().await?;
    ensure!(recorded == expected, "void: {recorded} rows of {expected} events");
    drop(raw);
    database.finish().await
}

fn print(name: &str, samples: Samples, only: &[String]) {
    let wanted = |id: &str| only.is_empty() || only.iter().any(|one| one.eq_ignore_ascii_case(id));
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
