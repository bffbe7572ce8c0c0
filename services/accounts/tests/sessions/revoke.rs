//! Ending: a logout, all logouts, disabled, deleted and demoted users. What was answered is true at every instance.

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres};
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::{Value, json};

use crate::house::{House, LIMIT, NO_BROWSER, PASSWORD, Pass, cookie};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";

on_each_stage!(
    a_logout_ends_its_session_at_once_and_everywhere,
    logging_out_everywhere_ends_all_devices_of_this_second_too,
    a_disabled_or_deleted_user_is_out_at_once,
    a_refresh_in_a_race_with_a_logout_leaves_nothing
);

async fn a_logout_ends_its_session_at_once_and_everywhere(stage: Stage) -> Result<()> {
    let (house, second) = (House::open(&stage).await?, House::open(&stage).await?);
    house.user(ANN).await?;
    let (pass, other) = (house.login(ANN).await?, house.login(ANN).await?);
    ensure!(second.calls(&pass).await? == 200);
    let reply = house.log_out(&pass).await?;
    ensure!(
        reply.status == 204 && cookie(&reply).as_deref() == Some(""),
        "{reply:?}"
    );
    let set = reply.header("set-cookie").unwrap_or_default();
    ensure!(set == "refresh=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0", "{set}");
    ensure!(second.calls(&pass).await? == 401 && second.refreshes(&pass.refresh).await? == 401);
    ensure!(second.calls(&other).await? == 200, "another device");
    ensure!(house.log_out(&pass).await?.status == 204, "a second time");
    ensure!(
        house.act("POST", "/api/v1/auth/logout", &[]).await?.status == 204,
        "with nothing at all"
    );
    ensure!(house.audited("user.logout").await? == 1);
    ensure!(house.service.count("revoked_tokens").await? == 1);

    // The cookie alone will do, and so will the token alone.
    let (by_cookie, by_token) = (house.login(ANN).await?, house.login(ANN).await?);
    let cookie = format!("refresh={}", by_cookie.refresh);
    ensure!(
        house
            .act("POST", "/api/v1/auth/logout", &[("Cookie", &cookie), NO_BROWSER])
            .await?
            .status
            == 204
    );
    ensure!(second.calls(&by_cookie).await? == 401);
    let bearer = by_token.bearer();
    ensure!(
        house
            .act("POST", "/api/v1/auth/logout", &[("Authorization", &bearer)])
            .await?
            .status
            == 204
    );
    ensure!(second.refreshes(&by_token.refresh).await? == 401);
    // What is kept of it is dropped when the token has ended by itself.
    house.age("revoked_tokens", "expires_at", 400).await?;
    let third = House::open(&stage).await?;
    third.login(ANN).await?;
    wait_until("the ended tokens to go", LIMIT, || async {
        (third.service.count("revoked_tokens").await.ok()? == 0).then_some(())
    })
    .await?;
    ensure!(third.calls(&by_token).await? == 401, "the session is remembered longer");
    third.close().await?;
    house.close().await?;
    second.close().await
}

async fn logging_out_everywhere_ends_all_devices_of_this_second_too(stage: Stage) -> Result<()> {
    let (house, second) = (House::open(&stage).await?, House::open(&stage).await?);
    house.user(ANN).await?;
    house.user(BOB).await?;
    let bob = house.login(BOB).await?;
    let mut devices = Vec::new();
    for _ in 0..3 {
        devices.push(house.login(ANN).await?);
    }
    let reply = house
        .act_as(&devices[0], "POST", "/api/v1/auth/logout-all", &Value::Null)
        .await?;
    ensure!(reply.status == 204, "{reply:?}");
    // Very likely in the same second.
    let new = second.login(ANN).await?;
    for device in &devices {
        ensure!(second.calls(device).await? == 401 && second.refreshes(&device.refresh).await? == 401);
    }
    ensure!(house.calls(&new).await? == 200 && house.refreshes(&new.refresh).await? == 200);
    ensure!(house.calls(&bob).await? == 200, "another user");
    ensure!(house.act("POST", "/api/v1/auth/logout-all", &[]).await?.status == 401);
    house.close().await?;
    second.close().await
}

