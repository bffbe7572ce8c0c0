//! Nothing that breaks a rule is taken in, and the answer says what is wrong without anybody's inside.

use anyhow::{Context, Result};

use serde_json::{Value, json};

use crate::mailbox::{Accounts, PASSWORD, signup};
use crate::manage_users::{USERS, put, user};
use crate::stage::Stage;

on_each_stage!(
    bad_sign_ups_are_refused_and_leave_nothing,
    bad_users_are_refused_and_leave_nothing,
    bad_paths_and_pages_are_refused,
);

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Members that no account may have, whatever else is right.
fn bad_members() -> Vec<(&'static str, Value)> {
    let mut members = vec![
        ("email", Value::Null),
        ("email", json!(7)),
        ("email", json!("")),
        ("email", json!("ann")),
        ("email", json!("ann@localhost")),
        ("email", json!("ann@example.com\r\nBcc: eve@example.com")),
        ("email", json!("ann\0@example.com")),
        ("email", json!("\u{202e}ann@example.com")),
        ("email", json!("m\u{131}ke@example.com")),
        ("email", json!(format!("{}@example.com", "a".repeat(65)))),
        ("first_name", Value::Null),
        ("first_name", json!("")),
        ("first_name", json!("   ")),
        ("first_name", json!("x".repeat(101))),
        ("first_name", json!("a\0b")),
        ("first_name", json!("a\nb")),
        ("first_name", json!("a\u{202e}b")),
        ("last_name", json!(["Lee"])),
        ("last_name", json!("a\u{85}b")),
    ];
    for unknown in [
        "role",
        "is_admin",
        "is_superuser",
        "id",
        "user_id",
        "verification_state",
        "password_hash",
        "created_at",
        "__proto__",
    ] {
        members.push((unknown, json!("admin")));
    }
    members
}

fn bad_passwords() -> Vec<(Value, &'static str)> {
    vec![
        (Value::Null, "type"),
        (json!(123_456_789_012_345_u64), "type"),
        (json!("fourteen chars"), "too_short"),
        (json!("x9".repeat(129)), "too_long"),
        (json!("passwordpassword"), "password_blocked"),
        (json!("123456789012345"), "password_blocked"),
        (json!("Qwertyuiop123456"), "password_blocked"),
        (json!("xx-ann.the.otter-xx"), "password_similar"),
        (json!("my posthaste door"), "password_similar"),
    ]
}

