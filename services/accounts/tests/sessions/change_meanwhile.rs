//! What was true when a request began is not when it is carried out.

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Reply, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::house::{House, LIMIT, OTHER_PASSWORD, PASSWORD};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";

on_each_stage!(
    whoever_is_disabled_while_its_body_is_on_the_way_changes_nothing,
    a_second_sign_up_takes_an_unconfirmed_password_away,
    another_secret_is_told_and_costs_nobody_a_session,
);

async fn whoever_is_disabled_while_its_body_is_on_the_way_changes_nothing(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    let guarded = House::open_with(&stage, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let id = house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let path = format!("/api/v1/users/{id}");
    let body = json!({"is_active": true}).to_string();
    let address = guarded.service.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await?;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        pass.bearer(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    // The body is asked for once the token was looked at.
    let mut interim = [0; 25];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut interim)).await??;
    ensure!(interim.starts_with(b"HTTP/1.1 100"), "{interim:?}");
    let off = json!({"is_active": false});
    let headers = [("Content-Type", "application/json")];
    let disabled = house.service.send("PUT", &path, &headers, off.to_string().into_bytes());
    ensure!(disabled.await?.status == 200);
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let read = house.act("GET", &path, &[]).await?;
    ensure!(read.body["data"]["is_active"] == false, "{read:?}");
    guarded.close().await?;
    house.close().await
}

async fn a_second_sign_up_takes_an_unconfirmed_password_away(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    // Somebody signs up with Ann's address; a moment later she does, and confirms that it is hers.
    let id = house.unverified_user(ANN).await?;
    house.settled().await?;
    let signup =
        json!({"email": "ANN@example.com", "first_name": "Ann", "last_name": "Lee", "password": OTHER_PASSWORD});
    ensure!(house.service.post("/signup", &signup).await?.status == 409);
    ensure!(house.act("PUT", &format!("/users/{id}"), &[]).await?.status == 200);
    ensure!(
        house.try_login(ANN, PASSWORD, &[]).await?.status == 401,
        "the password of whoever was first"
    );
    let token = house.reset_token(ANN, 1).await?;
    ensure!(house.confirm_reset(&token, OTHER_PASSWORD).await?.status == 204);
    ensure!(house.try_login(ANN, OTHER_PASSWORD, &[]).await?.status == 200);

    // Bob presses the button twice.
    let id = house.unverified_user(BOB).await?;
    let again = json!({"email": BOB, "first_name": "Bob", "last_name": "Lee", "password": PASSWORD});
    ensure!(house.service.post("/api/v1/auth/register", &again).await?.status == 202);
    house.settled().await?;
    ensure!(house.act("PUT", &format!("/users/{id}"), &[]).await?.status == 200);
    house.login(BOB).await?;
    house.close().await
}

/// What `/readyz` says once it has `status`: what it shows may be a moment old.
async fn answer(house: &House, status: u16) -> Result<Reply> {
    wait_until("/readyz", LIMIT, || async {
        let ready = house.act("GET", "/readyz", &[]).await.ok()?;
        (ready.status == status).then_some(ready)
    })
    .await
}

async fn another_secret_is_told_and_costs_nobody_a_session(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let secret = ("ACCOUNTS_SECRET", "quite another secret than all the others have");
    let stray = House::open_with(&stage, &[secret]).await?;
    let ready = answer(&stray, 503).await?;
    let check = &ready.body["checks"]["signing-keys"];
    let told = check["detail"].as_str().unwrap_or_default();
    ensure!(
        check["status"] == "down" && told.contains("ACCOUNTS_SECRET"),
        "{ready:?}"
    );
    let ready = answer(&house, 200).await?;
    ensure!(ready.body["checks"]["signing-keys"]["status"] == "ok", "{ready:?}");
    let refused = stray.try_login(ANN, PASSWORD, &[]).await?;
    let detail = refused.body["detail"].as_str().unwrap_or_default();
    ensure!(
        refused.status == 503 && detail.contains("secret of this service has changed"),
        "{refused:?}"
    );
    let refused = stray.refresh(&pass.refresh).await?;
    ensure!(
        refused.status == 503 && refused.header("set-cookie").is_none(),
        "{refused:?}"
    );
    ensure!(stray.calls(&pass).await? == 200, "what others have signed");
    let next = house.refresh(&pass.refresh).await?;
    ensure!(next.status == 200, "{next:?}");
    next.header("set-cookie").context("a cookie")?;
    stray.close().await?;
    house.close().await
}