async fn a_disabled_or_deleted_user_is_out_at_once(stage: Stage) -> Result<()> {
    let (house, second) = (House::open(&stage).await?, House::open(&stage).await?);
    let (ann, bob) = (house.user(ANN).await?, house.user(BOB).await?);
    let (pass, bobs) = (house.login(ANN).await?, house.login(BOB).await?);
    let path = format!("/api/v1/users/{ann}");
    ensure!(
        house
            .act_as(&bobs, "PUT", &path, &json!({"is_active": false}))
            .await?
            .status
            == 200
    );
    ensure!(second.calls(&pass).await? == 401 && second.refreshes(&pass.refresh).await? == 401);
    ensure!(
        house
            .act_as(&bobs, "PUT", &path, &json!({"is_active": true}))
            .await?
            .status
            == 200
    );
    ensure!(
        second.calls(&pass).await? == 401,
        "active again, but that session has ended"
    );
    ensure!(second.try_login(ANN, PASSWORD, &[]).await?.status == 200);
    ensure!(house.act("DELETE", &format!("/api/v1/users/{bob}"), &[]).await?.status == 200);
    ensure!(second.calls(&bobs).await? == 401 && second.refreshes(&bobs.refresh).await? == 401);
    ensure!(second.try_login(BOB, PASSWORD, &[]).await?.status == 401);
    house.close().await?;
    second.close().await
}

async fn a_refresh_in_a_race_with_a_logout_leaves_nothing(stage: Stage) -> Result<()> {
    let (house, second) = (House::open(&stage).await?, House::open(&stage).await?);
    house.user(ANN).await?;
    let mut pass = house.login(ANN).await?;
    for round in 0..20 {
        let everywhere = round % 2 == 0;
        let end = async {
            if everywhere {
                house
                    .act_as(&pass, "POST", "/api/v1/auth/logout-all", &Value::Null)
                    .await
            } else {
                house.log_out(&pass).await
            }
        };
        let (ended, refreshed) = tokio::join!(end, second.refresh(&pass.refresh));
        let (ended, refreshed) = (ended?, refreshed?);
        ensure!(ended.status == 204, "{ended:?}");
        if refreshed.status == 200 {
            let won = Pass::of(&refreshed)?;
            ensure!(
                second.calls(&won).await? == 401 && second.refreshes(&won.refresh).await? == 401,
                "round {round}"
            );
        } else {
            // 503: one that waited too long for the database has refreshed nothing.
            ensure!([401, 503].contains(&refreshed.status), "{refreshed:?}");
        }
        house.end_windows().await?;
        pass = house.login(ANN).await?;
    }
    house.close().await?;
    second.close().await
}

#[tokio::test]
async fn a_user_sees_and_ends_its_own_sessions_only() -> Result<()> {
    let house = House::alone(&[]).await?;
    let ann = house.user(ANN).await?;
    house.user(BOB).await?;
    let agent = [("User-Agent", "Phone\u{7f}\t1.0")];
    let phone = Pass::of(&house.try_login(ANN, PASSWORD, &agent[..0]).await?)?;
    let (laptop, bob) = (house.login(ANN).await?, house.login(BOB).await?);
    let list = async |pass: &Pass| -> Result<Vec<Value>> {
        let reply = house.act_as(pass, "GET", "/api/v1/auth/sessions", &Value::Null).await?;
        ensure!(reply.status == 200 && !reply.text.contains(&pass.refresh), "{reply:?}");
        Ok(reply.body["sessions"].as_array().context("no list")?.clone())
    };
    let sessions = list(&laptop).await?;
    ensure!(sessions.len() == 2, "{sessions:?}");
    let current: Vec<&Value> = sessions.iter().filter(|session| session["current"] == true).collect();
    ensure!(current.len() == 1 && current[0]["ip"] == "127.0.0.0/24", "{sessions:?}");
    let id = |session: &Value| session["id"].as_str().unwrap_or_default().to_owned();
    let phones = sessions
        .iter()
        .find(|session| session["current"] == false)
        .map(id)
        .context("the phone's")?;
    for (pass, id, status) in [
        (&bob, phones.clone(), 404),
        (&laptop, uuid::Uuid::from_u128(7).to_string(), 404),
        (&laptop, "7".to_owned(), 422),
        (&laptop, phones.clone(), 204),
        (&laptop, phones.clone(), 404),
    ] {
        let path = format!("/api/v1/auth/sessions/{id}");
        let reply = house.act_as(pass, "DELETE", &path, &Value::Null).await?;
        ensure!(reply.status == status, "{path}: {reply:?}");
    }
    ensure!(house.calls(&phone).await? == 401 && house.refreshes(&phone.refresh).await? == 401);
    ensure!(list(&laptop).await?.len() == 1 && list(&bob).await?.len() == 1);
    ensure!(house.act("GET", "/api/v1/auth/sessions", &[]).await?.status == 401);

    // Twenty at most: the oldest makes room.
    for _ in 0..20 {
        house.end_windows().await?;
        house.login(ANN).await?;
    }
    ensure!(house.calls(&laptop).await? == 401 && house.calls(&bob).await? == 200);
    // An administrator, here anybody, ends them all.
    ensure!(
        house
            .act("DELETE", &format!("/api/v1/users/{ann}/sessions"), &[])
            .await?
            .status
            == 204
    );
    ensure!(house.calls(&bob).await? == 200 && house.service.count("sessions WHERE revoked_at IS NULL").await? == 1);
    house.close().await
}

