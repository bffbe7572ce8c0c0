//! What single requests are answered.

use posthaste_host::http::Limits;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::client::{Client, get_path, post_json, request, start};

const NOTE: &str = r#"{"text":"hello"}"#;

#[tokio::test]
async fn a_good_request_passes() {
    let server = start(Limits::default()).await;
    let answer = post_json(&server, "/notes", r#"{"text":"hé\tllo","count":3,"extra":{"a":[1]}}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"text": "hé\tllo", "count": 3, "extra": {"a": [1]}})
    );
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.header("content-security-policy"),
        Some("default-src 'none'; frame-ancestors 'none'")
    );
}

#[tokio::test]
async fn invalid_bodies_name_their_fields() {
    let server = start(Limits::default()).await;
    let deep = format!("{{\"text\":\"a\",\"extra\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let cases = [
        (r#"{"text":"#, 400, "", ""),
        (r#"{"text":"a"} x"#, 400, "", ""),
        ("", 400, "", ""),
        (r#"["a"]"#, 422, "#", "type"),
        (r#"{"text":"a","text":"b"}"#, 422, "#/text", "duplicate_key"),
        (
            r#"{"text":"a","extra":{"k":[{"x":1,"x":1}]}}"#,
            422,
            "#/extra/k/0/x",
            "duplicate_key",
        ),
        (r#"{"text":"a\u0000"}"#, 422, "#/text", "control_character"),
        (
            r#"{"text":"a","ignored":"\u001b"}"#,
            422,
            "#/ignored",
            "control_character",
        ),
        (deep.as_str(), 422, "#/extra/0", "too_deep"),
        ("{}", 422, "#/text", "missing"),
        (r#"{"text":1}"#, 422, "#/text", "type"),
        (r#"{"text":"a","count":256}"#, 422, "#/count", "value"),
        (r#"{"text":"","count":200}"#, 422, "#/text", "too_short"),
    ];
    for (body, status, pointer, kind) in cases {
        let answer = post_json(&server, "/notes", body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{body}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        if status == 422 {
            let error = &problem["errors"][0];
            assert!(
                error["pointer"].as_str().unwrap().starts_with(pointer),
                "{body}: {problem}"
            );
            assert_eq!(error["type"], kind, "{body}");
            assert_eq!(error["loc"][0], "body");
        }
    }
    let problem = post_json(&server, "/notes", r#"{"text":"","count":200}"#).await.json();
    assert_eq!(
        problem["errors"].as_array().unwrap().len(),
        2,
        "all broken rules are told: {problem}"
    );
    assert_eq!(problem["errors"][1]["loc"], json!(["body", "count"]));
}

#[tokio::test]
async fn a_service_may_promise_400() {
    let server = start(Limits::default()).await;
    for body in [
        "{}",
        "[]",
        r#"{"text":""}"#,
        r#"{"text":"a","text":"a"}"#,
        r#"{"text":"\u0000"}"#,
    ] {
        assert_eq!(post_json(&server, "/lenient", body).await.status, 400, "{body}");
    }
    assert_eq!(post_json(&server, "/lenient", NOTE).await.status, 200);
}

#[tokio::test]
async fn other_media_types_are_415() {
    let server = start(Limits::default()).await;
    let refused = [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json; charset=latin1\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
    ];
    for headers in refused {
        let answer = request(&server, "POST", "/notes", headers, NOTE).await;
        assert_eq!(answer.status, 415, "{headers}");
        assert_eq!(answer.json()["status"], 415);
    }
    for headers in [
        "Content-Type: Application/JSON; Charset=\"UTF-8\"\r\n",
        "Content-Type: application/x+json\r\n",
    ] {
        assert_eq!(
            request(&server, "POST", "/notes", headers, NOTE).await.status,
            200,
            "{headers}"
        );
    }
}

#[tokio::test]
async fn large_bodies_are_413_however_they_are_framed() {
    let server = start(Limits::default()).await;
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(post_json(&server, "/notes", &large).await.status, 413);
    assert_eq!(
        post_json(&server, "/large", &large).await.text(),
        "70000",
        "a route's own limit"
    );

    let chunked =
        "POST /notes HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Client::connect(&server).await;
    client.send(chunked).await;
    client.send("400\r\n").await;
    for _ in 0..70 {
        client.send(format!("{}\r\n400\r\n", "x".repeat(1024))).await;
    }
    client.send(format!("{}\r\n0\r\n\r\n", "x".repeat(1024))).await;
    assert_eq!(client.answer().await.status, 413);

    // Far beyond the limit, and more than the sockets hold: a client that sends all of it before it reads.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8 * 1024).unwrap();
    let mut client = Client(socket.connect(server.address).await.unwrap());
    let head = "POST /notes HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n";
    client.send(format!("{head}{}", "x".repeat(900_000))).await;
    assert_eq!(client.answer().await.status, 413);

    let mut client = Client::connect(&server).await;
    client
        .send(format!("{chunked}5\r\n{{\"tex\r\nb\r\nt\":\"hello\"}}\r\n0\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.json()["text"], "hello", "in parts");
    assert_eq!(
        request(
            &server,
            "POST",
            "/notes",
            "Content-Type: application/json\r\nContent-Length: 9000000\r\n",
            ""
        )
        .await
        .status,
        413
    );
}

#[tokio::test]
async fn parameters_are_checked() {
    let server = start(Limits::default()).await;
    let cases = [
        ("/notes/", 200),
        ("/notes/?limit=5&unknown=1", 200),
        ("/notes/?limit=0", 422),
        ("/notes/?limit=x", 422),
        ("/notes/?limit=1&limit=2", 422),
        ("/notes/?limit=%00", 422),
        ("/things/0190a0b0-0000-7000-8000-000000000001", 200),
        ("/things/nonsense", 422),
        ("/names/a%20b", 200),
        ("/names/%00", 422),
        ("/names/%ff", 422),
    ];
    for (path, status) in cases {
        let answer = get_path(&server, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        if status == 422 {
            let loc = answer.json()["errors"][0]["loc"].clone();
            let place = if path.contains('?') { "query" } else { "path" };
            assert_eq!(loc[0], place, "{path}");
            assert!(loc[1].is_string(), "{path}");
        }
    }
}

#[tokio::test]
async fn slashes_at_the_end_do_not_matter() {
    let server = start(Limits::default()).await;
    assert_eq!(get_path(&server, "/notes/?limit=7").await.text(), "Some(7)");
    assert_eq!(post_json(&server, "/lenient/", NOTE).await.status, 200);
    assert_eq!(get_path(&server, "/health/").await.text(), "ok");
    assert_eq!(get_path(&server, "/names/a/").await.text(), "a");
    for path in ["/health//", "//health", "/nothing", "/nothing/"] {
        let answer = get_path(&server, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["title"], "Not Found");
    }
}

#[tokio::test]
async fn other_methods_are_405_with_allow() {
    let server = start(Limits::default()).await;
    let answer = request(&server, "DELETE", "/lenient", "", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(answer.json()["status"], 405);
    let answer = request(&server, "PATCH", "/health/", "", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD")));
    let answer = request(&server, "BREW", "/health", "", "").await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn correlation_ids_are_taken_or_made() {
    let server = start(Limits::default()).await;
    let answer = request(&server, "GET", "/correlation", "X-Correlation-ID: abc.1-2_3\r\n", "").await;
    assert_eq!(answer.text(), "abc.1-2_3");
    assert_eq!(answer.header("x-correlation-id"), Some("abc.1-2_3"));
    assert_eq!(answer.header("x-request-id"), Some("abc.1-2_3"));

    let answer = request(
        &server,
        "GET",
        "/correlation",
        "X-Request-ID: hop-1\r\nX-Correlation-ID: a b\r\n",
        "",
    )
    .await;
    let made: uuid::Uuid = answer.text().parse().unwrap();
    assert_eq!(made.get_version_num(), 7);
    assert_eq!(answer.header("x-correlation-id"), Some(answer.text().as_str()));
    assert_eq!(answer.header("x-request-id"), Some("hop-1"));

    let answer = request(&server, "GET", "/nothing", "X-Correlation-ID: lost\r\n", "").await;
    assert_eq!(answer.json()["correlation_id"], "lost");
}

#[tokio::test]
async fn problems_have_their_members() {
    let server = start(Limits::default()).await;
    let answer = request(&server, "GET", "/broken", "X-Correlation-ID: c\r\n", "").await;
    assert_eq!((answer.status, answer.header("retry-after")), (409, Some("1")));
    assert_eq!(
        answer.json(),
        json!({"type": "about:blank", "title": "Taken", "status": 409, "detail": "Somebody has it.", "correlation_id": "c"})
    );
    let foreign = get_path(&server, "/foreign?x=1").await;
    assert_eq!(
        (foreign.status, foreign.header("content-type")),
        (400, Some("application/problem+json"))
    );
    assert!(!foreign.text().contains("deserialize"), "{}", foreign.text());
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let server = start(Limits::default()).await;
    let mut client = Client::connect(&server).await;
    for _ in 0..2 {
        client
            .send("GET /panic HTTP/1.1\r\nHost: t\r\nX-Correlation-ID: p\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.json()["correlation_id"], "p");
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    client.send("GET /health HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok", "on the same connection");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = start(Limits::default()).await;
    let mut client = Client::connect(&server).await;
    client
        .send("HEAD /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await;
    let answer = String::from_utf8(client.closed().await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}
