//! From the topic to the table, and the ways in which the service that this one replaces lost,
//! doubled or reordered messages.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::dead_letter::{self, Selection};
use posthaste_testkit::{RunningService, TestDatabase, on_each_database, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

on_each_database!(
    a_failed_message_is_not_skipped_and_holds_back_only_its_sender,
    a_transport_that_is_away_costs_no_row,
    the_correlation_id_reaches_outbox_envelope_headers_and_inbox,
    times_have_no_zone_where_that_is_asked_for,
    what_a_crash_sends_again_is_stored_once,
    bytes_that_are_no_message_become_dead_letters_here_and_on_the_dlq,
    messages_of_other_producers_are_accepted_in_any_time_zone,
    without_the_inbox_what_comes_again_is_handled_again,
);

const LIMIT: Duration = Duration::from_secs(90);
const TOPIC: &str = "integration-events.message_sent";

async fn send(service: &RunningService, content: &str, sender: &str) -> Result<String> {
    let message = json!({"content": content, "sender": sender});
    let reply = service.post("/api/v1/messages/send", &message).await?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(reply.body["data"]["message_id"]
        .as_str()
        .context("no message_id")?
        .to_owned())
}

async fn put(service: &RunningService, body: &[u8]) -> Result<()> {
    let sql = "INSERT INTO queue_messages (topic, body) VALUES ($1, $2)";
    service
        .store()
        .execute(sql, vec![TOPIC.into(), body.to_vec().into()])
        .await?;
    Ok(())
}

async fn count_is(service: &RunningService, table: &str, wanted: i64) -> Result<()> {
    wait_until(&format!("{wanted} rows in {table}"), LIMIT, || async {
        (service.count(table).await.ok()? == wanted).then_some(())
    })
    .await
}

/// Contents in the order in which they were stored: row ids ascend.
async fn stored(service: &RunningService, sender: &str) -> Result<Vec<String>> {
    let sql = "SELECT content FROM messages WHERE sender = $1 ORDER BY id";
    let rows = service.store().query(sql, vec![sender.into()]).await?;
    rows.iter().map(|row| Ok(row.get("content")?)).collect()
}

async fn stored_is(service: &RunningService, sender: &str, wanted: &[&str]) -> Result<()> {
    wait_until(&format!("{wanted:?} of {sender}"), LIMIT, || async {
        (stored(service, sender).await.ok()? == wanted).then_some(())
    })
    .await
}

async fn a_failed_message_is_not_skipped_and_holds_back_only_its_sender(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    service.refuse_rows("messages", "content", "not yet").await?;
    send(&service, "before", "ann").await?;
    send(&service, "not yet", "ann").await?;
    for n in 0..3 {
        send(&service, &format!("later {n}"), "ann").await?;
        send(&service, &format!("other {n}"), "bob").await?;
    }
    stored_is(&service, "bob", &["other 0", "other 1", "other 2"]).await?;
    stored_is(&service, "ann", &["before"]).await?;
    wait_until("the later ones to queue behind the failed one", LIMIT, || async {
        let parked = service.store().query(
            "SELECT message_id FROM inbox_messages WHERE status IN ('retrying', 'waiting')",
            vec![],
        );
        (parked.await.ok()?.len() == 4).then_some(())
    })
    .await?;
    assert_eq!(stored(&service, "ann").await?, ["before"], "none has overtaken it");

    service.accept_rows("messages").await?;
    stored_is(&service, "ann", &["before", "not yet", "later 0", "later 1", "later 2"]).await?;
    service.stop().await
}

async fn failures(service: &RunningService) -> Result<f64> {
    service
        .metric("posthaste_outbox_published_total", r#"posthaste_outcome="failed""#)
        .await
}

async fn a_transport_that_is_away_costs_no_row(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let store = service.store();
    let before = failures(&service).await?;
    // Without its table the sql: transport can neither take nor hand out anything.
    store
        .execute("ALTER TABLE queue_messages RENAME TO queue_messages_away", vec![])
        .await?;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(format!("number {n}"));
        send(&service, &sent[n], "ann").await?;
    }
    // More failed attempts than the three after which the rows used to be given up, and longer than a lease: the table that is missing must not end the leases.
    wait_until("the relay to fail often", LIMIT, || async {
        (failures(&service).await.ok()? >= before + 12.0).then_some(())
    })
    .await?;
    let pending = "SELECT event_id FROM outbox_messages WHERE status = 'pending'";
    assert_eq!(store.query(pending, vec![]).await?.len(), 5);

    store
        .execute("ALTER TABLE queue_messages_away RENAME TO queue_messages", vec![])
        .await?;
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    stored_is(&service, "ann", &sent).await?;
    wait_until("all rows to be marked", LIMIT, || async {
        store.query(pending, vec![]).await.ok()?.is_empty().then_some(())
    })
    .await?;
    service.stop().await
}

async fn the_correlation_id_reaches_outbox_envelope_headers_and_inbox(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let message = json!({"content": "Hello", "sender": "ann"});
    let correlated = [("X-Correlation-ID", "request-17")];
    let reply = service
        .post_with("/api/v1/messages/send", &message, &correlated)
        .await?;
    assert_eq!(reply.header("x-correlation-id"), Some("request-17"));
    let id = reply.body["data"]["message_id"].as_str().context("no message_id")?;
    count_is(&service, "messages", 1).await?;

    let sql = "SELECT event_id, message_key, topic, correlation_id, headers, body FROM outbox_messages";
    let rows = service.store().query(sql, vec![]).await?;
    let row = rows.first().context("no outbox row")?;
    assert_eq!(row.get::<String>("correlation_id")?, "request-17");
    assert_eq!(row.get::<String>("topic")?, TOPIC);
    assert_eq!(row.get::<String>("message_key")?, "ann");

    let event_id = row.uuid("event_id")?.to_string();
    let value: Value = serde_json::from_slice(&row.get::<Vec<u8>>("body")?)?;
    assert_eq!(value["event_id"], event_id);
    assert_eq!(value["event_type"], "MessageSentIntegrationEvent");
    assert_eq!(value["event_version"], "1.0");
    // Other consumers take a UUID there; the header has the text.
    assert_eq!(value["correlation_id"], Value::Null);
    assert_eq!(value["source_service"], "messages");
    assert_eq!(value["payload"]["message_id"], id);
    let attributes: Value = serde_json::from_str(&row.get::<String>("headers")?)?;
    let headers = json!({"event_type": "MessageSentIntegrationEvent", "event_id": event_id, "event_version": "1.0",
        "correlation_id": "request-17", "source_service": "messages"});
    assert_eq!(attributes["headers"], headers);
    assert_eq!(attributes["correlationid"], "request-17");

    let rows = service
        .store()
        .query("SELECT correlation_id FROM inbox_messages", vec![])
        .await?;
    assert_eq!(rows[0].get::<String>("correlation_id")?, "request-17");
    service.stop().await
}

async fn times_have_no_zone_where_that_is_asked_for(database: TestDatabase) -> Result<()> {
    let on = [("KAFKA_TIMES_WITHOUT_ZONE", "true")];
    let service = RunningService::start_with(messages::service(), &database, &on).await?;
    send(&service, "Hello", "ann").await?;
    stored_is(&service, "ann", &["Hello"]).await?;
    let rows = service
        .store()
        .query("SELECT body FROM outbox_messages", vec![])
        .await?;
    let value: Value = serde_json::from_slice(&rows[0].get::<Vec<u8>>("body")?)?;
    for time in [&value["occurred_at"], &value["payload"]["timestamp"]] {
        let time = time.as_str().context("no time")?;
        ensure!(
            chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H:%M:%S%.f").is_ok(),
            "{time}"
        );
    }
    service.stop().await
}

async fn published_is(service: &RunningService, wanted: usize) -> Result<()> {
    let published = "SELECT event_id FROM outbox_messages WHERE status = 'published'";
    wait_until(&format!("{wanted} rows to be marked"), LIMIT, || async {
        (service.store().query(published, vec![]).await.ok()?.len() == wanted).then_some(())
    })
    .await
}

async fn what_a_crash_sends_again_is_stored_once(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    for n in 0..10 {
        send(&service, &format!("number {n}"), "ann").await?;
    }
    count_is(&service, "messages", 10).await?;
    published_is(&service, 10).await?;
    // As if the process had died after the transport had the messages and before they were marked.
    let unmark = "UPDATE outbox_messages SET status = 'pending', published_at = NULL";
    service.store().execute(unmark, vec![]).await?;
    service.stop().await?;

    let service = RunningService::start(messages::service(), &database).await?;
    published_is(&service, 10).await?;
    service.queue_is_empty().await?;
    assert_eq!(service.count("messages").await?, 10);
    assert_eq!(service.count("inbox_messages").await?, 10);
    service.stop().await
}

async fn bytes_that_are_no_message_become_dead_letters_here_and_on_the_dlq(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let wrong_type = envelope("evt-1", "2026-11-21T10:00:00Z", |event| {
        event["event_type"] = json!("OrderProcessed")
    });
    let nul = envelope("evt-2", "2026-11-21T10:00:00Z", |event| {
        event["payload"]["content"] = json!("a\0b")
    });
    let no_time = envelope("evt-3", "soon", |_| {});
    let poison: [&[u8]; 7] = [b"no JSON", b"\xff\xfe\x00", b"[1]", b"{}", &wrong_type, &nul, &no_time];
    for (n, bytes) in poison.iter().enumerate() {
        put(&service, bytes).await?;
        send(&service, &format!("good {n}"), "ann").await?;
    }
    count_is(&service, "messages", poison.len() as i64).await?;
    let letters = wait_until("the dead letters", LIMIT, || async {
        let letters = dead_letter::list(service.store(), &Selection::default(), 100)
            .await
            .ok()?;
        (letters.len() == poison.len()).then_some(letters)
    })
    .await?;
    let copies = "SELECT body FROM queue_messages WHERE topic = 'integration-events.message_sent.dlq'";
    let copies = wait_until("the copies on the dead-letter topic", LIMIT, || async {
        let rows = service.store().query(copies, vec![]).await.ok()?;
        (rows.len() == poison.len()).then_some(rows)
    })
    .await?;
    let copies: Vec<Vec<u8>> = copies.iter().map(|row| row.get("body")).collect::<Result<_, _>>()?;
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
        assert_eq!(letter.attempts, 0, "dead at once");
        assert!(copies.iter().any(|copy| copy == bytes), "copied as it came");
    }
    service.stop().await
}

