//! A forgotten password: nothing is learnt by asking, one mail is one use, and whoever was in is out.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use posthaste_testkit::bare_message;

use serde_json::{Value, json};

use crate::house::{House, OTHER_PASSWORD, PASSWORD};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";

on_each_stage!(
    a_new_password_ends_every_session_and_the_token_is_spent,
    of_many_confirmations_one_wins,
    a_later_request_or_a_changed_password_kills_older_tokens,
    no_date_of_a_request_is_believed
);

async fn a_new_password_ends_every_session_and_the_token_is_spent(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let devices = [house.login(ANN).await?, house.login(ANN).await?];
    let token = house.reset_token(ANN, 1).await?;
    ensure!(token.len() == 43);
    let bad = house.confirm_reset(&token, "too short").await?;
    ensure!(bad.status == 422, "{bad:?}");
    let mut off = token.clone().into_bytes();
    off[0] = if off[0] == b'A' { b'B' } else { b'A' };
    let forged = house.confirm_reset(&String::from_utf8(off)?, OTHER_PASSWORD).await?;
    ensure!(forged.status == 400, "{forged:?}");
    let done = house.confirm_reset(&token, OTHER_PASSWORD).await?;
    ensure!(
        done.status == 204 && done.header("set-cookie").is_none(),
        "signed in nowhere: {done:?}"
    );
    let again = house.confirm_reset(&token, PASSWORD).await?;
    ensure!(
        again.status == 400 && again.body["detail"] == forged.body["detail"],
        "{again:?}"
    );
    for device in &devices {
        ensure!(house.calls(device).await? == 401 && house.refreshes(&device.refresh).await? == 401);
    }
    ensure!(house.try_login(ANN, PASSWORD, &[]).await?.status == 401);
    ensure!(house.try_login(ANN, OTHER_PASSWORD, &[]).await?.status == 200);
    ensure!(house.audited("user.password_reset").await? == 1 && house.audited("user.password_reset_asked").await? == 1);
    house.settled().await?;
    let mut notices = 0;
    for entry in std::fs::read_dir(house.mail.path())? {
        notices += usize::from(std::fs::read_to_string(entry?.path())?.contains("Subject: Your password was changed"));
    }
    ensure!(notices == 1, "the owner is told");

    // In time, but not for ever.
    let token = house.reset_token(ANN, 2).await?;
    house.age("reset_tokens", "expires_at", 1801).await?;
    ensure!(house.confirm_reset(&token, PASSWORD).await?.status == 400);
    house.close().await
}

async fn of_many_confirmations_one_wins(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let token = house.reset_token(ANN, 1).await?;
    house.end_windows().await?;
    let many = try_join_all((0..12).map(|_| house.confirm_reset(&token, OTHER_PASSWORD))).await?;
    let won = many.iter().filter(|reply| reply.status == 204).count();
    ensure!(
        won == 1 && many.iter().all(|reply| [204, 400, 503].contains(&reply.status)),
        "{many:?}"
    );
    house.close().await
}

/// A request as somebody who may publish could put it into the queue.
async fn ask_by_queue(house: &House, user: &str, requested_at: &str) -> Result<()> {
    let store = house.service.store();
    let body = json!({"user_id": user, "requested_at": requested_at});
    let message = posthaste::Message {
        topic: "user_password_reset_queue".to_owned(),
        event_type: "user.password_reset.requested".to_owned(),
        body: body.to_string().into_bytes(),
        ..bare_message("user_password_reset_queue", None)
    };
    let mut tx = store.begin().await?;
    posthaste::outbox::append(&mut tx, "accounts", message).await?;
    Ok(tx.commit().await?)
}

async fn no_date_of_a_request_is_believed(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    let id = house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    // A token that a clock ahead of ours has made dies with a change of the password all the same.
    let ahead = posthaste::message::now() + chrono::TimeDelta::seconds(120);
    ask_by_queue(&house, &id, &ahead.to_rfc3339()).await?;
    let link = house.mailed_reset(ANN, 1).await?;
    let change = json!({"current_password": PASSWORD, "new_password": OTHER_PASSWORD});
    let changed = house.act_as(&pass, "PUT", "/api/v1/auth/password", &change).await?;
    ensure!(changed.status == 204, "{changed:?}");
    ensure!(
        house.confirm_reset(&link, PASSWORD).await?.status == 400,
        "an older link"
    );
    // And one of a far future is not the last one that this user ever gets.
    ask_by_queue(&house, &id, "2099-01-01T00:00:00Z").await?;
    house.mailed_reset(ANN, 2).await?;
    let token = house.reset_token(ANN, 3).await?;
    // Nor is a row that an earlier version has let in.
    let store = house.service.store();
    let far = chrono::DateTime::parse_from_rfc3339("2099-01-01T00:00:00Z")?.to_utc();
    let sql = "UPDATE reset_tokens SET requested_at = $1";
    store.execute(sql, vec![store.dialect().time(far)]).await?;
    let newer = house.reset_token(ANN, 4).await?;
    ensure!(
        house.confirm_reset(&token, PASSWORD).await?.status == 400,
        "the older one"
    );
    ensure!(house.confirm_reset(&newer, PASSWORD).await?.status == 204);
    house.close().await
}

