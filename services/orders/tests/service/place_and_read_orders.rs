//! The routes, over HTTP, against the real service on a real database.

use crate::outcomes::{count_is, order, outcome_is, processed, put, settled, stored};
use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Reply, RunningService, TestDatabase, on_each_database};
use serde_json::{Value, json};

on_each_database!(
    the_sample_is_taken_processed_and_read,
    the_key_may_come_as_a_header_and_the_id_may_be_left_out,
    a_repeat_gets_the_first_answer_and_another_body_none,
    what_belongs_to_another_order_is_refused_at_once,
    amounts_and_items_come_back_with_every_digit,
    what_breaks_a_rule_is_refused_with_its_member,
    lists_newest_first_by_user_and_status_in_pages,
    what_cannot_be_found_or_read_is_said_so,
);

async fn place(service: &RunningService, body: &Value) -> Result<Reply> {
    service.post("/api/v1/orders", body).await
}

async fn the_sample_is_taken_processed_and_read(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let sample = order("order-101", "unique-key-001");
    let reply = place(&service, &sample).await?;
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(reply.body, json!({"orderId": "order-101", "status": "PENDING"}));
    assert_eq!(reply.header("location"), Some("/api/v1/orders/order-101"));
    let order = stored(&service, "order-101").await?;
    let mut members: Vec<&String> = order.as_object().context("an object")?.keys().collect();
    members.sort();
    let expected = [
        "createdAt",
        "failureReason",
        "idempotencyKey",
        "items",
        "orderId",
        "status",
        "totalAmount",
        "updatedAt",
        "userId",
    ];
    assert_eq!(members, expected);
    for member in ["orderId", "userId", "totalAmount", "idempotencyKey", "items"] {
        assert_eq!(order[member], sample[member], "{member}");
    }
    assert_eq!(order["status"], "PROCESSED");
    assert_eq!(order["failureReason"], Value::Null);
    outcome_is(&service, "order_processed_queue", 1).await?;
    service.stop().await
}

async fn the_key_may_come_as_a_header_and_the_id_may_be_left_out(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let body = json!({"userId": "user-456", "totalAmount": "19.9", "items": [{"sku": "a"}]});
    let key = [("Idempotency-Key", "\"from the header\"")];
    let refused = service.post_with("/api/v1/orders", &body, &key).await?;
    assert_eq!(refused.status, 400, "a key has no spaces: {refused:?}");
    let key = [("Idempotency-Key", "\"from-the-header\"")];
    let reply = service.post_with("/api/v1/orders", &body, &key).await?;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.body["orderId"].as_str().context("an id")?.to_owned();
    assert_eq!(reply.header("location"), Some(format!("/api/v1/orders/{id}").as_str()));
    let order = stored(&service, &id).await?;
    assert_eq!(order["idempotencyKey"], "from-the-header");
    assert_eq!(order["totalAmount"], json!(19.9));

    let mut both = body.clone();
    both["idempotencyKey"] = json!("from-the-header-2");
    let same = [("Idempotency-Key", "from-the-header-2")];
    assert_eq!(service.post_with("/api/v1/orders", &both, &same).await?.status, 202);
    let differs = service.post_with("/api/v1/orders", &both, &key).await?;
    assert_eq!(differs.status, 422, "{differs:?}");
    let none = place(&service, &body).await?;
    assert_eq!(none.status, 422, "{none:?}");
    assert_eq!(none.body["errors"][0]["pointer"], "#/idempotencyKey");
    service.stop().await
}

async fn a_repeat_gets_the_first_answer_and_another_body_none(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let mut body = order("order-1", "key-1");
    let first = place(&service, &body).await?;
    let again = place(&service, &body).await?;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.text, again.text);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("location"), Some("/api/v1/orders/order-1"));
    body["totalAmount"] = json!(1);
    assert_eq!(place(&service, &body).await?.status, 422, "the same key, another body");
    settled(&service).await?;
    // Forgotten after 24 h; the order itself is not.
    service.store().execute("DELETE FROM idempotency_keys", vec![]).await?;
    assert_eq!(place(&service, &order("order-1", "key-1")).await?.status, 202);
    settled(&service).await?;
    assert_eq!(processed(&service).await?.len(), 1);
    service.stop().await
}

async fn what_belongs_to_another_order_is_refused_at_once(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    put(&service, &order("order-1", "key-1").to_string()).await?;
    count_is(&service, "orders", 1).await?;
    let used_id = place(&service, &order("order-1", "key-2")).await?;
    assert_eq!(used_id.status, 409, "{used_id:?}");
    let used_key = place(&service, &order("order-2", "key-1")).await?;
    assert_eq!(used_key.status, 409, "{used_key:?}");
    let mut anothers = order("order-1", "key-1");
    anothers["userId"] = json!("another-user");
    let anothers = place(&service, &anothers).await?;
    assert_eq!(anothers.status, 409, "{anothers:?}");
    assert_eq!(
        place(&service, &order("order-1", "key-1")).await?.status,
        202,
        "a repeat"
    );
    // What was refused leaves its key free.
    assert_eq!(place(&service, &order("order-2", "key-2")).await?.status, 202);
    stored(&service, "order-2").await?;
    service.stop().await
}

