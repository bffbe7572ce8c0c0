//! The routes, over HTTP, against the real service on a real database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Reply, RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

on_each_database!(
    what_is_sent_is_visible_at_once,
    the_queries_of_the_documentation_work_as_they_are,
    a_repeat_with_a_key_gets_the_first_answer,
    equal_texts_are_two_messages,
    lists_newest_first_and_by_sender_in_pages,
    what_cannot_be_found_or_read_is_said_so,
    edges_of_the_rules_are_accepted,
    without_the_outbox_it_publishes_directly,
    numbers_of_metadata_keep_every_digit,
);

const LIMIT: Duration = Duration::from_secs(90);
/// Less than any interval at which something is looked for.
const AT_ONCE: Duration = Duration::from_millis(500);

async fn send(service: &RunningService, content: &str, sender: &str) -> Result<String> {
    let message = json!({"content": content, "sender": sender});
    let reply = service.post("/api/v1/messages/send", &message).await?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(reply.body["data"]["message_id"]
        .as_str()
        .context("no message_id")?
        .to_owned())
}

async fn stored(service: &RunningService, id: &str) -> Result<Value> {
    wait_until("the message to be stored", LIMIT, || async {
        let reply = service.get(&format!("/api/v1/messages/{id}")).await.ok()?;
        (reply.status == 200).then(|| reply.body["data"].clone())
    })
    .await
}

fn ids(reply: &Reply) -> Vec<String> {
    let data = reply.body["data"].as_array().cloned().unwrap_or_default();
    data.iter()
        .filter_map(|item| item["message_id"].as_str().map(str::to_owned))
        .collect()
}

async fn what_is_sent_is_visible_at_once(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    // The first request pays for connections and plans.
    stored(&service, &send(&service, "first", "ann").await?).await?;
    // A busy machine may keep one waiting; an interval that is waited out would show in every round.
    let mut took = Vec::new();
    for round in 0..10 {
        let id = send(&service, &format!("round {round}"), "ann").await?;
        let answered = Instant::now();
        stored(&service, &id).await?;
        took.push(answered.elapsed());
    }
    assert!(took.iter().min() < Some(&AT_ONCE), "visible after {took:?}");

    let message = json!({"content": "Hello, world!", "sender": "ann", "metadata": {"channel": "general"}});
    let reply = service.post("/api/v1/messages/send", &message).await?;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.body["success"], true);
    assert_eq!(reply.body["message"], "Message sent to sql successfully");
    let data = &reply.body["data"];
    let mut members: Vec<&String> = data.as_object().context("no data")?.keys().collect();
    members.sort();
    assert_eq!(members, ["content", "message_id", "metadata", "sender", "timestamp"]);
    assert_eq!(data["content"], "Hello, world!");
    assert_eq!(data["metadata"], json!({"channel": "general"}));

    let id = data["message_id"].as_str().context("no message_id")?;
    let first = wait_until("the message in the list", LIMIT, || async {
        let list = service.get("/api/v1/messages/").await.ok()?;
        (list.body["data"][0]["message_id"] == id).then(|| list.body["data"][0].clone())
    })
    .await?;
    for member in ["content", "sender", "timestamp", "metadata"] {
        assert_eq!(first[member], data[member], "{member}");
    }
    let mut members: Vec<&String> = first.as_object().context("no message")?.keys().collect();
    members.sort();
    let expected = [
        "content",
        "created_at",
        "id",
        "message_id",
        "metadata",
        "processed_at",
        "sender",
        "timestamp",
        "updated_at",
    ];
    assert_eq!(members, expected);
    service.stop().await
}