fn envelope(event_id: &str, timestamp: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut event = json!({
        "event_id": event_id, "event_type": "MessageSentIntegrationEvent", "event_version": "1.0",
        "occurred_at": "2026-11-21T10:00:00Z", "correlation_id": null, "causation_id": null,
        "source_service": "elsewhere", "content_type": "application/json", "schema_version": "1.0",
        "payload": {"message_id": Uuid::new_v5(&Uuid::NAMESPACE_OID, event_id.as_bytes()), "content": event_id,
            "sender": "eve", "timestamp": timestamp, "metadata": {"n": 1}},
    });
    change(&mut event);
    event.to_string().into_bytes()
}

async fn messages_of_other_producers_are_accepted_in_any_time_zone(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let times = [
        "2026-11-21T10:30:00.123456Z",
        "2026-11-21T12:30:00.123456+02:00",
        "2026-11-21T05:00:00.123456-05:30",
        "2026-11-21T10:30:00.123456",
    ];
    for (n, time) in times.iter().enumerate() {
        put(&service, &envelope(&format!("evt-{n}"), time, |_| {})).await?;
    }
    count_is(&service, "messages", 4).await?;
    let list = service.get("/api/v1/messages/sender/eve").await?;
    for item in list.body["data"].as_array().context("no data")? {
        let time = chrono::DateTime::parse_from_rfc3339(item["timestamp"].as_str().context("no timestamp")?)?;
        assert_eq!(time.to_utc().to_rfc3339(), "2026-11-21T10:30:00.123456+00:00");
        assert_eq!(item["metadata"], json!({"n": 1}));
    }
    // The same event once more, then another event with the same message: neither makes a row.
    put(&service, &envelope("evt-0", times[0], |_| {})).await?;
    let message_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"evt-0");
    put(
        &service,
        &envelope("evt-9", times[0], |event| {
            event["payload"]["message_id"] = json!(message_id)
        }),
    )
    .await?;
    service.queue_is_empty().await?;
    assert_eq!(service.count("messages").await?, 4);
    let inbox = service
        .store()
        .query("SELECT status FROM inbox_messages", vec![])
        .await?;
    let states: Vec<String> = inbox.iter().map(|row| row.get("status")).collect::<Result<_, _>>()?;
    assert_eq!(states, ["processed"; 5]);
    service.stop().await
}

