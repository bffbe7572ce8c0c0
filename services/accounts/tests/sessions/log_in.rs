//! Signing in: one answer for every failure, and patience that ends.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use posthaste_testkit::Reply;
use serde_json::{Value, json};

use crate::house::{House, NO_BROWSER, OTHER_PASSWORD, PASSWORD, Pass};
use crate::stage::Stage;

/// The client's address is then what `X-Forwarded-For` says.
const BEHIND_PROXY: [(&str, &str); 1] = [("TRUSTED_PROXIES", "127.0.0.1")];

on_each_stage!(
    an_account_is_made_to_wait_and_reset_and_refresh_go_on,
    fifty_guesses_at_once_are_counted_one_by_one
);

#[tokio::test]
async fn every_failure_has_the_same_answer() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user("ann@example.com").await?;
    house.unverified_user("bob@example.com").await?;
    let gone = house.user("cid@example.com").await?;
    let off = house.user("dan@example.com").await?;
    let no_password =
        json!({"email": "eve@example.com", "first_name": "E", "last_name": "E", "bio": "", "is_active": true});
    ensure!(house.service.post("/api/v1/users", &no_password).await?.status == 201);
    ensure!(house.act("DELETE", &format!("/api/v1/users/{gone}"), &[]).await?.status == 200);
    let disable = serde_json::to_vec(&json!({"is_active": false}))?;
    let json_type = [("Content-Type", "application/json")];
    let disabled = house
        .service
        .send("PUT", &format!("/api/v1/users/{off}"), &json_type, disable)
        .await?;
    ensure!(disabled.status == 200, "{disabled:?}");

    let mut bodies: Vec<Value> = Vec::new();
    for (email, password) in [
        ("ann@example.com", OTHER_PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("bob@example.com", PASSWORD),
        ("cid@example.com", PASSWORD),
        ("dan@example.com", PASSWORD),
        ("eve@example.com", ""),
        ("no address", PASSWORD),
        ("ann@example.com", "Plumber otter vivid canal"),
        ("ann@example.com", "plumber otter vivid canal "),
    ] {
        let reply = house.try_login(email, password, &[]).await?;
        ensure!(
            reply.status == 401 && reply.header("set-cookie").is_none(),
            "{email}: {reply:?}"
        );
        bodies.push(anonymous(&reply));
    }
    ensure!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    ensure!(house.audited("user.login_failed").await? == 9, "each is on record");
    house.close().await
}

fn anonymous(reply: &Reply) -> Value {
    let mut body = reply.body.clone();
    body["correlation_id"] = Value::Null;
    body
}

#[tokio::test]
async fn a_login_gives_a_token_in_the_body_and_one_in_the_cookie() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user("Ann@Example.com").await?;
    let chosen = [("Cookie", "refresh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")];
    let reply = house.try_login("ann@EXAMPLE.com", PASSWORD, &chosen).await?;
    let pass = Pass::of(&reply)?;
    ensure!(
        reply.body["token_type"] == "bearer" && reply.body["expires_in"] == 300,
        "{reply:?}"
    );
    ensure!(reply.header("cache-control") == Some("no-store"), "{reply:?}");
    ensure!(
        pass.refresh.len() == 43 && !pass.refresh.starts_with("AAAA"),
        "never one that the client chose"
    );
    ensure!(!reply.text.contains(&pass.refresh), "the refresh token is in no body");
    let set = reply.header("set-cookie").unwrap_or_default();
    ensure!(
        set.contains("; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800"),
        "{set}"
    );
    ensure!(
        !set.contains("Secure") && !set.contains("Domain"),
        "plain HTTP on loopback: {set}"
    );

    // The form of OAuth 2, as /docs sends it.
    let form = b"grant_type=password&username=ann%40example.com&password=plumber+otter+vivid+canal&scope=".to_vec();
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = house.service.send("POST", "/api/v1/auth/login", &kind, form).await?;
    let second = Pass::of(&reply)?;
    ensure!(second.refresh != pass.refresh && second.access != pass.access);
    ensure!(
        house.calls(&pass).await? == 200 && house.calls(&second).await? == 200,
        "two sessions"
    );
    for (form, status) in [
        ("grant_type=client_credentials&username=a&password=b", 422),
        ("username=ann%40example.com", 422),
        ("username=a&username=b&password=c", 422),
        ("username=a%00&password=c", 422),
        ("username=%ff&password=c", 401),
    ] {
        let reply = house
            .service
            .send("POST", "/api/v1/auth/login", &kind, form.into())
            .await?;
        ensure!(reply.status == status, "{form}: {reply:?}");
    }
    for (body, status) in [
        (json!({"email": "ann@example.com"}), 422),
        (
            json!({"email": "ann@example.com", "password": PASSWORD, "role": "admin"}),
            422,
        ),
        (json!({"email": ["ann@example.com"], "password": PASSWORD}), 422),
        (json!({"email": "ann@example.com", "password": "x".repeat(257)}), 422),
        (
            json!({"email": "ann@example.com", "password": "x".repeat(1 << 20)}),
            413,
        ),
        (json!(["ann@example.com", PASSWORD]), 422),
    ] {
        let reply = house.service.post("/api/v1/auth/login", &body).await?;
        ensure!(reply.status == status, "{status}: {}", reply.text);
    }
    house.close().await
}