async fn the_queries_of_the_documentation_work_as_they_are(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let id = send(&service, "Hello", "ann").await?;
    stored(&service, &id).await?;
    let store = service.store();

    let messages =
        "SELECT message_id, sender, content, timestamp, processed_at FROM messages ORDER BY timestamp DESC LIMIT 10;";
    let rows = store.query(messages, vec![]).await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].uuid("message_id")?.to_string(), id);
    // SQLite's clock counts whole milliseconds.
    let took = rows[0].time("processed_at")? - rows[0].time("timestamp")?;
    assert!(took.num_milliseconds() >= 0, "processed before it was sent: {took}");

    let outbox = "SELECT event_id, event_type, status, created_at, published_at FROM outbox_messages ORDER BY created_at DESC LIMIT 10;";
    let row = wait_until("the outbox row to be marked", LIMIT, || async {
        let rows = store.query(outbox, vec![]).await.ok()?;
        let published = rows.first()?.get::<String>("status").ok()? == "published";
        published.then(|| rows.into_iter().next()).flatten()
    })
    .await?;
    assert_eq!(row.get::<String>("event_type")?, "MessageSentIntegrationEvent");
    assert!(row.time_or_null("published_at")?.is_some(), "with its time");

    let inbox = "SELECT message_id, event_type, status, received_at, processed_at FROM inbox_messages ORDER BY received_at DESC LIMIT 10;";
    let rows = store.query(inbox, vec![]).await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<String>("status")?, "processed");
    assert_eq!(
        rows[0].uuid("message_id")?,
        row.uuid("event_id")?,
        "one id from end to end"
    );
    assert!(rows[0].time_or_null("processed_at")?.is_some());

    let group = store.query("SELECT subscription FROM inbox_messages", vec![]).await?;
    assert_eq!(group[0].get::<String>("subscription")?, "user-management-api-group");
    service.stop().await
}

async fn a_repeat_with_a_key_gets_the_first_answer(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let message = json!({"content": "Hello", "sender": "ann"});
    let key = [("Idempotency-Key", "greeting-1")];
    let path = "/api/v1/messages/send";
    let first = service.post_with(path, &message, &key).await?;
    assert_eq!(first.status, 200, "{first:?}");
    let again = service.post_with(path, &message, &key).await?;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = json!({"content": "Goodbye", "sender": "ann"});
    assert_eq!(service.post_with(path, &other, &key).await?.status, 422);

    stored(
        &service,
        first.body["data"]["message_id"].as_str().context("no message_id")?,
    )
    .await?;
    assert_eq!(service.count("outbox_messages").await?, 1);
    assert_eq!(service.count("idempotency_keys").await?, 1);
    service.stop().await
}

async fn equal_texts_are_two_messages(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let first = send(&service, "Hello", "ann").await?;
    let second = send(&service, "Hello", "ann").await?;
    assert_ne!(first, second);
    stored(&service, &first).await?;
    stored(&service, &second).await?;
    assert_eq!(service.count("messages").await?, 2);
    service.stop().await
}

async fn lists_newest_first_and_by_sender_in_pages(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let mut sent = Vec::new();
    for n in 0..7 {
        let sender = if n % 3 == 0 { "bob / ü" } else { "ann" };
        sent.push(send(&service, &format!("number {n}"), sender).await?);
    }
    for id in &sent {
        stored(&service, id).await?;
    }
    sent.reverse();
    let all = service.get("/api/v1/messages").await?;
    assert_eq!((all.status, ids(&all)), (200, sent.clone()));
    assert_eq!(all.body["success"], true);
    assert_eq!(all.body["message"], "Retrieved 7 messages");
    assert_eq!(all.body["next_cursor"], Value::Null);
    assert_eq!(all.body["data"][0]["metadata"], Value::Null);

    let mut paged = Vec::new();
    let mut path = "/api/v1/messages/?limit=3".to_owned();
    loop {
        let page = service.get(&path).await?;
        assert_eq!(page.body["message"], format!("Retrieved {} messages", ids(&page).len()));
        paged.extend(ids(&page));
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/messages/?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, sent);

    let of_bob = service
        .get("/api/v1/messages/sender/bob%20%2F%20%C3%BC?limit=2")
        .await?;
    assert_eq!(
        (of_bob.status, ids(&of_bob)),
        (200, vec![sent[0].clone(), sent[3].clone()])
    );
    let cursor = of_bob.body["next_cursor"].as_str().context("a third one is left")?;
    let rest = service
        .get(&format!("/api/v1/messages/sender/bob%20%2F%20%C3%BC?cursor={cursor}"))
        .await?;
    assert_eq!(ids(&rest), [sent[6].clone()]);
    let of_nobody = service.get("/api/v1/messages/sender/nobody").await?;
    assert_eq!(
        (of_nobody.status, &of_nobody.body["message"]),
        (200, &json!("Retrieved 0 messages"))
    );
    service.stop().await
}