#[tokio::test]
async fn a_role_holds_from_the_next_request_on() -> Result<()> {
    let stage = Stage::open().await?;
    let open = House::open(&stage).await?;
    let (ann, _bob) = (open.user(ANN).await?, open.user(BOB).await?);
    open.close().await?;
    let house = House::open_with(&stage, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let (pass, bob) = (house.login(ANN).await?, house.login(BOB).await?);
    let list = async |pass: &Pass| -> Result<u16> {
        Ok(house.act_as(pass, "GET", "/api/v1/users", &Value::Null).await?.status)
    };
    ensure!(list(&pass).await? == 403);
    let role = async |role: &str| {
        let sql = "UPDATE users SET role = $1 WHERE email = $2";
        house.service.store().execute(sql, vec![role.into(), ANN.into()]).await
    };
    role("admin").await?;
    ensure!(list(&pass).await? == 200, "with the token it had before");
    role("user").await?;
    ensure!(list(&pass).await? == 403);
    // Others' users are not there, and the same with every spelling of the way.
    for path in [
        format!("/api/v1/users/{ann}"),
        format!("/api/v1/users/{ann}/"),
        format!("/api/v1/users/{}", ann.to_uppercase()),
    ] {
        for method in ["GET", "DELETE"] {
            let reply = house.act_as(&bob, method, &path, &Value::Null).await?;
            ensure!(reply.status == 404, "{method} {path}: {reply:?}");
        }
        ensure!(
            house
                .act("GET", &path, &[("X-HTTP-Method-Override", "OPTIONS")])
                .await?
                .status
                == 401,
            "{path}"
        );
        ensure!(house.act("HEAD", &path, &[]).await?.status == 401, "{path}");
    }
    ensure!(
        house
            .act_as(&bob, "DELETE", &format!("/api/v1/users/{ann}/sessions"), &Value::Null)
            .await?
            .status
            == 403
    );
    ensure!(house.calls(&pass).await? == 200);
    house.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_can_tell_nobody_is_let_in() -> Result<()> {
    let server = PrivatePostgres::launch(24_200).await?;
    let stage = Stage::over(TestDatabase::on(PostgresUrl::parse(server.url())?).await?).await?;
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let (pass, left) = (house.login(ANN).await?, house.login(ANN).await?);
    ensure!(house.log_out(&left).await?.status == 204);
    server.kill9().await?;
    for token in [&pass, &left] {
        let bearer = token.bearer();
        let reply = house
            .act("GET", "/api/v1/users/me", &[("Authorization", &bearer)])
            .await?;
        ensure!(
            reply.status == 503 && reply.header("retry-after").is_some(),
            "{reply:?}"
        );
        ensure!(
            !reply.text.contains("postgres") && !reply.text.contains("sql"),
            "{reply:?}"
        );
        ensure!(house.refreshes(&token.refresh).await? == 503);
    }
    ensure!(house.try_login(ANN, PASSWORD, &[]).await?.status == 503);
    server.start().await?;
    wait_until("the database to be back", LIMIT, || async {
        (house.calls(&pass).await.ok()? == 200).then_some(())
    })
    .await?;
    ensure!(house.calls(&left).await? == 401 && house.refreshes(&left.refresh).await? == 401);
    ensure!(
        house.refreshes(&pass.refresh).await? == 200,
        "nobody was logged out by that"
    );
    house.close().await
}
