//! Nothing that breaks a rule is taken in, and the answer says what is wrong without anybody's inside.

use anyhow::Result;
use posthaste_testkit::{RunningService, TestDatabase, on_each_database};
use serde_json::{Value, json};

on_each_database!(bad_bodies_are_refused_and_leave_nothing,);

const USER: &str = "550e8400-e29b-41d4-a716-446655440000";

fn with(member: &str, value: Value) -> Vec<u8> {
    let mut event = json!({"user_id": USER, "event_type": "t", "message": "m"});
    event[member] = value;
    event.to_string().into_bytes()
}

fn without(member: &str) -> Vec<u8> {
    let mut event = json!({"user_id": USER, "event_type": "t", "message": "m"});
    if let Some(members) = event.as_object_mut() {
        members.remove(member);
    }
    event.to_string().into_bytes()
}

fn raw(members: &str) -> Vec<u8> {
    format!(r#"{{"user_id":"{USER}","event_type":"t","message":"m"{members}}}"#).into_bytes()
}

fn invalid() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("no user", without("user_id")),
        ("no type", without("event_type")),
        ("no message", without("message")),
        ("user is no UUID", with("user_id", json!("nobody"))),
        ("user is a number", with("user_id", json!(7))),
        ("user is null", with("user_id", Value::Null)),
        ("type is empty", with("event_type", json!(""))),
        ("type is too long", with("event_type", json!("x".repeat(101)))),
        ("type has a newline", with("event_type", json!("a\nb"))),
        ("type has U+0000", with("event_type", json!("a\0b"))),
        ("message is empty", with("message", json!(""))),
        ("message is too long", with("message", json!("x".repeat(32_769)))),
        ("message has too many bytes", with("message", json!("é".repeat(16_385)))),
        ("message has U+0000", with("message", json!("a\0b"))),
        ("message has an escape character", with("message", json!("\x1b[31m"))),
        ("message is a number", with("message", json!(1))),
        ("message is a list", with("message", json!(["m"]))),
        ("payload is a list", with("payload", json!([1]))),
        ("payload is a text", with("payload", json!("{}"))),
        ("payload is a number", with("payload", json!(1))),
        ("payload has U+0000", with("payload", json!({"a": [{"b": "\0"}]}))),
        ("payload's key has U+0000", with("payload", json!({"a\0": 1}))),
        ("id is no UUID", with("event_id", json!("17"))),
        (
            "id is nil",
            with("event_id", json!("00000000-0000-0000-0000-000000000000")),
        ),
        ("an unknown member", with("user", json!("x"))),
        ("a key twice", raw(r#","message":"n""#)),
        ("a key twice inside", raw(r#","payload":{"a":1,"a":2}"#)),
        (
            "too deep",
            raw(&format!(
                r#","payload":{{"a":{}1{}}}"#,
                "[".repeat(200),
                "]".repeat(200)
            )),
        ),
        ("a number without end", raw(r#","payload":{"a":1e999}"#)),
        ("a lone surrogate", raw(r#","payload":{"a":"\ud800"}"#)),
        (
            "an array of the values",
            format!(r#"["{USER}","t","m",null,null]"#).into_bytes(),
        ),
        ("a list of events", [b"[".to_vec(), raw(""), b"]".to_vec()].concat()),
        ("null", b"null".to_vec()),
        ("a text", b"\"text\"".to_vec()),
        ("nothing", Vec::new()),
        ("half of it", raw("")[..20].to_vec()),
        ("something behind it", [raw(""), b"x".to_vec()].concat()),
        (
            "no UTF-8",
            [b"{\"message\":\"".to_vec(), vec![0xff, 0xfe], b"\"}".to_vec()].concat(),
        ),
        ("single quotes", b"{'message':'m'}".to_vec()),
    ]
}

async fn bad_bodies_are_refused_and_leave_nothing(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(notifications::service(), &database).await?;
    let json = ("Content-Type", "application/json");
    for (what, body) in invalid() {
        let reply = service.send("POST", "/api/events", &[json], body).await?;
        assert_eq!(reply.status, 400, "{what}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(reply.body["status"], 400, "{what}: {reply:?}");
        assert!(reply.body["correlation_id"].is_string(), "{what}: {reply:?}");
    }
    let wrong = service
        .send("POST", "/api/events", &[json], with("event_type", json!("")))
        .await?;
    assert!(wrong.body["errors"].to_string().contains("event_type"), "{wrong:?}");

    let huge = with("payload", json!({"a": "x".repeat(300_000)}));
    assert_eq!(service.send("POST", "/api/events", &[json], huge).await?.status, 413);
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        let reply = service
            .send("POST", "/api/events", &[("Content-Type", media_type)], raw(""))
            .await?;
        assert_eq!(reply.status, 415, "{media_type}: {reply:?}");
    }
    assert_eq!(service.send("POST", "/api/events", &[], raw("")).await?.status, 415);

    service.queue_is_empty().await?;
    for table in ["processed_events", "outbox_messages", "inbox_messages"] {
        assert_eq!(service.count(table).await?, 0, "{table}");
    }
    service.stop().await
}
