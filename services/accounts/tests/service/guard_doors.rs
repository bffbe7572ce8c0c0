//! Who may do what where the guard is not open.

use anyhow::{Context, Result};
use posthaste_testkit::Reply;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::mailbox::{Accounts, PASSWORD};
use crate::manage_users::{USERS, user};
use crate::stage::Stage;

on_each_stage!(
    management_is_for_administrators_and_the_user_itself,
    strangers_see_nothing_of_a_sign_up,
);

pub async fn guarded(stage: &Stage) -> Result<Accounts> {
    Accounts::start_with(stage, &[("POSTHASTE_AUTH", "enforced")]).await
}

/// Somebody with an account: the id and an access token.
pub async fn enter(accounts: &Accounts, email: &str, role: &str) -> Result<(String, String)> {
    let signed_up = accounts.sign_up(email).await?;
    let id = signed_up.body["user_id"].as_str().context("an id")?.to_owned();
    // The worker has the row under a lock, and this is no transaction that is tried again.
    accounts.settled().await?;
    let store = accounts.service.store();
    let sql = "UPDATE users SET verification_state = 'VERIFIED', role = $2 WHERE id = $1";
    let values = vec![store.dialect().uuid(id.parse()?), role.into()];
    assert_eq!(store.execute(sql, values).await?, 1);
    let login = json!({"email": email, "password": PASSWORD});
    let reply = accounts.service.post("/api/v1/auth/login", &login).await?;
    Ok((id, reply.body["access_token"].as_str().context("a token")?.to_owned()))
}

