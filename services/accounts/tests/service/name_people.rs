//! Names and addresses as keyboards and languages make them.

use anyhow::{Context, Result};
use serde_json::json;

use crate::mailbox::{Accounts, PASSWORD};
use crate::manage_users::{USERS, put};
use crate::stage::Stage;

/// Alireza, written with the non-joiner that Persian has between these letters.
const ALIREZA: &str = "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627}";
/// Shri, whose conjunct needs a joiner in Sinhala.
const SHRI: &str = "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_every_language_are_taken_and_keep_no_blanks() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    for (n, (name, kept)) in [
        (ALIREZA, ALIREZA),
        (SHRI, SHRI),
        (" Ann\u{a0}", "Ann"),
        ("Mary Jane ", "Mary Jane"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = json!({"email": format!("m{n}@example.com"), "first_name": name, "last_name": name});
        let made = accounts.service.post(USERS, &body).await?;
        assert_eq!(made.status, 201, "{made:?}");
        let data = &made.body["data"];
        assert_eq!(
            (&data["first_name"], &data["full_name"]),
            (&json!(kept), &json!(format!("{kept} {kept}")))
        );
        let path = format!("{USERS}/{}", data["id"].as_str().context("an id")?);
        let changed = put(&accounts, &path, &json!({"first_name": format!(" {name} ")}), &[]).await?;
        assert_eq!(
            (changed.status, &changed.body["data"]["first_name"]),
            (200, &json!(kept)),
            "{changed:?}"
        );
        for (door, status) in [("/signup", 201), ("/api/v1/auth/register", 202)] {
            let email = format!("{status}-{n}@example.com");
            let body = json!({"email": email, "first_name": name, "last_name": name, "password": PASSWORD});
            let reply = accounts.service.post(door, &body).await?;
            assert_eq!(reply.status, status, "{reply:?}");
            accounts.mail_to(&email, 1).await?;
            let read = accounts.service.get(&format!("{USERS}/email/{email}")).await?;
            assert_eq!(read.body["data"]["last_name"], kept, "{read:?}");
        }
    }
    // Where no language has one, a joiner only makes two names look alike.
    for name in ["A\u{200c}nn", "Ann\u{200d}", "\u{200c}", "\u{1f468}\u{200d}\u{1f469}"] {
        let body = json!({"email": "x@example.com", "first_name": name, "last_name": "Lee"});
        let refused = accounts.service.post(USERS, &body).await?;
        assert_eq!(refused.status, 422, "{name:?}: {refused:?}");
    }
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blanks_around_an_address_are_no_part_of_it() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    assert_eq!(accounts.sign_up(" ann@example.com ").await?.status, 201);
    let mail = accounts.mail_to("ann@example.com", 1).await?;
    let token = json!({"token": mail.token()?});
    assert_eq!(service.post("/api/v1/auth/verify-email", &token).await?.status, 204);
    let login = json!({"email": "ann@example.com ", "password": PASSWORD});
    let reply = service.post("/api/v1/auth/login", &login).await?;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reset = json!({"email": "\u{3000}ann@example.com"});
    assert_eq!(service.post("/api/v1/auth/password-reset", &reset).await?.status, 202);
    accounts.mail_to("ann@example.com", 2).await?;
    let read = service.get(&format!("{USERS}/email/ann@example.com%20")).await?;
    assert_eq!(read.status, 200, "{read:?}");
    let again = accounts.sign_up("ann@example.com ").await?;
    assert_eq!(again.status, 409, "{again:?}");
    accounts.stop().await
}