#[tokio::test]
async fn a_page_of_another_site_signs_nobody_in() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user("ann@example.com").await?;
    for headers in [
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Origin", "null")],
        [("Origin", "https://evil.example")],
    ] {
        let reply = house.try_login("ann@example.com", PASSWORD, &headers).await?;
        ensure!(
            reply.status == 403 && reply.header("set-cookie").is_none(),
            "{headers:?}: {reply:?}"
        );
    }
    let own = house
        .try_login("ann@example.com", PASSWORD, &[("Sec-Fetch-Site", "same-origin")])
        .await?;
    ensure!(own.status == 200, "{own:?}");
    house.close().await
}

async fn an_account_is_made_to_wait_and_reset_and_refresh_go_on(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user("ann@example.com").await?;
    let pass = house.login("ann@example.com").await?;
    let mut answers = Vec::new();
    for email in ["ann@example.com", "nobody@example.com"] {
        for _ in 0..4 {
            ensure!(
                house.try_login(email, OTHER_PASSWORD, &[]).await?.status == 401,
                "{email}"
            );
        }
        // In another spelling: it is one account.
        ensure!(
            house
                .try_login(&email.to_uppercase(), OTHER_PASSWORD, &[])
                .await?
                .status
                == 401,
            "{email}"
        );
        let sixth = house.try_login(email, PASSWORD, &[]).await?;
        ensure!(sixth.status == 429, "even with the right password: {sixth:?}");
        let wait: u64 = sixth.header("retry-after").unwrap_or_default().parse()?;
        ensure!((20..=30).contains(&wait), "{wait}");
        ensure!(
            sixth.header("ratelimit").is_some() && sixth.header("ratelimit-policy").is_some(),
            "{sixth:?}"
        );
        answers.push(anonymous(&sixth));
        // The limit by address would come next.
        house.end_windows().await?;
    }
    ensure!(answers[0] == answers[1], "known and unknown alike: {answers:?}");
    ensure!(house.audited("user.login_locked").await? == 2 && house.audited("user.login_failed").await? == 10);

    // The lock is no weapon: who is signed in stays so, and a new password opens it.
    let pass = Pass::of(&house.refresh(&pass.refresh).await?)?;
    ensure!(house.calls(&pass).await? == 200);
    // Whoever has waited is not forgiven: the next failure doubles the wait.
    house.age("login_attempts", "blocked_until", 31).await?;
    ensure!(house.try_login("ann@example.com", OTHER_PASSWORD, &[]).await?.status == 401);
    let again = house.try_login("ann@example.com", OTHER_PASSWORD, &[]).await?;
    let wait: u64 = again.header("retry-after").unwrap_or_default().parse()?;
    ensure!(again.status == 429 && (50..=60).contains(&wait), "{again:?}");
    // A hundred in a row are the end.
    let store = house.service.store();
    store.execute("UPDATE login_attempts SET in_row = 100", vec![]).await?;
    house.age("login_attempts", "blocked_until", 3600).await?;
    let shut = house.try_login("ann@example.com", PASSWORD, &[]).await?;
    ensure!(
        shut.status == 429 && shut.header("retry-after").is_none(),
        "waiting is of no use: {shut:?}"
    );
    // Strangers do not shut out who is signed in, and the owner is told.
    let change = json!({"current_password": PASSWORD, "new_password": "nineteen wooden anchors"});
    let changed = house.act_as(&pass, "PUT", "/api/v1/auth/password", &change).await?;
    ensure!(changed.status == 204, "{changed:?}");
    house.settled().await?;
    let mut told = 0;
    for entry in std::fs::read_dir(house.mail.path())? {
        told += usize::from(std::fs::read_to_string(entry?.path())?.contains("Subject: Somebody tries to sign in"));
    }
    ensure!(told == 2, "once a day, and the windows were ended in between: {told}");
    let token = house.reset_token("ann@example.com", 1).await?;
    ensure!(house.confirm_reset(&token, OTHER_PASSWORD).await?.status == 204);
    ensure!(
        house.try_login("ann@example.com", OTHER_PASSWORD, &[]).await?.status == 200,
        "a success forgets all"
    );
    house.close().await
}

