//! What is left of a user who was deleted: nothing that says who it was.

use anyhow::{Context, Result};
use posthaste_testkit::{dump_database, wait_until};
use serde_json::json;

use crate::mailbox::{Accounts, LIMIT, PASSWORD};
use crate::manage_users::USERS;
use crate::stage::Stage;

on_each_stage!(no_table_says_who_a_deleted_user_was);

const EMAIL: &str = "whoisthis@example.com";
/// As it stands in messages and rows; nothing else is called so.
const TRACES: [&str; 3] = ["whoisthis", "Zebulon", "Quackenbush"];

async fn no_table_says_who_a_deleted_user_was(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let signup = json!({"email": EMAIL, "first_name": "Zebulon", "last_name": "Quackenbush", "password": PASSWORD});
    let reply = service.post("/signup", &signup).await?;
    let id = reply.body["user_id"].as_str().context("an id")?.to_owned();
    let token = json!({"token": accounts.mail_to(EMAIL, 1).await?.token()?});
    assert_eq!(service.post("/api/v1/auth/verify-email", &token).await?.status, 204);
    let login = json!({"email": EMAIL, "password": PASSWORD});
    let agent = [("User-Agent", "Quackenbush's own browser")];
    assert_eq!(
        service.post_with("/api/v1/auth/login", &login, &agent).await?.status,
        200
    );
    let forgotten = json!({"email": EMAIL});
    assert_eq!(
        service.post("/api/v1/auth/password-reset", &forgotten).await?.status,
        202
    );
    assert_eq!(service.post("/api/v1/auth/register", &signup).await?.status, 202);
    let path = format!("{USERS}/{id}");
    let change = json!({"bio": "Zebulon was here"}).to_string().into_bytes();
    let json = [("Content-Type", "application/json")];
    assert_eq!(service.send("PUT", &path, &json, change).await?.status, 200);
    accounts.settled().await?;
    let before = dump_database(service.store()).await?;
    assert!(
        TRACES.iter().all(|trace| before.contains(trace)),
        "what is looked for was there"
    );

    assert_eq!(service.send("DELETE", &path, &[], Vec::new()).await?.status, 200);
    accounts.settled().await?;
    // A worker does the rest, at its start and every minute.
    accounts.stop().await?;
    let accounts = Accounts::start(&stage).await?;
    let store = accounts.service.store();
    wait_until("the messages to be blanked", LIMIT, || async {
        let sql = "SELECT id FROM users WHERE erased_at IS NOT NULL";
        (store.query(sql, vec![]).await.ok()?.len() == 1).then_some(())
    })
    .await?;
    let after = dump_database(store).await?;
    for line in after.lines().filter(|line| !line.starts_with("audit_events")) {
        assert!(!TRACES.iter().any(|trace| line.contains(trace)), "{line}");
    }
    // Records are kept for their time, without an address or a name.
    assert!(
        !after.contains("whoisthis") && !after.contains("Zebulon"),
        "in the records"
    );
    accounts.stop().await
}
