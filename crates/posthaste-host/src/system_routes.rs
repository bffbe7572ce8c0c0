//! `/health`, `/livez`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::SecondsFormat;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use posthaste::Store;
use posthaste::backlog::Backlog;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::check_services::ServiceChecks;
use crate::health::{Check, Health, Report, fold};
use crate::telemetry::metrics::{CONTENT_TYPE as METRICS_TYPE, Metrics};

/// Counting rows may take so long before a scrape goes on with the last figures.
const COUNTING: Duration = Duration::from_secs(1);
/// Scrapes in quick succession share one count.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// What anybody may ask: states, no URL, and no name where causes are not shown.
pub(crate) const OPEN: [&str; 3] = ["/health", "/livez", "/readyz"];
/// What counts what happens inside, and by that tells of it.
pub(crate) const METRICS: &str = "/metrics";

/// What the routes know.
pub(crate) struct System {
    pub service: String,
    pub version: &'static str,
    pub health: Health,
    pub checks: ServiceChecks,
    pub metrics: Option<Metrics>,
    pub stores: Vec<Store>,
    /// Whether the process has the role worker and no other: one that does not read does nothing.
    pub is_only_worker: bool,
    /// Whether whoever asks may read causes, and names of services and queues: they tell of hosts and of the inside.
    pub shows_causes: bool,
}

struct Shared {
    system: System,
    backlog: Backlog,
    counted: Mutex<Option<Instant>>,
}

/// The routes, and `/metrics` by itself where there are any.
pub(crate) fn routes(system: System) -> (Router, Option<Router>) {
    let has_metrics = system.metrics.is_some();
    let shared = Arc::new(Shared {
        backlog: Backlog::of(system.stores.clone()),
        system,
        counted: Mutex::new(None),
    });
    let router = Router::new()
        .route("/health", get(health))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .with_state(shared.clone());
    let apart = Router::new().route(METRICS, get(metrics)).with_state(shared);
    (router, has_metrics.then_some(apart))
}

async fn health(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let report = shared.system.health.report().await;
    let up = report.database_up() && report.broker_up();
    let causes = shared.system.shows_causes;
    let all = shown(
        [
            &report.databases,
            &report.brokers,
            &report.migrations,
            &report.cache,
            &report.troubles,
        ],
        causes,
    );
    if is_verbose(query.as_deref()) {
        return text("health", up, &all);
    }
    let word = |up: bool| if up { "connected" } else { "disconnected" };
    let status = match (up, report.troubles.is_empty()) {
        (false, _) => "down",
        (true, true) => "ok",
        // It answers, and something waits.
        (true, false) => "degraded",
    };
    let body = json!({
        "status": status,
        "service": shared.system.service,
        "version": shared.system.version,
        "db": word(report.database_up()),
        "mq": word(report.broker_up()),
        "checks": checks(&all, causes),
    });
    answer(up, body)
}

/// The process runs, whatever is the matter around it.
async fn alive(RawQuery(query): RawQuery) -> Response {
    if is_verbose(query.as_deref()) {
        let process = Check {
            name: "process".to_owned(),
            up: true,
            took: None,
            trouble: None,
        };
        return text("livez", true, &[process]);
    }
    answer(true, json!({ "status": "ok" }))
}

async fn ready(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let report = shared.system.health.report().await;
    let system = &shared.system;
    let draining = vec![draining(&report)];
    let checked = system.checks.report().await;
    let services = checked
        .iter()
        .map(|check| Check {
            name: check.name.to_owned(),
            up: check.obstacle.is_none(),
            took: None,
            trouble: None,
        })
        .collect();
    let nothing = Vec::new();
    let (reads, troubles) = if system.is_only_worker {
        (report.reads(), &report.troubles)
    } else {
        (true, &nothing)
    };
    let up = report.is_ready() && reads && checked.iter().all(|check| check.obstacle.is_none());
    let parts = [&report.databases, &report.migrations, &services, &draining, troubles];
    let all = shown(parts, system.shows_causes);
    if is_verbose(query.as_deref()) {
        return text("readyz", up, &all);
    }
    let status = if up { "ready" } else { "not ready" };
    let mut checks = checks(&all, system.shows_causes);
    for check in checked {
        if let Some(obstacle) = check.obstacle {
            checks[check.name]["detail"] = obstacle.into();
        }
    }
    answer(up, json!({ "status": status, "checks": checks }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let system = &shared.system;
    let Some(metrics) = &system.metrics else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let report = system.health.report().await;
    for store in &system.stores {
        store.record_pool();
    }
    let mut counted = shared.counted.lock().await;
    // A database that does not answer is not asked to count as well.
    if report.database_up() && counted.is_none_or(|at| at.elapsed() > COUNT_AGAIN) {
        shared.backlog.record(COUNTING).await;
        *counted = Some(Instant::now());
    }
    drop(counted);
    (
        [(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE))],
        metrics.render(),
    )
        .into_response()
}

fn draining(report: &Report) -> Check {
    Check {
        name: "not-draining".to_owned(),
        up: !report.draining,
        took: None,
        trouble: None,
    }
}

fn is_verbose(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| {
        matches!(
            pair.split('=').collect::<Vec<_>>()[..],
            ["verbose"] | ["verbose", "" | "1" | "true"]
        )
    })
}

/// The checks of `parts`, by their names where `causes` are shown.
fn shown<'a>(parts: impl IntoIterator<Item = &'a Vec<Check>>, causes: bool) -> Vec<Check> {
    let all = parts.into_iter().flatten().cloned();
    if causes { all.collect() } else { fold(all) }
}

fn checks(shown: &[Check], causes: bool) -> Value {
    let mut all = Map::new();
    for check in shown {
        let mut one = json!({ "status": if check.up { "ok" } else { "down" } });
        if let Some(took) = check.took {
            // Tenths: finer would be noise.
            one["duration_ms"] = json!((took.as_secs_f64() * 10_000.0).round() / 10.0);
        }
        if let Some(trouble) = &check.trouble {
            one["since"] = json!(trouble.since.to_rfc3339_opts(SecondsFormat::Secs, true));
            if causes {
                one["why"] = json!(trouble.why);
            }
            if let Some(rows) = trouble.rows {
                one["rows"] = json!(rows);
            }
        }
        all.insert(check.name.clone(), one);
    }
    Value::Object(all)
}

fn text(name: &str, up: bool, shown: &[Check]) -> Response {
    let mut text = String::new();
    for check in shown {
        let (sign, word) = if check.up { ('+', "ok") } else { ('-', "failed") };
        text.push_str(&format!("[{sign}]{} {word}\n", check.name));
    }
    text.push_str(&format!("{name} check {}\n", if up { "passed" } else { "failed" }));
    (status(up), [(CACHE_CONTROL, "no-store")], text).into_response()
}

fn answer(up: bool, body: Value) -> Response {
    (status(up), [(CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

fn status(up: bool) -> StatusCode {
    if up {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