async fn fifty_guesses_at_once_are_counted_one_by_one(stage: Stage) -> Result<()> {
    let house = House::open_with(&stage, &BEHIND_PROXY).await?;
    house.user("ann@example.com").await?;
    let addresses: Vec<String> = (0..50).map(|n| format!("192.0.2.{n}")).collect();
    let guesses = addresses.iter().map(|address| async {
        let headers = [("X-Forwarded-For", address.as_str())];
        house.try_login("ann@example.com", OTHER_PASSWORD, &headers).await
    });
    let replies = try_join_all(guesses).await?;
    let count = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    // 503: the database or the hashing was too busy; nothing was checked then.
    ensure!(
        count(401) <= 5 && count(429) > 0,
        "{} {} {}",
        count(401),
        count(429),
        count(503)
    );
    ensure!(count(401) + count(429) + count(503) == 50, "nothing else");
    house.close().await
}

#[tokio::test]
async fn one_address_tries_only_so_often() -> Result<()> {
    let house = House::alone(&BEHIND_PROXY).await?;
    // Spraying: another account each time, so that only the address is the same.
    let spray = async |n: usize, address: &str| -> Result<u16> {
        let headers = [("X-Forwarded-For", address)];
        let reply = house
            .try_login(&format!("user{n}@example.com"), PASSWORD, &headers)
            .await?;
        ensure!(
            reply.status != 429 || reply.header("retry-after").is_some(),
            "{reply:?}"
        );
        Ok(reply.status)
    };
    for n in 0..10 {
        ensure!(spray(n, "192.0.2.1").await? == 401, "{n}");
    }
    ensure!(
        spray(10, "192.0.2.1").await? == 429,
        "the eleventh failure within a minute"
    );
    ensure!(spray(11, "192.0.2.2").await? == 401, "others are not concerned");
    // What stands further left was made up by the client.
    ensure!(spray(12, "198.51.100.7, 192.0.2.1").await? == 429);
    // One network has all addresses of it.
    for n in 0..10 {
        ensure!(spray(20 + n, &format!("2001:db8:1:2::{n:x}")).await? == 401, "{n}");
    }
    ensure!(spray(30, "2001:db8:1:2:ffff::1").await? == 429);
    ensure!(spray(31, "2001:db8:1:3::1").await? == 401);
    house.close().await?;

    // Without a trusted proxy the header says nothing.
    let house = House::alone(&[]).await?;
    let mut last = 0;
    for n in 0..40 {
        let address = format!("192.0.2.{n}");
        let headers = [
            ("X-Forwarded-For", address.as_str()),
            ("Forwarded", "for=192.0.2.9"),
            ("X-Real-IP", &address),
        ];
        last = house
            .try_login(&format!("user{n}@example.com"), PASSWORD, &headers)
            .await?
            .status;
        ensure!([401, 429].contains(&last), "{last}");
    }
    ensure!(last == 429);
    house.close().await
}

