//! `/health`, `/livez`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use posthaste::Store;
use posthaste::backlog::Backlog;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::check_services::ServiceChecks;
use crate::health::{Check, Health, Report};
use crate::telemetry::metrics::{CONTENT_TYPE as METRICS_TYPE, Metrics};

/// Counting rows may take so long before a scrape goes on with the last figures.
const COUNTING: Duration = Duration::from_secs(1);
/// Scrapes in quick succession share one count.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// What the routes know.
pub(crate) struct System {
    pub service: String,
    pub version: &'static str,
    pub health: Health,
    pub checks: ServiceChecks,
    pub metrics: Option<Metrics>,
    pub stores: Vec<Store>,
}

struct Shared {
    system: System,
    backlog: Backlog,
    counted: Mutex<Option<Instant>>,
}

/// The routes.
pub(crate) fn routes(system: System) -> Router {
    let has_metrics = system.metrics.is_some();
    let shared = Arc::new(Shared {
        backlog: Backlog::of(system.stores.clone()),
        system,
        counted: Mutex::new(None),
    });
    let router = Router::new()
        .route("/health", get(health))
        .route("/livez", get(alive))
        .route("/readyz", get(ready));
    let router = if has_metrics {
        router.route("/metrics", get(metrics))
    } else {
        router
    };
    router.with_state(shared)
}

async fn health(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let report = shared.system.health.report().await;
    let up = report.database_up() && report.broker_up();
    if is_verbose(query.as_deref()) {
        return text(
            "health",
            up,
            [&report.databases, &report.brokers, &report.migrations, &report.cache],
        );
    }
    let word = |up: bool| if up { "connected" } else { "disconnected" };
    let body = json!({
        "status": if up { "ok" } else { "down" },
        "service": shared.system.service,
        "version": shared.system.version,
        "db": word(report.database_up()),
        "mq": word(report.broker_up()),
        "checks": checks([&report.databases, &report.brokers, &report.migrations, &report.cache]),
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
        };
        return text("livez", true, [&vec![process]]);
    }
    answer(true, json!({ "status": "ok" }))
}

async fn ready(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let report = shared.system.health.report().await;
    let draining = vec![draining(&report)];
    let checked = shared.system.checks.report().await;
    let up = report.is_ready() && checked.iter().all(|check| check.obstacle.is_none());
    let services = checked
        .iter()
        .map(|check| Check {
            name: check.name.to_owned(),
            up: check.obstacle.is_none(),
            took: None,
        })
        .collect();
    let parts = [&report.databases, &report.migrations, &services, &draining];
    if is_verbose(query.as_deref()) {
        return text("readyz", up, parts);
    }
    let status = if up { "ready" } else { "not ready" };
    let mut checks = checks(parts);
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

fn checks<'a>(parts: impl IntoIterator<Item = &'a Vec<Check>>) -> Value {
    let mut all = Map::new();
    for check in parts.into_iter().flatten() {
        let mut one = json!({ "status": if check.up { "ok" } else { "down" } });
        if let Some(took) = check.took {
            // Tenths: finer would be noise.
            one["duration_ms"] = json!((took.as_secs_f64() * 10_000.0).round() / 10.0);
        }
        all.insert(check.name.clone(), one);
    }
    Value::Object(all)
}

fn text<'a>(name: &str, up: bool, parts: impl IntoIterator<Item = &'a Vec<Check>>) -> Response {
    let mut text = String::new();
    for check in parts.into_iter().flatten() {
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
