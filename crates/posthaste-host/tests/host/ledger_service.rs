//! A service with one route, one handler and one table.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use posthaste::store::{Migration, Sql};
use posthaste::{Cx, Event, Handle, Handled, Message, Subscription, outbox};
use posthaste_host::http::ApiError;
use posthaste_host::{Config, ConfigError, Host, RunningHost, Service, ServiceContext, ServiceParts, Sources};
use posthaste_testkit::wait_until;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Nothing in these tests takes longer; generous, because the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(90);

#[derive(Serialize, Deserialize)]
struct Booked(String);

impl Event for Booked {
    const TYPE: &'static str = "booked";
    const TOPIC: &'static str = "bookings";
}

struct Book;

impl Handle<Booked> for Book {
    async fn handle(&self, Booked(what): Booked, cx: &mut Cx<'_>) -> Handled {
        cx.tx()
            .execute("INSERT INTO ledger (what) VALUES ($1)", vec![what.into()])
            .await?;
        Ok(())
    }
}

#[utoipa::path(post, path = "/book/{what}", responses((status = 202, description = "Booked")))]
async fn book(State(cx): State<ServiceContext>, Path(what): Path<String>) -> Result<http::StatusCode, ApiError> {
    let mut tx = cx.store.begin().await?;
    outbox::append(&mut tx, cx.name, Message::of(&Booked(what))?).await?;
    tx.commit().await?;
    Ok(http::StatusCode::ACCEPTED)
}

fn build(cx: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let routes = OpenApiRouter::new().routes(routes!(book)).with_state(cx.clone());
    let book = Subscription::new::<Booked, _>("ledger.book", Booked::TOPIC, Book);
    Ok(ServiceParts::new(routes, [book]))
}

const TABLE: Migration = Migration::new(
    1,
    "ledger",
    Sql::same("CREATE TABLE ledger (what TEXT NOT NULL)"),
    Sql::same("DROP TABLE ledger"),
);

/// The service.
pub const LEDGER: Service = Service::new("ledger", build).with(&[TABLE]);

/// A configuration as the environment would have it.
pub fn config(settings: &[(&str, &str)]) -> Result<Config> {
    let pairs = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Ok(Config::load(Sources::new().environment(pairs), &["ledger"])?)
}

/// The service at work on any free port.
pub async fn start(config: &Config) -> Result<RunningHost> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(Host::start(&[LEDGER], config, listener).await?)
}

/// Status, content type and body of `GET path`.
pub async fn get(host: &RunningHost, path: &str) -> Result<(u16, String, String)> {
    send(host, reqwest::Method::GET, path).await
}

/// The body of the first answer to `ask` with status 200. The probes behind `/health` and `/readyz` have a second each,
/// which a busy machine may not keep.
pub async fn once_ok<F>(path: &str, mut ask: impl FnMut() -> F) -> Result<String>
where
    F: Future<Output = Result<(u16, String, String)>>,
{
    wait_until(&format!("200 of {path}"), LIMIT, || {
        let asked = ask();
        async {
            let (status, _, body) = asked.await.ok()?;
            (status == 200).then_some(body)
        }
    })
    .await
}

/// Status, content type and body of a request without a body.
pub async fn send(host: &RunningHost, method: reqwest::Method, path: &str) -> Result<(u16, String, String)> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let url = format!("http://{}{path}", host.addr);
    let answer = client.request(method, url).send().await?;
    let kind = match answer.headers().get("content-type") {
        Some(kind) => kind.to_str().context("content type")?.to_owned(),
        None => String::new(),
    };
    Ok((answer.status().as_u16(), kind, answer.text().await?))
}
