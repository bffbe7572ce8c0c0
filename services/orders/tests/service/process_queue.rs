//! From the queue to the table and the outcome queues, and the ways in which the service that this one replaces
//! lost, doubled or damaged orders.

use crate::outcomes::{INCOMING, count_is, dead, failures, order, outcome_is, processed, put, settled};
use anyhow::{Context, Result};
use posthaste::dead_letter::{self, Selection};
use posthaste_testkit::{RunningService, TestDatabase, on_each_database};
use serde_json::{Value, json};

on_each_database!(
    a_bare_sample_typed_in_by_hand_is_stored_and_told,
    a_repeat_of_a_key_is_acknowledged_silently_whatever_it_says,
    a_repeat_of_another_users_order_is_told,
    another_key_with_a_used_order_id_leaves_the_first_order_untouched,
    a_key_has_one_outcome_also_when_it_was_refused,
    within_one_batch_the_first_of_a_key_and_of_an_id_wins,
    what_is_no_order_is_told_kept_and_costs_only_itself,
    a_corrected_order_may_use_the_key_of_the_wrong_one,
    an_order_that_was_given_up_is_told_and_kept,
    a_row_that_the_database_refuses_for_now_is_no_failure,
    the_queues_are_those_that_were_asked_for,
);

const SAMPLE: &str =
    r#"{"orderId":"order-101","userId":"user-456","totalAmount":99.99,"idempotencyKey":"unique-key-001","items":[]}"#;

async fn a_bare_sample_typed_in_by_hand_is_stored_and_told(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    let told = outcome_is(&service, "order_processed_queue", 1).await?;
    let mut members: Vec<&String> = told[0].as_object().context("an object")?.keys().collect();
    members.sort();
    assert_eq!(members, ["orderId", "processingTimestamp", "status"]);
    assert_eq!(told[0]["orderId"], "order-101");
    assert_eq!(told[0]["status"], "PROCESSED");
    let time = told[0]["processingTimestamp"].as_str().context("a time")?;
    chrono::DateTime::parse_from_rfc3339(time)?;

    let store = service.store();
    let query =
        "SELECT aggregate_type, aggregate_id, event_type, topic, causation_id FROM outbox_messages ORDER BY topic";
    let rows = store.query(query, vec![]).await?;
    assert_eq!(rows.len(), 2, "outside and on its own topic");
    let mark = store.query("SELECT message_id FROM inbox_messages", vec![]).await?;
    for row in rows {
        assert_eq!(row.get::<String>("aggregate_type")?, "Order");
        assert_eq!(row.get::<String>("aggregate_id")?, "order-101");
        assert_eq!(row.get::<String>("event_type")?, "OrderProcessed");
        assert_eq!(
            row.get::<String>("causation_id")?,
            mark[0].uuid("message_id")?.to_string()
        );
    }
    let query = "SELECT order_id, user_id, status, idempotency_key, failure_reason FROM orders";
    let rows = store.query(query, vec![]).await?;
    assert_eq!(rows[0].get::<String>("user_id")?, "user-456");
    assert_eq!(rows[0].get::<String>("status")?, "PROCESSED");
    assert_eq!(rows[0].get::<String>("idempotency_key")?, "unique-key-001");
    assert_eq!(rows[0].get::<Option<String>>("failure_reason")?, None);
    service.stop().await
}

