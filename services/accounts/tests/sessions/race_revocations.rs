//! A refresh, or a login, at the same moment as that which ends it, at two instances: whatever comes first, nothing that
//! works is left once the end was answered.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use posthaste::message::now;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::house::{House, NO_BROWSER, PASSWORD, Pass};
use crate::stage::{Stack, Stage};

const ANN: &str = "ann@example.com";

fn token() -> String {
    let bytes = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hash_of(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Begins a session as a login does, but for the time that a password takes. Answers its refresh token.
async fn begin(house: &House, user: &str) -> Result<String> {
    let (store, id, token) = (house.service.store(), Uuid::now_v7(), token());
    let dialect = store.dialect();
    let (at, end) = (dialect.time(now()), dialect.time(now() + TimeDelta::hours(1)));
    let sql = "INSERT INTO sessions (id, user_id, generation, rotated_at, grace_hits, idle_until, absolute_until, \
        created_at, last_used_at) VALUES ($1, $2, 1, $3, 0, $4, $5, $6, $7)";
    let values = vec![
        dialect.uuid(id),
        dialect.uuid(user.parse()?),
        at.clone(),
        end.clone(),
        end,
        at.clone(),
        at,
    ];
    store.execute(sql, values).await?;
    let sql = "INSERT INTO refresh_tokens (token_hash, session_id, generation) VALUES ($1, $2, 1)";
    store
        .execute(sql, vec![hash_of(&token).into(), dialect.uuid(id)])
        .await?;
    Ok(token)
}

/// What the mail about a forgotten password would hold.
async fn reset_token(house: &House, user: &str) -> Result<String> {
    let (store, token) = (house.service.store(), token());
    let dialect = store.dialect();
    let id = dialect.uuid(user.parse()?);
    store
        .execute("DELETE FROM reset_tokens WHERE user_id = $1", vec![id.clone()])
        .await?;
    let sql = "INSERT INTO reset_tokens (user_id, token_hash, requested_at, expires_at) VALUES ($1, $2, $3, $4)";
    let end = dialect.time(now() + TimeDelta::minutes(30));
    store
        .execute(sql, vec![id, hash_of(&token).into(), dialect.time(now()), end])
        .await?;
    Ok(token)
}

#[derive(Clone, Copy, Debug)]
enum End {
    Logout,
    Everywhere,
    Reset,
    Disabled,
}

/// Ends what `refresh` belongs to; `true` where it was answered that it has ended.
async fn end(house: &House, end: End, user: &str, refresh: &str, pass: Option<&Pass>) -> Result<bool> {
    let reply = match end {
        End::Logout => {
            let cookie = format!("refresh={refresh}");
            let headers = [("Cookie", cookie.as_str()), NO_BROWSER];
            house.act("POST", "/api/v1/auth/logout", &headers).await?
        }
        End::Everywhere => {
            let pass = pass.context("a token")?;
            house
                .act_as(pass, "POST", "/api/v1/auth/logout-all", &Value::Null)
                .await?
        }
        End::Reset => house.confirm_reset(&reset_token(house, user).await?, PASSWORD).await?,
        End::Disabled => {
            let off = json!({"is_active": false}).to_string().into_bytes();
            let kind = [("Content-Type", "application/json")];
            house
                .service
                .send("PUT", &format!("/api/v1/users/{user}"), &kind, off)
                .await?
        }
    };
    // Whoever found no core in time has ended nothing.
    ensure!([200, 204, 503].contains(&reply.status), "{reply:?}");
    Ok(reply.status != 503)
}

/// Each way to end a session is tried often enough to come first and to come last.
const ROUNDS: u32 = match crate::STACK {
    Stack::Embedded => 300,
    Stack::Servers => 200,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_refreshes_in_a_race_none_outlives_its_session() -> Result<()> {
    let stage = Stage::open().await?;
    let (one, two) = (House::open(&stage).await?, House::open(&stage).await?);
    let user = one.user(ANN).await?;
    let mut won = 0;
    for round in 0..ROUNDS {
        let how = match round % 100 {
            0 | 50 => End::Reset,
            1 | 51 => End::Disabled,
            n if n % 2 == 0 => End::Logout,
            _ => End::Everywhere,
        };
        let mut refresh = begin(&one, &user).await?;
        let mut pass = None;
        if matches!(how, End::Everywhere) {
            let now = Pass::of(&two.refresh(&refresh).await?)?;
            refresh.clone_from(&now.refresh);
            pass = Some(now);
        }
        let race = tokio::join!(end(&one, how, &user, &refresh, pass.as_ref()), two.refresh(&refresh));
        let (ended, refreshed) = (race.0?, race.1?);
        if ended && refreshed.status == 200 {
            won += 1;
            let left = Pass::of(&refreshed)?;
            for house in [&one, &two] {
                ensure!(
                    house.calls(&left).await? == 401,
                    "{round}: {how:?} left an access token"
                );
            }
            ensure!(
                two.refreshes(&left.refresh).await? == 401,
                "{round}: {how:?} left a cookie"
            );
        } else {
            // 503: one that waited too long for the database has refreshed nothing.
            ensure!(
                !ended || [401, 503].contains(&refreshed.status),
                "{round}: {how:?}: {refreshed:?}"
            );
        }
        if matches!(how, End::Disabled) {
            let on = json!({"is_active": true}).to_string().into_bytes();
            let kind = [("Content-Type", "application/json")];
            let path = format!("/api/v1/users/{user}");
            ensure!(one.service.send("PUT", &path, &kind, on).await?.status == 200);
        }
        if matches!(how, End::Reset) {
            one.end_windows().await?;
        }
    }
    ensure!(
        (1..ROUNDS).contains(&won),
        "{won} of {ROUNDS} refreshes came first: that was no race"
    );
    one.close().await?;
    two.close().await?;
    stage.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_deleted_while_signing_in_is_not_in() -> Result<()> {
    let stage = Stage::open().await?;
    let (one, two) = (House::open(&stage).await?, House::open(&stage).await?);
    for round in 0..10 {
        let email = format!("ann{round}@example.com");
        let user = one.user(&email).await?;
        let refresh = begin(&one, &user).await?;
        let path = format!("/api/v1/users/{user}");
        let (gone, login, refreshed) = tokio::join!(
            one.act("DELETE", &path, &[]),
            two.try_login(&email, PASSWORD, &[]),
            two.refresh(&refresh)
        );
        ensure!(gone?.status == 200);
        for reply in [login?, refreshed?] {
            ensure!([200, 401, 503].contains(&reply.status), "{round}: {reply:?}");
            if reply.status == 200 {
                let left = Pass::of(&reply)?;
                ensure!(
                    one.calls(&left).await? == 401 && two.calls(&left).await? == 401,
                    "{round}"
                );
                ensure!(one.refreshes(&left.refresh).await? == 401, "{round}");
            }
        }
        ensure!(one.try_login(&email, PASSWORD, &[]).await?.status == 401, "{round}");
        one.end_windows().await?;
    }
    one.close().await?;
    two.close().await?;
    stage.finish().await
}