/// Bodies that are no object of members.
fn bad_bodies() -> Vec<(u16, Vec<u8>)> {
    vec![
        (400, Vec::new()),
        (400, br#"{"email":"ann@exam"#.to_vec()),
        (400, b"{'email':'ann@example.com'}".to_vec()),
        (400, [b"{\"email\":\"".to_vec(), vec![0xff], b"\"}".to_vec()].concat()),
        (422, b"null".to_vec()),
        (
            422,
            br#"["ann@example.com","Ann","Lee","plumber otter vivid canal"]"#.to_vec(),
        ),
        (
            422,
            br#"{"email":"ann@example.com","email":"bob@example.com"}"#.to_vec(),
        ),
        (422, b"{}".to_vec()),
        (413, vec![b' '; 70_000]),
    ]
}

async fn bad_sign_ups_are_refused_and_leave_nothing(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    for path in ["/signup", "/api/v1/auth/register"] {
        for (member, value) in bad_members() {
            let mut body = signup("ann.the.otter@example.com");
            body[member] = value.clone();
            let reply = service.post(path, &body).await?;
            assert_eq!(reply.status, 422, "{path} {member}={value}: {reply:?}");
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            let pointer = reply.body["errors"][0]["pointer"].as_str().context("a pointer")?;
            assert!(pointer.ends_with(member), "{member}={value}: {reply:?}");
        }
        for (password, kind) in bad_passwords() {
            let mut body = signup("ann.the.otter@example.com");
            body["password"] = password.clone();
            let reply = service.post(path, &body).await?;
            assert_eq!(reply.status, 422, "{password}: {reply:?}");
            assert_eq!(reply.body["errors"][0]["type"], kind, "{password}: {reply:?}");
            let given = password.as_str().unwrap_or("123456789012345");
            assert!(!reply.text.contains(given), "{reply:?}");
        }
        for (status, body) in bad_bodies() {
            let reply = service.send("POST", path, &[JSON], body).await?;
            assert_eq!(reply.status, status, "{reply:?}");
        }
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
        ] {
            let body = signup("ann@example.com").to_string().into_bytes();
            let reply = service
                .send("POST", path, &[("Content-Type", media_type)], body)
                .await?;
            assert_eq!(reply.status, 415, "{media_type}: {reply:?}");
        }
        assert_eq!(service.get(path).await?.status, 405);
    }
    for table in [
        "users",
        "audit_events",
        "outbox_messages",
        "queue_messages",
        "inbox_messages",
    ] {
        assert_eq!(service.count(table).await?, 0, "{table}");
    }
    // Any character may be in a password, and 256 of them.
    for (n, password) in [
        PASSWORD.to_owned(),
        "\u{1f98a} ".repeat(3) + "d\u{e9}j\u{e0} vu \u{8aad}\u{66f8}",
        "k7#".repeat(85) + "z",
    ]
    .iter()
    .enumerate()
    {
        let mut body = signup(&format!("good{n}@example.com"));
        body["password"] = json!(password);
        let reply = service.post("/signup", &body).await?;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    accounts.stop().await
}

async fn bad_users_are_refused_and_leave_nothing(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let more = [
        ("first_name", json!("x".repeat(51))),
        ("bio", json!("x".repeat(501))),
        ("bio", json!("a\0b")),
        ("is_active", json!("yes")),
        ("password", json!(PASSWORD)),
    ];
    let all: Vec<(&str, Value)> = bad_members().into_iter().chain(more).collect();
    for (member, value) in &all {
        let mut body = user("ann@example.com");
        body[*member] = value.clone();
        let reply = service.post(USERS, &body).await?;
        assert_eq!(reply.status, 422, "{member}={value}: {reply:?}");
    }
    for (status, body) in bad_bodies() {
        assert_eq!(service.send("POST", USERS, &[JSON], body).await?.status, status);
    }
    for table in ["users", "audit_events", "outbox_messages"] {
        assert_eq!(service.count(table).await?, 0, "{table}");
    }
    let made = service.post(USERS, &user("ann@example.com")).await?;
    let path = format!("{USERS}/{}", made.body["data"]["id"].as_str().context("an id")?);
    // What may not be changed at all, and what may be left out.
    for (member, value) in all.iter().filter(|(_, value)| !value.is_null()) {
        let reply = put(&accounts, &path, &json!({*member: value}), &[]).await?;
        assert_eq!(reply.status, 422, "{member}={value}: {reply:?}");
    }
    let reply = put(&accounts, &path, &json!({"email": "bob@example.com"}), &[]).await?;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert_eq!(service.get(&path).await?.body["data"], made.body["data"]);
    accounts.stop().await
}

async fn bad_paths_and_pages_are_refused(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=1.0",
        "limit=1e1",
        "limit=",
        "limit=NaN",
        "limit=9223372036854775808",
        "limit=1&limit=1",
        "skip=-1",
        "skip=100001",
        "skip=x",
        "active_only=maybe",
        "active_only=",
        "cursor=x",
        "cursor=",
        "skip=0&cursor=00000000000000000000000000000000",
        "cursor=%00",
        "active_only=true%00",
    ] {
        let reply = service.get(&format!("{USERS}?{query}")).await?;
        assert_eq!(reply.status, 422, "{query}: {reply:?}");
    }
    let nobody = uuid_of_nobody();
    for id in [
        "1",
        "0",
        "-1",
        "x",
        "%00",
        "'%20OR%20'1'='1",
        "00000000-0000-0000-0000-00000000000g",
    ] {
        for path in [format!("{USERS}/{id}"), format!("/users/{id}")] {
            let reply = service.get(&path).await?;
            assert_eq!(reply.status, 422, "{path}: {reply:?}");
        }
    }
    for path in [
        format!("{USERS}/{nobody}"),
        format!("/users/{nobody}"),
        format!("/users/{}", nobody.to_uppercase()),
    ] {
        assert_eq!(service.get(&path).await?.status, 404, "{path}");
    }
    for email in [
        "nobody@example.com",
        "no-address",
        "%25",
        "'%20OR%201=1--@example.com",
        "ann@ex_mple.com",
    ] {
        let reply = service.get(&format!("{USERS}/email/{email}")).await?;
        assert_eq!(reply.status, 404, "{email}: {reply:?}");
    }
    assert_eq!(service.get(&format!("{USERS}/email/%00")).await?.status, 422);
    let verify = "/api/v1/auth/verify-email";
    for (token, status) in [
        (json!("x"), 400),
        (json!(""), 400),
        (json!("x".repeat(101)), 422),
        (json!(7), 422),
        (Value::Null, 422),
    ] {
        let reply = service.post(verify, &json!({"token": token})).await?;
        assert_eq!(reply.status, status, "{token}: {reply:?}");
    }
    accounts.stop().await
}

fn uuid_of_nobody() -> String {
    "01a1fe2f-4398-7518-bd75-79dc635da6ab".to_owned()
}