async fn amounts_and_items_come_back_with_every_digit(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let amounts = [
        ("99999999.99", "99999999.99"),
        ("0.01", "0.01"),
        ("\"12345678.91\"", "12345678.91"),
        ("1e2", "100.00"),
        ("99.990", "99.99"),
        ("70.1", "70.10"),
    ];
    let items = r#"[{"price":12345678901234567890.123456789,"name":"é"},null,[]]"#;
    for (n, (written, _)) in amounts.iter().enumerate() {
        let body = format!(
            r#"{{"orderId":"o{n}","userId":"u","totalAmount":{written},"idempotencyKey":"k{n}","items":{items}}}"#
        );
        if n % 2 == 0 {
            put(&service, &body).await?;
        } else {
            let json = [("Content-Type", "application/json")];
            let reply = service.send("POST", "/api/v1/orders", &json, body.into_bytes()).await?;
            ensure!(reply.status == 202, "{reply:?}");
        }
    }
    count_is(&service, "orders", amounts.len() as i64).await?;
    for (n, (written, exact)) in amounts.iter().enumerate() {
        let reply = service.get(&format!("/api/v1/orders/o{n}")).await?;
        let member = format!(r#""totalAmount":{exact},"#);
        assert!(reply.text.contains(&member), "{written}: {}", reply.text);
        assert!(reply.text.contains("12345678901234567890.123456789"), "{}", reply.text);
        assert_eq!(reply.body["items"], serde_json::from_str::<Value>(items)?);
    }
    service.stop().await
}

async fn what_breaks_a_rule_is_refused_with_its_member(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    let bad = [
        ("orderId", json!("")),
        ("orderId", json!(7)),
        ("orderId", json!(".")),
        ("orderId", json!("..")),
        ("userId", json!("x".repeat(256))),
        ("userId", Value::Null),
        ("totalAmount", json!(0)),
        ("totalAmount", json!(-1)),
        ("totalAmount", json!("1.001")),
        ("totalAmount", json!(100_000_000)),
        ("totalAmount", json!("ten")),
        ("totalAmount", json!(null)),
        ("idempotencyKey", json!("a\nb")),
        ("items", json!({})),
        ("items", json!("[]")),
        ("items", Value::Null),
        ("unknown", json!(1)),
    ];
    for (member, value) in bad {
        let mut body = order("order-1", "key-1");
        body[member] = value.clone();
        let reply = place(&service, &body).await?;
        assert_eq!(reply.status, 422, "{member} {value}: {reply:?}");
        assert_eq!(reply.body["errors"][0]["pointer"], format!("#/{member}"), "{reply:?}");
    }
    for member in ["userId", "totalAmount", "items"] {
        let mut body = order("order-1", "key-1");
        body.as_object_mut().context("an object")?.remove(member);
        let reply = place(&service, &body).await?;
        assert_eq!(reply.status, 422, "{member}: {reply:?}");
        assert_eq!(reply.body["errors"][0]["pointer"], format!("#/{member}"), "{reply:?}");
    }
    let json = [("Content-Type", "application/json")];
    let reply = service.send("POST", "/api/v1/orders", &json, b"{".to_vec()).await?;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(service.count("outbox_messages").await?, 0);
    service.stop().await
}

async fn lists_newest_first_by_user_and_status_in_pages(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    for n in 0..7 {
        let mut body = order(&format!("order {n}"), &format!("key-{n}"));
        body["userId"] = json!(if n % 2 == 0 { "ann" } else { "bob" });
        put(&service, &body.to_string()).await?;
    }
    count_is(&service, "orders", 7).await?;
    let mut seen = Vec::new();
    let mut path = "/api/v1/orders?userId=ann&limit=2".to_owned();
    loop {
        let page = service.get(&path).await?;
        ensure!(page.status == 200, "{page:?}");
        let items = page.body["items"].as_array().context("no items")?.clone();
        seen.extend(
            items
                .iter()
                .map(|item| (item["createdAt"].to_string(), item["orderId"].to_string())),
        );
        let Some(cursor) = page.body["next_cursor"].as_str() else {
            break;
        };
        ensure!(items.len() == 2);
        path = format!("/api/v1/orders?userId=ann&limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.reverse();
    assert_eq!(seen, sorted);
    let all = service.get("/api/v1/orders/").await?;
    assert_eq!(all.body["items"].as_array().map(Vec::len), Some(7));
    assert_eq!(all.body["next_cursor"], Value::Null);
    let processed = service.get("/api/v1/orders?status=PROCESSED").await?;
    assert_eq!(processed.body["items"].as_array().map(Vec::len), Some(7));
    let failed = service.get("/api/v1/orders?status=FAILED").await?;
    assert_eq!(failed.body["items"], json!([]));
    service.stop().await
}

async fn what_cannot_be_found_or_read_is_said_so(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(orders::service(), &database).await?;
    assert_eq!(service.get("/api/v1/orders/nothing").await?.status, 404);
    for query in ["limit=0", "limit=101", "limit=x", "status=done", "cursor=x", "userId="] {
        let reply = service.get(&format!("/api/v1/orders?{query}")).await?;
        assert_eq!(reply.status, 422, "{query}: {reply:?}");
    }
    service.stop().await
}
