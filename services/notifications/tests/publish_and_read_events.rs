//! The routes, over HTTP, against the real service on a real database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Reply, RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

on_each_database!(
    the_sample_request_is_visible_at_once,
    a_repeat_with_a_key_gets_the_first_answer,
    an_id_of_the_clients_own_is_recorded_once_and_equal_texts_twice,
    lists_newest_first_by_user_and_type_in_pages,
    what_cannot_be_found_or_read_is_said_so,
    edges_of_the_rules_are_accepted,
    numbers_of_a_payload_keep_every_digit,
);

const LIMIT: Duration = Duration::from_secs(90);
/// Less than any interval at which something is looked for.
const AT_ONCE: Duration = Duration::from_millis(500);
const ROUNDS: usize = 10;
const USER: &str = "550e8400-e29b-41d4-a716-446655440000";

fn sample() -> Value {
    json!({"user_id": USER, "event_type": "user_registered", "message": "Welcome!",
        "payload": {"email": "test@example.com"}})
}

async fn recorded(service: &RunningService, id: &str) -> Result<Value> {
    wait_until("the event to be recorded", LIMIT, || async {
        let reply = service.get(&format!("/api/events/{id}")).await.ok()?;
        (reply.status == 200).then_some(reply.body)
    })
    .await
}

async fn publish(service: &RunningService, body: &Value) -> Result<String> {
    let reply = service.post("/api/events", body).await?;
    ensure!(reply.status == 202, "{reply:?}");
    Ok(reply.body["event_id"].as_str().context("no event_id")?.to_owned())
}

async fn the_sample_request_is_visible_at_once(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    // The first request pays for connections and plans.
    recorded(&service, &publish(&service, &sample()).await?).await?;
    // A busy machine may keep one waiting; an interval that is waited out would show in every round.
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let id = publish(&service, &sample()).await?;
        let answered = Instant::now();
        recorded(&service, &id).await?;
        took.push(answered.elapsed());
    }
    assert!(took.iter().min() < Some(&AT_ONCE), "visible after {took:?}");

    let reply = service.post("/api/events", &sample()).await?;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.body["message"], "Event published successfully");
    let id = reply.body["event_id"].as_str().context("no event_id")?;
    let event = recorded(&service, id).await?;

    assert_eq!(event["id"], id);
    assert_eq!(event["user_id"], USER);
    assert_eq!(event["event_type"], "user_registered");
    assert_eq!(event["message"], "Welcome!");
    assert_eq!(event["payload"], json!({"email": "test@example.com"}));
    assert_eq!(event["status"], "PROCESSED");
    for time in ["created_at", "processed_at"] {
        let text = event[time].as_str().context("no time")?;
        chrono::DateTime::parse_from_rfc3339(text)?;
    }
    // As it stands in the documentation.
    let rows = service.store().query("SELECT * FROM processed_events;", vec![]).await?;
    assert_eq!(rows.len(), 2 + ROUNDS);
    assert_eq!(rows[0].get::<String>("event_type")?, "user_registered");
    service.stop().await
}

async fn a_repeat_with_a_key_gets_the_first_answer(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let key = [("Idempotency-Key", "\"sign-up-7\"")];
    let first = service.post_with("/api/events", &sample(), &key).await?;
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = service.post_with("/api/events", &sample(), &key).await?;
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));

    let mut other = sample();
    other["message"] = json!("Goodbye!");
    let mismatch = service.post_with("/api/events", &other, &key).await?;
    assert_eq!(mismatch.status, 422, "{mismatch:?}");

    recorded(&service, first.body["event_id"].as_str().context("no event_id")?).await?;
    // A later event has gone through the same queue: nothing of the repeats is still on its way.
    recorded(&service, &publish(&service, &other).await?).await?;
    assert_eq!(service.count("processed_events").await?, 2);
    service.stop().await
}

async fn an_id_of_the_clients_own_is_recorded_once_and_equal_texts_twice(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let id = Uuid::now_v7();
    let mut own = sample();
    own["event_id"] = json!(id);
    for _ in 0..3 {
        assert_eq!(publish(&service, &own).await?, id.to_string());
    }
    let first = publish(&service, &sample()).await?;
    let second = publish(&service, &sample()).await?;
    assert_ne!(first, second);
    for id in [&id.to_string(), &first, &second] {
        recorded(&service, id).await?;
    }
    service.queue_is_empty().await?;
    assert_eq!(service.count("processed_events").await?, 3);
    service.stop().await
}