async fn a_later_request_or_a_changed_password_kills_older_tokens(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let first = house.reset_token(ANN, 1).await?;
    let second = house.reset_token(ANN, 2).await?;
    ensure!(
        house.confirm_reset(&first, OTHER_PASSWORD).await?.status == 400,
        "the older one"
    );
    // A request that is worked off late, after a later one: it makes no token any more.
    let sql = "UPDATE reset_tokens SET requested_at = $1";
    let store = house.service.store();
    let later = posthaste::message::now() + chrono::TimeDelta::seconds(60);
    store.execute(sql, vec![store.dialect().time(later)]).await?;
    ensure!(house.ask_for_reset(ANN).await?.status == 202);
    house.settled().await?;
    ensure!(house.mailed_reset(ANN, 2).await? == second, "no third mail");
    store
        .execute(sql, vec![store.dialect().time(posthaste::message::now())])
        .await?;
    ensure!(house.confirm_reset(&second, OTHER_PASSWORD).await?.status == 204);
    let pass = crate::house::Pass::of(&house.try_login(ANN, OTHER_PASSWORD, &[]).await?)?;
    let third = house.reset_token(ANN, 3).await?;
    let bob = house.user("bob@example.com").await?;
    let bobs = house.reset_token("bob@example.com", 1).await?;
    ensure!(house.act("DELETE", &format!("/api/v1/users/{bob}"), &[]).await?.status == 200);
    ensure!(
        house.confirm_reset(&bobs, OTHER_PASSWORD).await?.status == 400,
        "nobody has it any more"
    );
    let change = json!({"current_password": OTHER_PASSWORD, "new_password": PASSWORD});
    ensure!(
        house
            .act_as(&pass, "PUT", "/api/v1/auth/password", &change)
            .await?
            .status
            == 204
    );
    ensure!(
        house.confirm_reset(&third, OTHER_PASSWORD).await?.status == 400,
        "a changed password"
    );
    house.close().await
}

#[tokio::test]
async fn asking_tells_nothing_and_floods_no_mailbox() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user(ANN).await?;
    house.unverified_user("bob@example.com").await?;
    let off = house.user("cid@example.com").await?;
    let disable = serde_json::to_vec(&json!({"is_active": false}))?;
    let kind = [("Content-Type", "application/json")];
    ensure!(
        house
            .service
            .send("PUT", &format!("/api/v1/users/{off}"), &kind, disable)
            .await?
            .status
            == 200
    );
    let mut answers = Vec::new();
    for email in [ANN, "nobody@example.com", "bob@example.com", "cid@example.com"] {
        let reply = house.ask_for_reset(email).await?;
        answers.push((
            reply.status,
            reply.text.clone(),
            reply.header("set-cookie").map(str::to_owned),
        ));
    }
    ensure!(
        answers.iter().all(|answer| *answer == (202, String::new(), None)),
        "{answers:?}"
    );
    house.mailed_reset(ANN, 1).await?;
    // Whoever reads the mail has the address: the squatter's password is gone, and the owner is in.
    let token = house.mailed_reset("bob@example.com", 1).await?;
    ensure!(house.confirm_reset(&token, OTHER_PASSWORD).await?.status == 204);
    ensure!(house.try_login("bob@example.com", PASSWORD, &[]).await?.status == 401);
    ensure!(house.try_login("bob@example.com", OTHER_PASSWORD, &[]).await?.status == 200);

    house.end_windows().await?;
    for n in 0..25 {
        let reply = house.ask_for_reset(ANN).await?;
        let wanted = if n < 20 { 202 } else { 429 };
        ensure!(reply.status == wanted, "{n}: {reply:?}");
    }
    house.settled().await?;
    // One before these, five of these at most: of requests that overtake each other the older ones are void.
    let mails = house.reset_mails(ANN)?;
    ensure!((2..=6).contains(&mails), "{mails} mails");
    for body in [
        json!({"email": "no address"}),
        json!({"email": ANN, "x": 1}),
        json!({}),
        Value::Null,
    ] {
        let reply = house.service.post("/api/v1/auth/password-reset", &body).await?;
        ensure!([422, 429].contains(&reply.status), "{reply:?}");
    }
    house.close().await
}

#[tokio::test]
async fn the_link_does_not_come_from_the_request() -> Result<()> {
    let stage = Stage::open().await?;
    let public = ("PUBLIC_URL", "https://accounts.example");
    let open = House::open_with(&stage, &[public]).await?;
    open.user(ANN).await?;
    open.close().await?;
    // Where no tokens are asked for, a request to another host is refused to begin with.
    let house = House::open_with(&stage, &[public, ("POSTHASTE_AUTH", "enforced")]).await?;
    let evil = [
        ("Content-Type", "application/json"),
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "host=evil.example"),
        ("Origin", "https://evil.example"),
    ];
    let body = serde_json::to_vec(&json!({"email": ANN}))?;
    let reply = house
        .service
        .send("POST", "/api/v1/auth/password-reset", &evil, body)
        .await?;
    ensure!(reply.status == 202, "{reply:?}");
    let token = house.mailed_reset(ANN, 1).await?;
    let mut found = false;
    for entry in std::fs::read_dir(house.mail.path())? {
        let text = std::fs::read_to_string(entry?.path())?;
        ensure!(!text.contains("evil"), "{text}");
        found |= text.contains(&format!("https://accounts.example/reset-password#token={token}"));
    }
    ensure!(found);
    house.settled().await?;
    // Neither tokens nor passwords are anywhere in the database.
    let pass = house.login(ANN).await?;
    let everything = posthaste_testkit::dump_database(house.service.store()).await?;
    for secret in [token.as_str(), PASSWORD, &pass.refresh, &pass.access] {
        ensure!(!everything.contains(secret), "the database has {secret}");
    }
    ensure!(everything.contains(ANN), "the search finds what is there");
    house.close().await
}
