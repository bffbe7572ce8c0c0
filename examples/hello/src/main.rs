//! The smallest service: a route that publishes in a transaction, a handler that writes a row.
use axum::extract::{Path, State};
use posthaste::store::{Migration, Sql};
use posthaste::{Cx, Event, Handle, Handled, Message, Subscription, outbox};
use posthaste_host::{ConfigError, Service, ServiceContext, ServiceParts, http::ApiError};

#[derive(serde::Serialize, serde::Deserialize)]
struct Greeted(String);
impl Event for Greeted {
    const TYPE: &'static str = "greeted";
    const TOPIC: &'static str = "greetings";
}
struct Remember;
impl Handle<Greeted> for Remember {
    async fn handle(&self, Greeted(name): Greeted, cx: &mut Cx<'_>) -> Handled {
        let sql = "INSERT INTO greetings (name) VALUES ($1)"; // commits with the inbox mark: once
        cx.tx().execute(sql, vec![name.into()]).await?;
        Ok(())
    }
}

#[utoipa::path(post, path = "/hello/{name}", responses((status = 200, description = "Greeted")))]
async fn hello(State(cx): State<ServiceContext>, Path(name): Path<String>) -> Result<String, ApiError> {
    let mut tx = cx.store.begin().await?; // for rows of your own, too
    outbox::append(&mut tx, cx.name, Message::of(&Greeted(name.clone()))?).await?;
    tx.commit().await?;
    Ok(format!("Hello, {name}!\n"))
}

fn build(cx: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let routes = utoipa_axum::router::OpenApiRouter::new().routes(utoipa_axum::routes!(hello));
    let remember = Subscription::new::<Greeted, _>("remember", Greeted::TOPIC, Remember);
    Ok(ServiceParts::new(routes.with_state(cx.clone()), [remember]))
}
#[tokio::main]
async fn main() -> std::process::ExitCode {
    const UP: Sql = Sql::same("CREATE TABLE greetings (name TEXT NOT NULL)");
    const TABLE: Migration = Migration::new(1, "greetings", UP, Sql::same("DROP TABLE greetings"));
    posthaste_host::cli::run(&[Service::new("hello", build).with(&[TABLE])]).await
}
