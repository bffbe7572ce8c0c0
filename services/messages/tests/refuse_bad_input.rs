//! Nothing that breaks a rule is taken in, and the answer says what is wrong without anybody's inside.

use anyhow::Result;
use posthaste_testkit::{RunningService, TestDatabase, on_each_database};
use serde_json::{Value, json};

on_each_database!(bad_bodies_are_refused_and_leave_nothing,);

const PATH: &str = "/api/v1/messages/send";

fn with(member: &str, value: Value) -> Vec<u8> {
    let mut message = json!({"content": "Hello", "sender": "ann"});
    message[member] = value;
    message.to_string().into_bytes()
}

fn raw(members: &str) -> Vec<u8> {
    format!(r#"{{"content":"Hello","sender":"ann"{members}}}"#).into_bytes()
}

fn invalid() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("no content", br#"{"sender":"ann"}"#.to_vec()),
        ("no sender", br#"{"content":"Hello"}"#.to_vec()),
        ("content is empty", with("content", json!(""))),
        ("content is too long", with("content", json!("x".repeat(1001)))),
        ("content has U+0000", with("content", json!("a\0b"))),
        ("content has an escape character", with("content", json!("\x1b[31m"))),
        ("content is a number", with("content", json!(1))),
        ("content is null", with("content", Value::Null)),
        ("content is a list", with("content", json!(["Hello"]))),
        ("sender is empty", with("sender", json!(""))),
        ("sender is too long", with("sender", json!("x".repeat(101)))),
        ("sender has a newline", with("sender", json!("a\nb"))),
        ("sender has a tab", with("sender", json!("a\tb"))),
        ("metadata is a list", with("metadata", json!([1]))),
        ("metadata is a text", with("metadata", json!("{}"))),
        ("metadata has U+0000", with("metadata", json!({"a": [{"b": "\0"}]}))),
        ("metadata's key has U+0000", with("metadata", json!({"a\0": 1}))),
        ("an unknown member", with("message_id", json!("x"))),
        ("a key twice", raw(r#","content":"Bye""#)),
        ("a key twice inside", raw(r#","metadata":{"a":1,"a":2}"#)),
        (
            "too deep",
            raw(&format!(
                r#","metadata":{{"a":{}1{}}}"#,
                "[".repeat(100),
                "]".repeat(100)
            )),
        ),
        ("an array of the values", br#"["Hello","ann",null]"#.to_vec()),
        ("null", b"null".to_vec()),
        ("a text", b"\"text\"".to_vec()),
    ]
}

fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", Vec::new()),
        ("half of it", raw("")[..20].to_vec()),
        ("something behind it", [raw(""), b"x".to_vec()].concat()),
        (
            "no UTF-8",
            [b"{\"content\":\"".to_vec(), vec![0xff, 0xfe], b"\"}".to_vec()].concat(),
        ),
        ("a lone surrogate", raw(r#","metadata":{"a":"\ud800"}"#)),
        ("single quotes", b"{'content':'Hello'}".to_vec()),
    ]
}

async fn bad_bodies_are_refused_and_leave_nothing(database: TestDatabase) -> Result<()> {
    let service = RunningService::start(messages::service(), &database).await?;
    let json = ("Content-Type", "application/json");
    for (status, cases) in [(422, invalid()), (400, malformed())] {
        for (what, body) in cases {
            let reply = service.send("POST", PATH, &[json], body).await?;
            assert_eq!(reply.status, status, "{what}: {reply:?}");
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
            assert!(reply.body["correlation_id"].is_string(), "{what}: {reply:?}");
        }
    }
    let wrong = service.send("POST", PATH, &[json], with("sender", json!(""))).await?;
    assert!(wrong.body["errors"].to_string().contains("sender"), "{wrong:?}");

    let huge = with("metadata", json!({"a": "x".repeat(100_000)}));
    assert_eq!(service.send("POST", PATH, &[json], huge).await?.status, 413);
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let reply = service
            .send("POST", PATH, &[("Content-Type", media_type)], raw(""))
            .await?;
        assert_eq!(reply.status, 415, "{media_type}: {reply:?}");
    }
    assert_eq!(service.send("POST", PATH, &[], raw("")).await?.status, 415);

    for table in ["messages", "outbox_messages", "queue_messages", "inbox_messages"] {
        assert_eq!(service.count(table).await?, 0, "{table}");
    }
    service.stop().await
}
