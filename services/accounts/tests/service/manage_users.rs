//! Users made, read, changed and deleted by hand.

use anyhow::{Context, Result, ensure};
use posthaste_testkit::Reply;
use serde_json::{Value, json};

use crate::mailbox::Accounts;
use crate::stage::Stage;

on_each_stage!(
    a_user_is_made_read_changed_and_deleted,
    an_address_is_one_user_and_free_after_deletion,
    of_two_changes_to_one_version_the_first_counts,
    the_list_is_newest_first_in_pages,
    every_change_is_told_and_recorded_once,
    a_repeat_with_the_same_key_makes_no_second_user,
);

pub const USERS: &str = "/api/v1/users";

pub fn user(email: &str) -> Value {
    json!({"email": email, "first_name": "Ann", "last_name": "Lee"})
}

pub async fn put(accounts: &Accounts, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Reply> {
    let headers = [&[("Content-Type", "application/json")], headers].concat();
    accounts
        .service
        .send("PUT", path, &headers, body.to_string().into_bytes())
        .await
}

pub async fn delete(accounts: &Accounts, path: &str) -> Result<Reply> {
    accounts.service.send("DELETE", path, &[], Vec::new()).await
}

/// Makes a user and answers its path.
async fn made(accounts: &Accounts, email: &str) -> Result<String> {
    let reply = accounts.service.post(USERS, &user(email)).await?;
    ensure!(reply.status == 201, "{reply:?}");
    let id = reply.body["data"]["id"].as_str().context("an id")?;
    Ok(format!("{USERS}/{id}"))
}

async fn a_user_is_made_read_changed_and_deleted(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let body = json!({"email": "Ann@Example.com", "first_name": "Ann", "last_name": "Lee", "bio": "line\nline", "is_active": true});
    let made = accounts.service.post(USERS, &body).await?;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["success"], true);
    let data = &made.body["data"];
    let mut members: Vec<&String> = data.as_object().context("an object")?.keys().collect();
    members.sort();
    let wanted = [
        "bio",
        "created_at",
        "email",
        "first_name",
        "full_name",
        "id",
        "is_active",
        "last_login",
        "last_name",
        "updated_at",
    ];
    assert_eq!(members, wanted);
    assert_eq!(
        (&data["email"], &data["full_name"]),
        (&json!("ann@example.com"), &json!("Ann Lee"))
    );
    assert_eq!(
        (&data["bio"], &data["last_login"]),
        (&json!("line\nline"), &Value::Null)
    );
    let path = format!("{USERS}/{}", data["id"].as_str().context("an id")?);
    assert_eq!(made.header("location"), Some(path.as_str()));

    for same in [&path, &format!("{path}/"), &format!("{USERS}/email/aNN@example.COM")] {
        let read = accounts.service.get(same).await?;
        assert_eq!(read.status, 200, "{same}: {read:?}");
        assert_eq!(&read.body["data"], data, "{same}");
        assert_eq!(read.header("etag"), made.header("etag"));
    }
    let changed = put(
        &accounts,
        &path,
        &json!({"last_name": "Ray", "bio": null, "is_active": false}),
        &[],
    )
    .await?;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.body["data"]["full_name"], "Ann Ray");
    assert_eq!(changed.body["data"]["bio"], Value::Null);
    assert_eq!(changed.body["data"]["is_active"], false);
    assert_ne!(changed.header("etag"), made.header("etag"));
    let nothing = put(&accounts, &path, &json!({}), &[]).await?;
    assert_eq!((nothing.status, nothing.header("etag")), (200, changed.header("etag")));

    let gone = delete(&accounts, &path).await?;
    assert_eq!(gone.status, 200, "{gone:?}");
    assert_eq!(
        (&gone.body["success"], &gone.body["data"]),
        (&json!(true), &json!({"deleted": true}))
    );
    assert_eq!(delete(&accounts, &path).await?.status, 404);
    assert_eq!(accounts.service.get(&path).await?.status, 404);
    assert_eq!(
        put(&accounts, &path, &json!({"first_name": "X"}), &[]).await?.status,
        404
    );
    let id = path.rsplit('/').next().context("an id")?;
    assert_eq!(accounts.service.get(&format!("/users/{id}")).await?.status, 404);
    accounts.stop().await
}

async fn an_address_is_one_user_and_free_after_deletion(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let path = made(&accounts, "ann@example.com").await?;
    let again = accounts.service.post(USERS, &user("ANN@example.com")).await?;
    assert_eq!(again.status, 409, "{again:?}");
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 409);
    assert_eq!(delete(&accounts, &path).await?.status, 200);
    // What is left names nobody.
    let left = "users WHERE email LIKE '%ann%' OR first_name = 'Ann' OR last_name = 'Lee' OR bio IS NOT NULL";
    assert_eq!(accounts.service.count(left).await?, 0);
    let reply = accounts.sign_up("ann@example.com").await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_ne!(reply.body["user_id"].as_str(), path.rsplit('/').next());
    accounts.mail_to("ann@example.com", 1).await?;
    assert_eq!(accounts.service.get(&path).await?.status, 404);
    accounts.stop().await
}