#[tokio::test]
async fn a_stolen_access_token_is_no_way_around_the_patience() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user("ann@example.com").await?;
    let pass = house.login("ann@example.com").await?;
    let elsewhere = house.login("ann@example.com").await?;
    let change = |current: &str, new: &str| json!({"current_password": current, "new_password": new});
    let put = async |body: Value| house.act_as(&pass, "PUT", "/api/v1/auth/password", &body).await;
    for (body, status) in [
        (change(PASSWORD, "short"), 422),
        (change(PASSWORD, "ann@example.com and more"), 204),
        (change(PASSWORD, OTHER_PASSWORD), 401),
    ] {
        // A short local part gives nothing away, so the second one is taken and PASSWORD is right no more.
        let reply = put(body).await?;
        ensure!(reply.status == status, "{status}: {reply:?}");
    }
    ensure!(house.calls(&pass).await? == 200, "the session that changed it goes on");
    ensure!(house.calls(&elsewhere).await? == 401 && house.refreshes(&elsewhere.refresh).await? == 401);
    ensure!(
        house.try_login("ann@example.com", PASSWORD, &[]).await?.status == 401,
        "the old one"
    );
    for _ in 0..4 {
        ensure!(put(change(PASSWORD, OTHER_PASSWORD)).await?.status == 401);
    }
    ensure!(
        put(change(PASSWORD, OTHER_PASSWORD)).await?.status == 429,
        "the sixth failure"
    );
    ensure!(house.audited("user.password_changed").await? == 1);
    let nobody = json!({"current_password": PASSWORD, "new_password": OTHER_PASSWORD});
    let headers = [("Content-Type", "application/json"), NO_BROWSER];
    let reply = house
        .service
        .send("PUT", "/api/v1/auth/password", &headers, serde_json::to_vec(&nobody)?)
        .await?;
    ensure!(reply.status == 401, "{reply:?}");
    house.close().await
}

#[tokio::test]
async fn a_weaker_hash_is_made_again_at_the_next_login() -> Result<()> {
    let stage = Stage::open().await?;
    let house = House::open(&stage).await?;
    house.user("ann@example.com").await?;
    house.close().await?;
    let house = House::open_with(&stage, &[("PASSWORD_HASH_PASSES", "3")]).await?;
    let hashes = async |prefix: &str| {
        let sql = "SELECT COUNT(*) AS n FROM users WHERE password_hash LIKE $1";
        house.number(sql, &format!("{prefix}%")).await
    };
    ensure!(hashes("$argon2id$v=19$m=19456,t=2,p=1$").await? == 1);
    let wrong = house.try_login("ann@example.com", OTHER_PASSWORD, &[]).await?;
    ensure!(
        wrong.status == 401 && hashes("$argon2id$v=19$m=19456,t=2,p=1$").await? == 1,
        "{wrong:?}"
    );
    house.login("ann@example.com").await?;
    ensure!(hashes("$argon2id$v=19$m=19456,t=3,p=1$").await? == 1);
    house.login("ann@example.com").await?;
    house.close().await?;
    stage.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_leaves_room_for_others() -> Result<()> {
    let house = House::alone(&[BEHIND_PROXY[0], ("PASSWORD_HASH_PASSES", "8")]).await?;
    let long = "x".repeat(256);
    let addresses: Vec<String> = (0..500).map(|n| format!("10.1.{}.{}", n / 100, n % 100)).collect();
    let flood = addresses.iter().enumerate().map(|(n, address)| {
        let (house, long) = (&house, &long);
        async move {
            let headers = [("X-Forwarded-For", address.as_str())];
            house.try_login(&format!("user{n}@example.com"), long, &headers).await
        }
    });
    let probe = async {
        let mut slowest = std::time::Duration::ZERO;
        for _ in 0..20 {
            let started = std::time::Instant::now();
            ensure!(house.service.get("/livez").await?.status == 200);
            slowest = slowest.max(started.elapsed());
        }
        Ok(slowest)
    };
    let (replies, slowest) = tokio::join!(try_join_all(flood), probe);
    let replies = replies?;
    let count = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    ensure!(
        count(401) + count(429) + count(503) == 500 && count(503) > 0,
        "{} {}",
        count(401),
        count(503)
    );
    // Generous: other tests are on the same cores.
    ensure!(
        slowest? < std::time::Duration::from_secs(10),
        "others are answered meanwhile"
    );
    house.close().await
}