async fn lists_newest_first_by_user_and_type_in_pages(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let other = Uuid::new_v4().to_string();
    let mut sent = Vec::new();
    for n in 0..7 {
        let user = if n % 2 == 0 { USER } else { &other };
        let event_type = if n < 4 { "first" } else { "second" };
        let event = json!({"user_id": user, "event_type": event_type, "message": format!("number {n}")});
        sent.push(publish(&service, &event).await?);
    }
    for id in &sent {
        recorded(&service, id).await?;
    }
    sent.reverse();
    let ids = |reply: &Reply| -> Vec<String> {
        let items = reply.body["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter_map(|item| item["id"].as_str().map(str::to_owned))
            .collect()
    };

    let all = service.get("/api/events").await?;
    assert_eq!(all.status, 200, "{all:?}");
    assert_eq!((ids(&all), &all.body["next_cursor"]), (sent.clone(), &Value::Null));
    assert_eq!(
        all.body["items"][0]["payload"],
        Value::Null,
        "an absent payload is null"
    );

    let mut paged = Vec::new();
    let mut path = "/api/events?limit=3".to_owned();
    loop {
        let page = service.get(&path).await?;
        assert!(ids(&page).len() <= 3);
        paged.extend(ids(&page));
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/events?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, sent);

    let of_user = service
        .get(&format!("/api/events?user_id={USER}&event_type=second"))
        .await?;
    assert_eq!(ids(&of_user), [sent[0].clone(), sent[2].clone()]);
    let slashed = service.get("/api/events/?limit=1").await?;
    assert_eq!((slashed.status, ids(&slashed)), (200, vec![sent[0].clone()]));
    let nulls = service
        .store()
        .query("SELECT id FROM processed_events WHERE payload IS NULL", vec![])
        .await?;
    assert_eq!(nulls.len(), 7, "an absent payload is SQL NULL");
    service.stop().await
}

async fn what_cannot_be_found_or_read_is_said_so(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let missing = service.get(&format!("/api/events/{}", Uuid::now_v7())).await?;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.header("content-type"), Some("application/problem+json"));
    for path in [
        "/api/events/17",
        "/api/events?user_id=17",
        "/api/events?limit=0",
        "/api/events?limit=101",
        "/api/events?limit=-1",
        "/api/events?limit=1e2",
        "/api/events?limit=ten",
        "/api/events?cursor=17",
        "/api/events?event_type=",
        "/api/events?event_type=a%00b",
    ] {
        let reply = service.get(path).await?;
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{path}");
    }
    let removed = service.send("DELETE", "/api/events", &[], Vec::new()).await?;
    assert_eq!(removed.status, 405);
    assert!(removed.header("allow").is_some_and(|methods| methods.contains("POST")));
    service.stop().await
}

async fn edges_of_the_rules_are_accepted(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    for (member, value) in [
        ("event_type", json!("é".repeat(100))),
        ("message", json!("x")),
        ("message", json!("x".repeat(32_768))),
        // Every character takes two bytes in JSON: the body is larger than the usual limit.
        ("message", json!("\"".repeat(32_768))),
        ("message", json!("tab\tand\nnewline, \u{1F980} and é")),
        ("payload", Value::Null),
        ("payload", json!({})),
        ("payload", json!({"deep": {"list": [1, 2.5, -3, true, null, "x"]}})),
    ] {
        let mut event = sample();
        event[member] = value.clone();
        let id = publish(&service, &event).await?;
        assert_eq!(recorded(&service, &id).await?[member], value, "{member}");
    }
    service.stop().await
}

async fn numbers_of_a_payload_keep_every_digit(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let numbers = [
        "123456789012345678901234567890",
        "0.12345678901234567890123",
        "18446744073709551616",
    ];
    let payload = numbers.join(", ");
    let body =
        format!(r#"{{"user_id": "{USER}", "event_type": "t", "message": "m", "payload": {{"n": [{payload}]}}}}"#);
    let json = [("Content-Type", "application/json")];
    let reply = service.send("POST", "/api/events", &json, body.into_bytes()).await?;
    ensure!(reply.status == 202, "{reply:?}");
    let id = reply.body["event_id"].as_str().context("no event_id")?;
    recorded(&service, id).await?;
    for path in [format!("/api/events/{id}"), "/api/events".to_owned()] {
        let text = service.get(&path).await?.text;
        ensure!(text.contains(&format!(r#""n":[{}]"#, numbers.join(","))), "{text}");
    }
    service.stop().await
}