async fn of_two_changes_to_one_version_the_first_counts(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let path = made(&accounts, "ann@example.com").await?;
    let read = accounts.service.get(&path).await?;
    let etag = [("If-Match", read.header("etag").context("an ETag")?)];
    let first = json!({"first_name": "First"});
    assert_eq!(put(&accounts, &path, &first, &etag).await?.status, 200);
    let late = put(&accounts, &path, &json!({"first_name": "Late"}), &etag).await?;
    assert_eq!(late.status, 412, "{late:?}");
    for stale in ["\"0\"", "W/\"2\"", "nonsense"] {
        let reply = put(&accounts, &path, &json!({"bio": "x"}), &[("If-Match", stale)]).await?;
        assert_eq!(reply.status, 412, "{stale}: {reply:?}");
    }
    assert_eq!(
        put(&accounts, &path, &json!({"bio": "x"}), &[("If-Match", "*")])
            .await?
            .status,
        200
    );
    let read = accounts.service.get(&path).await?;
    assert_eq!(read.body["data"]["first_name"], "First");

    let etag = [("If-Match", read.header("etag").context("an ETag")?)];
    let bodies: Vec<Value> = (0..8).map(|n| json!({"first_name": format!("N{n}")})).collect();
    let attempts = bodies.iter().map(|body| put(&accounts, &path, body, &etag));
    let mut statuses = Vec::new();
    for reply in futures_util::future::join_all(attempts).await {
        statuses.push(reply?.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
    accounts.stop().await
}

async fn the_list_is_newest_first_in_pages(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    for n in 0..7 {
        made(&accounts, &format!("u{n}@example.com")).await?;
    }
    let gone = made(&accounts, "gone@example.com").await?;
    delete(&accounts, &gone).await?;
    let asleep = made(&accounts, "asleep@example.com").await?;
    put(&accounts, &asleep, &json!({"is_active": false}), &[]).await?;
    let emails = |reply: &Reply| -> Vec<String> {
        let data = reply.body["data"].as_array().cloned().unwrap_or_default();
        data.iter()
            .filter_map(|user| Some(user["email"].as_str()?.split('@').next()?.to_owned()))
            .collect()
    };
    let all = accounts.service.get(USERS).await?;
    assert_eq!(
        emails(&all),
        ["asleep", "u6", "u5", "u4", "u3", "u2", "u1", "u0"],
        "{all:?}"
    );
    assert_eq!(
        (&all.body["total"], &all.body["next_cursor"]),
        (&json!(8), &Value::Null)
    );
    let active = accounts
        .service
        .get(&format!("{USERS}/?active_only=true&limit=2"))
        .await?;
    assert_eq!(
        (emails(&active), &active.body["total"]),
        (vec!["u6".to_owned(), "u5".to_owned()], &json!(7))
    );
    let skipped = accounts.service.get(&format!("{USERS}?skip=6&limit=100")).await?;
    assert_eq!(emails(&skipped), ["u1", "u0"]);
    assert_eq!(skipped.body["total"], 8);
    let mut seen = Vec::new();
    let mut path = format!("{USERS}?limit=3");
    loop {
        let page = accounts.service.get(&path).await?;
        seen.extend(emails(&page));
        let Some(cursor) = page.body["next_cursor"].as_str() else {
            break;
        };
        path = format!("{USERS}?limit=3&cursor={cursor}");
        // A cursor stays right while users are added in front.
        made(&accounts, &format!("new{}@example.com", seen.len())).await?;
    }
    assert_eq!(seen, emails(&all));
    accounts.stop().await
}

async fn told_once(accounts: &Accounts, topic: &str, id: &str, members: &Value) -> Result<()> {
    let told = accounts.told(topic).await?;
    assert_eq!(told.len(), 1, "{topic}");
    assert_eq!(told[0]["user_id"], id, "{topic}");
    for (name, value) in members.as_object().context("an object")? {
        assert_eq!(&told[0][name], value, "{topic} {name}");
    }
    nothing_personal(&told[0]);
    Ok(())
}

fn nothing_personal(told: &Value) {
    for personal in ["email", "first_name", "last_name"] {
        assert!(told.get(personal).is_none(), "others store it: {personal}");
    }
}

async fn every_change_is_told_and_recorded_once(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let path = made(&accounts, "ann@example.com").await?;
    put(&accounts, &path, &json!({"first_name": "Eve"}), &[]).await?;
    accounts.settled().await?;
    let id = path.rsplit('/').next().context("an id")?;
    told_once(&accounts, "user.created", id, &json!({"is_active": true})).await?;
    told_once(&accounts, "user.updated", id, &json!({"is_active": true, "version": 2})).await?;
    delete(&accounts, &path).await?;
    accounts.settled().await?;
    // Not its body: what is sent and handled says no longer who a deleted user was, sooner or later.
    let told = accounts.told("user.deleted").await?;
    assert_eq!(told.len(), 1);
    nothing_personal(&told[0]);
    for action in ["user.create", "user.update", "user.delete"] {
        let table = format!("audit_events WHERE action = '{action}' AND actor = 'anybody' AND ip = '127.0.0.1'");
        assert_eq!(accounts.service.count(&table).await?, 1, "{action}");
    }
    accounts.stop().await
}

async fn a_repeat_with_the_same_key_makes_no_second_user(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let key = [("Idempotency-Key", "\"k-1\"")];
    let first = accounts
        .service
        .post_with(USERS, &user("ann@example.com"), &key)
        .await?;
    let again = accounts
        .service
        .post_with(USERS, &user("ann@example.com"), &key)
        .await?;
    assert_eq!((first.status, again.status), (201, 201), "{again:?}");
    assert_eq!(
        (&first.text, again.header("idempotent-replayed")),
        (&again.text, Some("true"))
    );
    assert_eq!(first.header("location"), again.header("location"));
    let other = accounts
        .service
        .post_with(USERS, &user("bob@example.com"), &key)
        .await?;
    assert_eq!(other.status, 422, "{other:?}");
    assert_eq!(accounts.service.count("users").await?, 1);
    accounts.stop().await
}
