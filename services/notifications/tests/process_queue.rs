//! From the queue to the table: what others publish, what cannot be read, what comes twice.

use std::time::Duration;

use anyhow::{Context, Result};
use contracts::{OrderFailed, OrderProcessed, UserCreated, UserDeleted, UserRegistered, UserUpdated};
use posthaste::dead_letter::{self, Selection};
use posthaste::{Message, outbox};
use posthaste_testkit::{RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

on_each_database!(
    bytes_that_are_no_event_become_dead_letters_and_cost_only_themselves,
    a_bare_body_put_into_the_queue_by_hand_is_recorded_once,
    one_id_on_two_queues_is_two_events,
    the_database_refusing_a_row_delays_only_that_row,
    events_of_other_services_are_recorded_for_their_user,
);

const LIMIT: Duration = Duration::from_secs(90);
const USER: &str = "550e8400-e29b-41d4-a716-446655440000";

async fn put(service: &RunningService, body: &[u8]) -> Result<()> {
    let sql = "INSERT INTO queue_messages (topic, body) VALUES ('notification_events', $1)";
    service.store().execute(sql, vec![body.to_vec().into()]).await?;
    Ok(())
}

async fn count_is(service: &RunningService, table: &str, wanted: i64) -> Result<()> {
    wait_until(&format!("{wanted} rows in {table}"), LIMIT, || async {
        (service.count(table).await.ok()? == wanted).then_some(())
    })
    .await
}

async fn bytes_that_are_no_event_become_dead_letters_and_cost_only_themselves(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let poison: [&[u8]; 7] = [
        b"no JSON",
        b"\xff\xfe\x00",
        b"",
        b"[1]",
        br#"{"user_id":"nobody","event_type":"t","message":"m","payload":null}"#,
        br#"{"user_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"","message":"m","payload":null}"#,
        br#"{"user_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"t","message":"\u0000","payload":null}"#,
    ];
    for (n, bytes) in poison.iter().enumerate() {
        put(&service, bytes).await?;
        let good = json!({"user_id": USER, "event_type": "good", "message": format!("number {n}"), "payload": null});
        put(&service, good.to_string().as_bytes()).await?;
    }
    count_is(&service, "processed_events", poison.len() as i64).await?;
    let letters = wait_until("the dead letters", LIMIT, || async {
        let letters = dead_letter::list(service.store(), &Selection::default(), 100)
            .await
            .ok()?;
        (letters.len() == poison.len()).then_some(letters)
    })
    .await?;
    for bytes in poison {
        let letter = letters
            .iter()
            .find(|letter| letter.message.body == bytes)
            .context("its bytes are kept")?;
        assert!(
            letter.error.starts_with("the body breaks the contract"),
            "{}",
            letter.error
        );
        assert_eq!(letter.attempts, 0, "dead at once: {}", letter.error);
    }
    service.queue_is_empty().await?;
    service.stop().await
}

async fn a_bare_body_put_into_the_queue_by_hand_is_recorded_once(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let body = json!({"user_id": USER, "event_type": "by_hand", "message": "Hello", "payload": {"a": 1}}).to_string();
    put(&service, body.as_bytes()).await?;
    put(&service, body.as_bytes()).await?;
    service.queue_is_empty().await?;
    // No envelope, no id: equal bytes are one message.
    count_is(&service, "processed_events", 1).await?;
    service.stop().await
}

async fn one_id_on_two_queues_is_two_events(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let id = service.store().dialect().uuid(Uuid::now_v7());
    let event = json!({"user_id": USER, "event_type": "t", "message": "m", "payload": null}).to_string();
    let failed = json!({"orderId": "o-42", "reason": "R", "errorDetails": "d"}).to_string();
    for (topic, body) in [("notification_events", event), ("order.failed", failed)] {
        // With a source, and by hand without one.
        for headers in [Some(r#"{"source":"https://shop.example"}"#), None] {
            let sql = "INSERT INTO queue_messages (topic, message_id, headers, body) VALUES ($1, $2, $3, $4)";
            let body = body.clone().into_bytes();
            let values = vec![topic.into(), id.clone(), headers.into(), body.into()];
            service.store().execute(sql, values).await?;
        }
    }
    count_is(&service, "processed_events", 4).await?;
    service.stop().await
}

async fn the_database_refusing_a_row_delays_only_that_row(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    service.refuse_rows("processed_events", "message", "not yet").await?;
    for n in 0..5 {
        let text = if n == 2 {
            "not yet".to_owned()
        } else {
            format!("number {n}")
        };
        let event = json!({"user_id": USER, "event_type": "t", "message": text});
        assert_eq!(service.post("/api/events", &event).await?.status, 202);
    }
    count_is(&service, "processed_events", 4).await?;
    // The others may be there before it has been refused.
    count_is(&service, "inbox_messages WHERE status IN ('retrying', 'waiting')", 1).await?;
    service.accept_rows("processed_events").await?;
    count_is(&service, "processed_events", 5).await?;
    service.stop().await
}

/// As another service in this database would do it.
async fn publish(service: &RunningService, messages: Vec<Message>) -> Result<()> {
    let mut tx = service.store().begin().await?;
    let messages = messages.into_iter().map(|message| (message, None)).collect();
    outbox::append_all(&mut tx, "notifications", messages).await?;
    tx.commit().await?;
    Ok(())
}

/// Type, message and details of what was told of the user, by type.
async fn told_of_user(service: &RunningService) -> Result<Vec<(String, String, Value)>> {
    let page = service.get(&format!("/api/events?user_id={USER}")).await?;
    let mut told = Vec::new();
    for item in page.body["items"].as_array().context("no items")? {
        let text = |member: &str| item[member].as_str().unwrap_or_default().to_owned();
        told.push((text("event_type"), text("message"), item["payload"].clone()));
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(told)
}

async fn events_of_other_services_are_recorded_for_their_user(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let user: Uuid = USER.parse()?;
    let now = posthaste::message::now();
    let registered = UserRegistered {
        user_id: user,
        registered_at: None,
    };
    let created = UserCreated {
        user_id: user,
        is_active: true,
        created_at: now,
    };
    let updated = UserUpdated {
        user_id: user,
        is_active: false,
        version: 2,
        updated_at: now,
    };
    let deleted = UserDeleted {
        user_id: user,
        deleted_at: now,
    };
    let processed = |order_id: &str, user_id: Option<&str>| OrderProcessed {
        order_id: order_id.to_owned(),
        status: "PROCESSED".to_owned(),
        processing_timestamp: now,
        user_id: user_id.map(str::to_owned),
    };
    let failed = OrderFailed {
        order_id: "order-4".to_owned(),
        reason: "VALIDATION_ERROR".to_owned(),
        error_details: Some(json!("totalAmount must be positive")),
        user_id: Some(USER.to_owned()),
    };
    let messages = vec![
        Message::of(&registered)?,
        Message::of(&created)?,
        Message::of(&updated)?,
        Message::of(&processed("order-1", Some(USER)))?,
        Message::of(&processed("order-2", Some("user-456")))?,
        Message::of(&processed("order-3", None))?,
        Message::of(&failed)?,
    ];
    publish(&service, messages).await?;
    count_is(&service, "processed_events", 7).await?;
    let pairs = |told: &[(String, String, Value)]| -> Vec<(String, String)> {
        told.iter()
            .map(|(kind, text, _)| (kind.clone(), text.clone()))
            .collect()
    };
    let owned = |told: &[(&str, &str)]| -> Vec<(String, String)> {
        told.iter()
            .map(|(kind, text)| ((*kind).to_owned(), (*text).to_owned()))
            .collect()
    };
    assert_eq!(
        pairs(&told_of_user(&service).await?),
        owned(&[
            ("order.failed", "Order order-4 failed: VALIDATION_ERROR"),
            ("order.processed", "Order order-1 processed"),
            ("user.created", "User created"),
            ("user.registered", "User registered"),
            ("user.updated", "User updated"),
        ])
    );

    publish(&service, vec![Message::of(&deleted)?]).await?;
    count_is(&service, "processed_events", 8).await?;
    let told = told_of_user(&service).await?;
    assert_eq!(
        pairs(&told),
        owned(&[
            ("order.failed", ""),
            ("order.processed", ""),
            ("user.created", ""),
            ("user.deleted", "User deleted"),
            ("user.registered", ""),
            ("user.updated", ""),
        ])
    );
    for (kind, _, payload) in &told {
        assert_eq!(payload.is_null(), kind != "user.deleted", "{kind}: {payload}");
    }
    let nobody = service.get(&format!("/api/events?user_id={}", Uuid::nil())).await?;
    assert_eq!(nobody.body["items"][0]["payload"]["orderId"], "order-3");
    let all = service.get("/api/events").await?;
    let by_name = all.body["items"].as_array().and_then(|items| {
        items
            .iter()
            .find(|item| item["payload"]["userId"] == "user-456")
            .cloned()
    });
    let by_name: Value = by_name.context("the order of a user without UUID")?;
    assert_ne!(by_name["user_id"], Uuid::nil().to_string(), "it has a UUID of its own");
    service.stop().await
}