async fn without_the_inbox_what_comes_again_is_handled_again(database: TestDatabase) -> Result<()> {
    let off = [("KAFKA_ENABLE_INBOX", "false")];
    let service = RunningService::start_with(messages::service(), &database, &off).await?;
    let id = Uuid::now_v7();
    let event =
        json!({"event_id": id, "event_type": "MessageSentIntegrationEvent", "occurred_at": "2026-11-21T12:00:00Z",
        "payload": {"message_id": id, "content": "again", "sender": "ann", "timestamp": "2026-11-21T12:00:00Z"}})
        .to_string();
    put(&service, event.as_bytes()).await?;
    put(&service, event.as_bytes()).await?;
    service.queue_is_empty().await?;
    assert_eq!(
        stored(&service, "ann").await?,
        ["again"],
        "the table itself has no message twice"
    );
    assert_eq!(service.count("inbox_messages").await?, 0);

    // With the inbox it would stay away.
    service.store().execute("DELETE FROM messages", vec![]).await?;
    put(&service, event.as_bytes()).await?;
    stored_is(&service, "ann", &["again"]).await?;

    // What fails is kept all the same, and tried again in its order.
    put(&service, b"no JSON").await?;
    count_is(&service, "inbox_messages WHERE status = 'dead'", 1).await?;
    service.refuse_rows("messages", "content", "not yet").await?;
    for content in ["not yet", "later"] {
        send(&service, content, "bob").await?;
    }
    count_is(&service, "inbox_messages WHERE status IN ('retrying', 'waiting')", 2).await?;
    service.accept_rows("messages").await?;
    stored_is(&service, "bob", &["not yet", "later"]).await?;
    service.stop().await
}