async fn what_cannot_be_found_or_read_is_said_so(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let missing = service.get(&format!("/api/v1/messages/{}", Uuid::now_v7())).await?;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.header("content-type"), Some("application/problem+json"));
    for path in [
        "/api/v1/messages/17",
        "/api/v1/messages/?limit=0",
        "/api/v1/messages/?limit=1001",
        "/api/v1/messages/?limit=-1",
        "/api/v1/messages/?limit=ten",
        "/api/v1/messages/?cursor=17",
        "/api/v1/messages/sender/ann?limit=0",
        "/api/v1/messages/sender/a%00b",
    ] {
        let reply = service.get(path).await?;
        assert_eq!(reply.status, 422, "{path}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{path}");
    }
    let method = service.get("/api/v1/messages/send").await?;
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    service.stop().await
}

async fn edges_of_the_rules_are_accepted(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    for (member, value) in [
        ("content", json!("x")),
        ("content", json!("é".repeat(1000))),
        ("content", json!("tab\tand\nnewline, \u{1F980}")),
        ("sender", json!("é".repeat(100))),
        ("metadata", Value::Null),
        ("metadata", json!({})),
        ("metadata", json!({"deep": {"list": [1, 2.5, -3, true, null, "x"]}})),
    ] {
        let mut message = json!({"content": "Hello", "sender": "ann"});
        message[member] = value.clone();
        let reply = service.post("/api/v1/messages/send", &message).await?;
        assert_eq!(reply.status, 200, "{member}: {reply:?}");
        let id = reply.body["data"]["message_id"].as_str().context("no message_id")?;
        assert_eq!(stored(&service, id).await?[member], value, "{member}");
    }
    service.stop().await
}

async fn without_the_outbox_it_publishes_directly(database: TestDatabase) -> Result<()> {
    let settings = [
        ("KAFKA_ENABLE_OUTBOX", "false"),
        ("KAFKA_CONSUMER_GROUP", "another-group"),
    ];
    let service = RunningService::start_with(messages::service(), &database, &settings).await?;
    let id = send(&service, "Hello", "ann").await?;
    stored(&service, &id).await?;
    assert_eq!(service.count("outbox_messages").await?, 0);
    let group = service
        .store()
        .query("SELECT subscription FROM inbox_messages", vec![])
        .await?;
    assert_eq!(group[0].get::<String>("subscription")?, "another-group");

    // With a key the answer and the message commit together, which only the outbox can.
    let message = json!({"content": "Hello", "sender": "ann"});
    let reply = service
        .post_with("/api/v1/messages/send", &message, &[("Idempotency-Key", "k")])
        .await?;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(service.count("outbox_messages").await?, 1);
    service.stop().await
}

async fn numbers_of_metadata_keep_every_digit(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let metadata =
        r#""metadata":{"n":[123456789012345678901234567890,0.12345678901234567890123,18446744073709551616]}"#;
    let body = format!(r#"{{"content": "Hello", "sender": "ann", {metadata}}}"#);
    let json = [("Content-Type", "application/json")];
    let reply = service
        .send("POST", "/api/v1/messages/send", &json, body.into_bytes())
        .await?;
    ensure!(reply.status == 200 && reply.text.contains(metadata), "{reply:?}");
    let id = reply.body["data"]["message_id"].as_str().context("no message_id")?;
    stored(&service, id).await?;
    for path in [format!("/api/v1/messages/{id}"), "/api/v1/messages/".to_owned()] {
        let text = service.get(&path).await?.text;
        ensure!(text.contains(metadata), "{text}");
    }
    service.stop().await
}