async fn a_repeat_of_a_key_is_acknowledged_silently_whatever_it_says(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    put(&service, SAMPLE).await?;
    put(&service, &SAMPLE.replace("99.99", "1.00")).await?;
    put(&service, &SAMPLE.replace("order-101", "order-102")).await?;
    // Under message ids of their own the inbox knows none of them.
    for _ in 0..3 {
        crate::outcomes::put_with_id(&service, SAMPLE).await?;
        crate::outcomes::put_with_id(&service, &SAMPLE.replace("order-101", "order-103")).await?;
    }
    settled(&service).await?;
    assert_eq!(service.count("orders").await?, 1);
    assert_eq!(processed(&service).await?.len(), 1);
    assert_eq!(failures(&service).await?, Vec::<Value>::new());
    let order = service.get("/api/v1/orders/order-101").await?;
    assert!(order.text.contains(r#""totalAmount":99.99,"#), "{}", order.text);
    service.stop().await
}

async fn a_repeat_of_another_users_order_is_told(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    let before = service.get("/api/v1/orders/order-101").await?;
    // An event of its own: without source and id the contract's key would make it a repeat with other bytes, which the
    // inbox counts and logs.
    let store = service.store();
    let sql =
        "INSERT INTO queue_messages (topic, message_id, headers, body) VALUES ('order_created_queue', $1, $2, $3)";
    let body = SAMPLE.replace("user-456", "user-7").into_bytes();
    let id = store.dialect().uuid(uuid::Uuid::now_v7());
    store
        .execute(
            sql,
            vec![id, r#"{"source":"https://shop.example"}"#.into(), body.into()],
        )
        .await?;
    settled(&service).await?;
    let told = outcome_is(&service, "order_failed_queue", 1).await?;
    assert_eq!(told[0]["orderId"], "order-101");
    assert_eq!(told[0]["reason"], "ORDER_ID_CONFLICT");
    let after = service.get("/api/v1/orders/order-101").await?;
    assert_eq!(before.text, after.text, "to the last byte");
    assert_eq!(processed(&service).await?.len(), 1);
    service.stop().await
}

async fn another_key_with_a_used_order_id_leaves_the_first_order_untouched(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    let before = service.get("/api/v1/orders/order-101").await?;
    put(
        &service,
        &SAMPLE.replace("unique-key-001", "unique-key-002").replace("99.99", "5"),
    )
    .await?;
    settled(&service).await?;
    let after = service.get("/api/v1/orders/order-101").await?;
    assert_eq!(before.text, after.text, "to the last byte");
    assert_eq!(after.body["status"], "PROCESSED");
    let told = outcome_is(&service, "order_failed_queue", 1).await?;
    assert_eq!(told[0]["orderId"], "order-101");
    assert_eq!(told[0]["reason"], "ORDER_ID_CONFLICT");
    assert!(told[0]["errorDetails"].is_string());
    assert_eq!(processed(&service).await?.len(), 1);
    assert_eq!(dead(&service).await?.len(), 0, "it was handled");
    service.stop().await
}

async fn a_key_has_one_outcome_also_when_it_was_refused(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    let refused = SAMPLE.replace("unique-key-001", "unique-key-002");
    for _ in 0..3 {
        crate::outcomes::put_with_id(&service, &refused).await?;
    }
    settled(&service).await?;
    crate::outcomes::put_with_id(&service, &refused.replace("order-101", "order-free")).await?;
    settled(&service).await?;
    assert_eq!(failures(&service).await?.len(), 1);
    assert_eq!(processed(&service).await?.len(), 1);
    assert_eq!(service.count("orders").await?, 1);
    service.stop().await
}

async fn within_one_batch_the_first_of_a_key_and_of_an_id_wins(database: TestDatabase) -> Result<()> {
    // Filled before it starts, so that one transaction takes them all.
    let service = RunningService::start(orders::service(), &database).await?;
    service.stop().await?;
    let store = posthaste::Store::open(database.url(), posthaste::StoreOptions::default())?;
    for (id, key) in [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("b", "3"), ("b", "2")] {
        let sql = "INSERT INTO queue_messages (topic, message_id, message_key, body) VALUES ($1, $2, 'one lane', $3)";
        let message_id = store.dialect().uuid(uuid::Uuid::now_v7());
        let body = order(id, key).to_string().into_bytes();
        store
            .execute(sql, vec![INCOMING.into(), message_id, body.into()])
            .await?;
    }
    store.close().await;
    let service = RunningService::start(orders::service(), &database).await?;
    settled(&service).await?;
    assert_eq!(service.count("orders").await?, 2);
    assert_eq!(processed(&service).await?.len(), 2);
    assert_eq!(failures(&service).await?.len(), 1);
    for (id, key) in [("a", "1"), ("b", "3")] {
        let found = service.get(&format!("/api/v1/orders/{id}")).await?;
        assert_eq!(found.body["idempotencyKey"], key);
    }
    service.stop().await
}

async fn what_is_no_order_is_told_kept_and_costs_only_itself(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let poison: [(&[u8], &str); 9] = [
        (b"no JSON", "UNKNOWN"),
        (b"\xff\xfe\x00", "UNKNOWN"),
        (b"[1]", "UNKNOWN"),
        (b"{}", "UNKNOWN"),
        (
            br#"{"orderId":"p1","userId":"u","totalAmount":1,"idempotencyKey":"k"}"#,
            "p1",
        ),
        (
            br#"{"orderId":"p2","userId":"u","totalAmount":-1,"idempotencyKey":"k","items":[]}"#,
            "p2",
        ),
        (
            br#"{"orderId":"p3","userId":"u","totalAmount":1.001,"idempotencyKey":"k","items":[]}"#,
            "p3",
        ),
        (
            br#"{"orderId":"p4","userId":"u","totalAmount":1,"idempotencyKey":"k","items":{}}"#,
            "p4",
        ),
        (
            br#"{"orderId":5,"userId":"u","totalAmount":1,"idempotencyKey":"k","items":[]}"#,
            "UNKNOWN",
        ),
    ];
    for (n, (bytes, _)) in poison.iter().enumerate() {
        crate::outcomes::put_bytes(&service, bytes).await?;
        put(&service, &order(&format!("good-{n}"), &format!("good-{n}")).to_string()).await?;
    }
    settled(&service).await?;
    assert_eq!(service.count("orders").await?, poison.len() as i64);
    let told = outcome_is(&service, "order_failed_queue", poison.len()).await?;
    let mut told: Vec<&str> = told
        .iter()
        .map(|failure| {
            assert_eq!(failure["reason"], "VALIDATION_ERROR", "{failure}");
            assert!(failure["errorDetails"].is_string(), "{failure}");
            failure["orderId"].as_str().unwrap_or_default()
        })
        .collect();
    told.sort_unstable();
    let mut named: Vec<&str> = poison.iter().map(|(_, id)| *id).collect();
    named.sort_unstable();
    assert_eq!(told, named);
    let letters = dead_letter::list(service.store(), &Selection::default(), 100).await?;
    let copies = dead(&service).await?;
    assert_eq!((letters.len(), copies.len()), (poison.len(), poison.len()));
    for (bytes, _) in poison {
        let letter = letters.iter().find(|letter| letter.message.body == bytes);
        let letter = letter.context("its bytes are kept")?;
        assert!(
            letter.error.starts_with("the body breaks the contract"),
            "{}",
            letter.error
        );
        let (_, headers) = copies
            .iter()
            .find(|(body, _)| body == bytes)
            .context("copied as it came")?;
        assert!(headers.contains("posthaste-error-message"), "with its cause: {headers}");
    }
    service.stop().await
}

async fn a_corrected_order_may_use_the_key_of_the_wrong_one(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, &SAMPLE.replace("user-456", "")).await?;
    put(&service, &SAMPLE.replace("99.99", "\"99,99\"")).await?;
    settled(&service).await?;
    put(&service, SAMPLE).await?;
    settled(&service).await?;
    assert_eq!(service.count("orders").await?, 1);
    assert_eq!(failures(&service).await?.len(), 2);
    assert_eq!(processed(&service).await?.len(), 1);
    service.stop().await
}

async fn an_order_that_was_given_up_is_told_and_kept(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    service.refuse_rows("orders", "order_id", "order-101").await?;
    put(&service, SAMPLE).await?;
    count_is(&service, "inbox_messages WHERE status IN ('retrying', 'waiting')", 1).await?;
    assert_eq!(
        failures(&service).await?,
        Vec::<Value>::new(),
        "not before it is given up"
    );
    // The last attempt ended in a crash.
    let used_up = "UPDATE inbox_messages SET attempts = 100, due_at = {now} WHERE status = 'retrying'";
    service.store().execute(used_up, vec![]).await?;
    let told = outcome_is(&service, "order_failed_queue", 1).await?;
    assert_eq!(told[0]["orderId"], "order-101");
    assert_eq!(told[0]["reason"], "PROCESSING_ERROR");
    assert_eq!(dead(&service).await?[0].0, SAMPLE.as_bytes());
    service.accept_rows("orders").await?;
    assert_eq!(dead_letter::replay(service.store(), &Selection::default()).await?, 1);
    outcome_is(&service, "order_processed_queue", 1).await?;
    service.stop().await
}

async fn a_row_that_the_database_refuses_for_now_is_no_failure(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    service.refuse_rows("orders", "order_id", "order-2").await?;
    for n in 0..5 {
        put(&service, &order(&format!("order-{n}"), &format!("key-{n}")).to_string()).await?;
    }
    count_is(&service, "orders", 4).await?;
    service.accept_rows("orders").await?;
    count_is(&service, "orders", 5).await?;
    settled(&service).await?;
    assert_eq!(processed(&service).await?.len(), 5);
    assert_eq!(failures(&service).await?, Vec::<Value>::new());
    assert_eq!(dead(&service).await?.len(), 0);
    service.stop().await
}

async fn the_queues_are_those_that_were_asked_for(database: TestDatabase) -> Result<()> {
    let names = [
        ("INCOMING_ORDER_QUEUE", "in"),
        ("OUTGOING_PROCESSED_QUEUE", "done"),
        ("OUTGOING_FAILED_QUEUE", "not done"),
        ("DLQ_QUEUE", "dead"),
    ];
    let service = RunningService::start_with(orders::service(), &database, &names).await?;
    for body in [SAMPLE, "{}"] {
        let sql = "INSERT INTO queue_messages (topic, body) VALUES ('in', $1)";
        service
            .store()
            .execute(sql, vec![body.as_bytes().to_vec().into()])
            .await?;
    }
    let placed = json!({"userId": "u", "totalAmount": "1", "idempotencyKey": "k", "items": []});
    assert_eq!(service.post("/api/v1/orders", &placed).await?.status, 202);
    outcome_is(&service, "done", 2).await?;
    outcome_is(&service, "not done", 1).await?;
    count_is(&service, "queue_messages WHERE topic = 'dead'", 1).await?;
    service.stop().await?;

    let circle = [("OUTGOING_FAILED_QUEUE", "order_created_queue")];
    let refused = RunningService::start_with(orders::service(), &database, &circle).await;
    assert!(refused.is_err(), "its failures would be its orders");
    Ok(())
}
