//! Another service, in a process without the accounts service: it asks over HTTP.

use anyhow::{Result, ensure};
use axum::extract::FromRef;
use posthaste_host::auth::{Caller, Guard};
use posthaste_host::{Service, ServiceContext, ServiceParts};
use posthaste_testkit::{RunningService, TestDatabase, wait_until};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::house::{House, LIMIT};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";

#[derive(Clone)]
struct Door(Guard);

impl FromRef<Door> for Guard {
    fn from_ref(door: &Door) -> Self {
        door.0.clone()
    }
}

#[utoipa::path(get, path = "/door", responses((status = 200, description = "In")))]
async fn door(caller: Caller) -> String {
    caller.user_id().map(|id| id.to_string()).unwrap_or_default()
}

const DOORKEEPER: Service = Service::new("doorkeeper", |cx: &ServiceContext| {
    let routes = OpenApiRouter::new().routes(routes!(door)).with_state(Door(cx.guard()));
    Ok(ServiceParts::new(routes, []))
});

#[tokio::test]
async fn another_process_knows_within_a_second_of_every_revocation() -> Result<()> {
    let (stage, own) = (Stage::open().await?, TestDatabase::sqlite()?);
    let house = House::open(&stage).await?;
    let id = house.user(ANN).await?;
    let (pass, other) = (house.login(ANN).await?, house.login(ANN).await?);
    let url = house.service.url().to_owned();
    let settings = [("POSTHASTE_AUTH", "enforced"), ("ACCOUNTS_URL", url.as_str())];
    let keeper = RunningService::start_with(DOORKEEPER, &own, &settings).await?;
    let knock = async |token: &str| {
        let bearer = format!("Bearer {token}");
        keeper
            .send("GET", "/door", &[("Authorization", &bearer)], Vec::new())
            .await
    };
    let let_in = knock(&pass.access).await?;
    ensure!(let_in.status == 200 && let_in.text == id, "{let_in:?}");
    ensure!(keeper.get("/door").await?.status == 401);
    let (signed, signature) = pass.access.rsplit_once('.').unwrap_or_default();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    ensure!(
        knock(&format!("{signed}.{first}{}", &signature[1..])).await?.status == 401,
        "forged"
    );

    ensure!(house.log_out(&pass).await?.status == 204);
    let since = std::time::Instant::now();
    wait_until("the door to close", LIMIT, || async {
        (knock(&pass.access).await.ok()?.status == 401).then_some(())
    })
    .await?;
    // The access token would have been good for minutes.
    ensure!(
        since.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
    ensure!(knock(&other.access).await?.status == 200);

    // Nobody can say any more whether a token holds: nobody is let in.
    house.close().await?;
    wait_until("the door to close for want of an answer", LIMIT, || async {
        (knock(&other.access).await.ok()?.status == 503).then_some(())
    })
    .await?;
    keeper.stop().await
}
