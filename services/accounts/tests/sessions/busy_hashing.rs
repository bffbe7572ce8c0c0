//! A right password is none the worse for there being no turn to hash.

use std::num::NonZero;

use anyhow::{Result, bail, ensure};
use futures_util::future::join_all;
use posthaste_testkit::{Reply, wait_until};
use serde_json::json;

use crate::house::{House, LIMIT, OTHER_PASSWORD, PASSWORD};
use crate::stage::Stage;

/// Passes of the users' hashes: time enough for others to queue while one is checked.
const OLD: &str = "50";
/// Passes of new ones: whoever queues behind such a hash gets no turn in time.
const NEW: &str = "500";
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_is_no_failure_when_its_new_hash_gets_no_turn() -> Result<()> {
    for _ in 0..ROUNDS {
        if nobody_had_a_turn().await? {
            return Ok(());
        }
    }
    bail!("in each of {ROUNDS} rounds a new hash had its turn")
}

/// `false`: the machine was so busy with other things that a new hash had its turn, which says nothing.
async fn nobody_had_a_turn() -> Result<bool> {
    let stage = Stage::open().await?;
    let house = House::open_with(&stage, &[("PASSWORD_HASH_PASSES", OLD)]).await?;
    for email in ["ann@example.com", "bob@example.com"] {
        house.user(email).await?;
    }
    let bob = house.login("bob@example.com").await?;
    let guess = json!({"current_password": OTHER_PASSWORD, "new_password": OTHER_PASSWORD});
    let guessed = || house.act_as(&bob, "PUT", "/api/v1/auth/password", &guess);
    for _ in 0..4 {
        ensure!(house.try_login("ann@example.com", OTHER_PASSWORD, &[]).await?.status == 401);
        ensure!(guessed().await?.status == 401);
    }
    house.close().await?;

    let house = House::open_with(&stage, &[("PASSWORD_HASH_PASSES", NEW)]).await?;
    let service = &house.service;
    let flood = async {
        wait_until("both to be tried", LIMIT, || async {
            (service.count("login_attempts WHERE failures = 5").await.ok()? == 2).then_some(())
        })
        .await?;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let bodies: Vec<_> = (0..2 * cores)
            .map(|n| {
                let email = format!("user{n}@example.com");
                json!({"email": email, "first_name": "U", "last_name": "N", "password": PASSWORD})
            })
            .collect();
        // On a busy machine a check may outlast a wait in the queue: whoever is sent away queues once more.
        let replies = join_all(bodies.iter().map(|body| async move {
            let mut replies = Vec::new();
            while replies.len() < 2 && replies.last().is_none_or(|reply: &Reply| reply.status == 503) {
                replies.push(service.post("/signup", body).await?);
            }
            anyhow::Ok(replies)
        }))
        .await;
        let replies = replies.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(replies.into_iter().flatten().collect::<Vec<_>>())
    };
    let change = json!({"current_password": PASSWORD, "new_password": OTHER_PASSWORD});
    let (ann, changed, flood) = tokio::try_join!(
        house.try_login("ann@example.com", PASSWORD, &[]),
        house.act_as(&bob, "PUT", "/api/v1/auth/password", &change),
        flood
    )?;
    let kept = format!("users WHERE password_hash LIKE '%,t={OLD},%'");
    if service.count(&kept).await? != 2 {
        house.close().await?;
        stage.finish().await?;
        return Ok(false);
    }
    ensure!(flood.iter().any(|reply| reply.status == 503), "{flood:?}");
    ensure!(ann.status == 200, "{ann:?}");
    ensure!(
        changed.status == 503 && changed.header("retry-after").is_some(),
        "{changed:?}"
    );
    // Its four failures are what they were, and it need not wait.
    let bobs = "login_attempts WHERE failures = 4 AND in_row = 4 AND blocked_until <= last_at";
    let (bobs, all) = (service.count(bobs).await?, service.count("login_attempts").await?);
    ensure!(bobs == 1 && all == 1, "{bobs} of {all} as they were");
    let wrong = wait_until("a turn", LIMIT, || async {
        let reply = house.act_as(&bob, "PUT", "/api/v1/auth/password", &guess).await.ok()?;
        (reply.status != 503).then_some(reply)
    })
    .await?;
    ensure!(wrong.status == 401, "looked at: {wrong:?}");
    house.close().await?;
    stage.finish().await?;
    Ok(true)
}