async fn ask(
    accounts: &Accounts,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Reply> {
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut headers = Vec::new();
    if token.is_some() {
        headers.push(("Authorization", bearer.as_str()));
    }
    if body.is_some() {
        headers.push(("Content-Type", "application/json"));
    }
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    accounts.service.send(method, path, &headers, body).await
}

async fn management_is_for_administrators_and_the_user_itself(stage: Stage) -> Result<()> {
    let accounts = guarded(&stage).await?;
    let (ann_id, ann) = enter(&accounts, "ann@example.com", "user").await?;
    let (_, bob) = enter(&accounts, "bob@example.com", "user").await?;
    let (_, admin) = enter(&accounts, "admin@example.com", "admin").await?;
    let anns = format!("{USERS}/{ann_id}");
    let change = json!({"first_name": "Eve"});
    let new = user("new@example.com");
    let doors: [(&str, &str, Option<&Value>, u16, u16); 6] = [
        // What another user and what the user itself is answered.
        ("POST", USERS, Some(&new), 403, 403),
        ("GET", USERS, None, 403, 403),
        ("GET", &anns, None, 404, 200),
        ("GET", &format!("{USERS}/email/ann@example.com"), None, 404, 200),
        ("PUT", &anns, Some(&change), 404, 200),
        ("DELETE", &anns, None, 404, 200),
    ];
    for (method, path, body, others, own) in doors {
        for trick in [path.to_owned(), format!("{path}/")] {
            for (token, status) in [(None, 401), (Some("forged"), 401), (Some(bob.as_str()), others)] {
                let reply = ask(&accounts, token, method, &trick, body).await?;
                assert_eq!(reply.status, status, "{token:?} {method} {trick}: {reply:?}");
                assert!(!reply.text.contains("ann@"), "{reply:?}");
            }
        }
        if method != "DELETE" {
            let reply = ask(&accounts, Some(&ann), method, path, body).await?;
            assert_eq!(reply.status, own, "{method} {path}: {reply:?}");
        }
    }
    // Somebody else and nobody look alike.
    let other = ask(&accounts, Some(&bob), "GET", &anns, None).await?;
    let nobody = ask(
        &accounts,
        Some(&bob),
        "GET",
        &format!("{USERS}/{}", Uuid::now_v7()),
        None,
    )
    .await?;
    let kind = |reply: &Reply| (reply.status, reply.body["title"].clone(), reply.body["detail"].clone());
    assert_eq!(kind(&other), kind(&nobody));
    // Nobody makes itself more than it is.
    let more = json!({"role": "admin"});
    assert_eq!(ask(&accounts, Some(&ann), "PUT", &anns, Some(&more)).await?.status, 422);
    assert_eq!(accounts.service.count("users WHERE role <> 'user'").await?, 1);

    // A stolen token shuts nobody out.
    let off = json!({"is_active": false});
    assert_eq!(ask(&accounts, Some(&ann), "PUT", &anns, Some(&off)).await?.status, 403);
    assert_eq!(
        ask(&accounts, Some(&ann), "GET", &anns, None).await?.body["data"]["is_active"],
        true
    );

    let made = ask(&accounts, Some(&admin), "POST", USERS, Some(&new)).await?;
    assert_eq!(made.status, 201, "{made:?}");
    let all = ask(&accounts, Some(&admin), "GET", USERS, None).await?;
    assert_eq!((all.status, &all.body["total"]), (200, &json!(4)), "{all:?}");
    assert_eq!(ask(&accounts, Some(&ann), "DELETE", &anns, None).await?.status, 200);
    let told = format!("audit_events WHERE action = 'user.delete' AND actor = '{ann_id}'");
    assert_eq!(accounts.service.count(&told).await?, 1);
    assert_eq!(
        ask(&accounts, Some(&ann), "GET", &anns, None).await?.status,
        401,
        "deleted"
    );
    accounts.stop().await
}

async fn strangers_see_nothing_of_a_sign_up(stage: Stage) -> Result<()> {
    let accounts = guarded(&stage).await?;
    let (_, other) = enter(&accounts, "other@example.com", "user").await?;
    let (_, admin) = enter(&accounts, "admin@example.com", "admin").await?;
    let reply = accounts.sign_up("ann@example.com").await?;
    let id = reply.body["user_id"].as_str().context("an id")?.to_owned();
    let path = format!("/users/{id}");
    for (token, seen) in [(None, 401), (Some(other.as_str()), 404)] {
        let reply = ask(&accounts, token, "GET", &path, None).await?;
        assert_eq!(reply.status, seen, "{reply:?}");
        assert!(!reply.text.contains("PENDING"), "{reply:?}");
        // Without the mail's token nobody but an administrator confirms it.
        assert_eq!(ask(&accounts, token, "PUT", &path, None).await?.status, 401);
        let wrong = json!({"token": "x".repeat(43)});
        assert_eq!(ask(&accounts, token, "PUT", &path, Some(&wrong)).await?.status, 401);
    }
    let reply = ask(&accounts, Some(&admin), "GET", &path, None).await?;
    assert_eq!(reply.body["email"], "ann@example.com", "{reply:?}");
    // A verification token is no access token.
    let mail = accounts.mail_to("ann@example.com", 1).await?.token()?;
    assert_eq!(ask(&accounts, Some(&mail), "GET", &path, None).await?.status, 401);
    let right = ask(&accounts, None, "PUT", &path, Some(&json!({"token": mail}))).await?;
    assert_eq!(
        (right.status, &right.body["message"]),
        (200, &json!("User verified successfully")),
        "{right:?}"
    );
    let login = json!({"email": "ann@example.com", "password": PASSWORD});
    let login = accounts.service.post("/api/v1/auth/login", &login).await?;
    let own = login.body["access_token"].as_str().context("a token")?;
    let reply = ask(&accounts, Some(own), "GET", &path, None).await?;
    assert_eq!(reply.body["email"], "ann@example.com", "{reply:?}");
    let again = ask(&accounts, Some(&admin), "PUT", &path, None).await?;
    assert_eq!(
        (again.status, &again.body["message"]),
        (200, &json!("User already verified")),
        "{again:?}"
    );

    let reply = accounts.sign_up("bob@example.com").await?;
    let path = format!("/users/{}", reply.body["user_id"].as_str().context("an id")?);
    let by_admin = ask(&accounts, Some(&admin), "PUT", &path, None).await?;
    assert_eq!(
        (by_admin.status, &by_admin.body["message"]),
        (200, &json!("User verified successfully"))
    );
    accounts.stop().await
}
