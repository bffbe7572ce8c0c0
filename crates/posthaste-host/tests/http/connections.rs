//! What connections may take, and what they must not be told.

use std::time::Instant;

use posthaste_host::http::Limits;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, DEADLINE, SHORT, get_path, start};

const GET: &str = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n";

#[tokio::test]
async fn a_half_sent_head_is_closed_in_time() {
    let server = start(Limits {
        head: SHORT,
        ..Limits::default()
    })
    .await;
    for beginning in ["", "GET /health HT", "GET /health HTTP/1.1\r\nHost: t\r\n"] {
        let began = Instant::now();
        let mut client = Client::connect(&server).await;
        client.send(beginning).await;
        client.closed().await;
        assert!(began.elapsed() >= SHORT, "{beginning:?}");
    }
    assert_eq!(get_path(&server, "/health").await.status, 200);
}

#[tokio::test]
async fn idle_time_and_head_time_are_two_limits() {
    let server = start(Limits {
        head: SHORT,
        idle: DEADLINE * 2,
        ..Limits::default()
    })
    .await;
    let mut client = Client::connect(&server).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.status, 200);
    // Longer idle than a head may take: the connection is still good.
    let idle = tokio::time::timeout(SHORT * 3, client.0.readable()).await;
    assert!(idle.is_err(), "closed while idle");
    client.send(GET).await;
    assert_eq!(client.answer().await.status, 200);
    client.send("GET /hea").await;
    assert!(client.closed().await.is_empty());

    let server = start(Limits {
        idle: SHORT,
        ..Limits::default()
    })
    .await;
    let mut client = Client::connect(&server).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.status, 200);
    assert!(client.closed().await.is_empty(), "idle for too long");
}

#[tokio::test]
async fn a_slow_body_is_408() {
    let server = start(Limits {
        body: SHORT,
        ..Limits::default()
    })
    .await;
    for framing in [
        "Content-Length: 20\r\n\r\n{\"te",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"te\r\n",
    ] {
        let mut client = Client::connect(&server).await;
        client
            .send(format!(
                "POST /notes HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n{framing}"
            ))
            .await;
        assert_eq!(client.answer().await.status, 408, "{framing}");
        assert!(client.closed().await.is_empty());
    }
}

#[tokio::test]
async fn a_hanging_handler_is_503() {
    let server = start(Limits {
        request: SHORT,
        ..Limits::default()
    })
    .await;
    let answer = get_path(&server, "/hang").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert!(answer.json()["correlation_id"].is_string());
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_let_go() {
    let server = start(Limits {
        stall: SHORT,
        connections: 1,
        ..Limits::default()
    })
    .await;
    let mut deaf = Client::connect(&server).await;
    // Pipelined requests for the largest file until the server can write no more.
    let get = "GET /redoc/assets/redoc.standalone.js HTTP/1.1\r\nHost: t\r\n\r\n".repeat(100);
    deaf.send(get).await;
    // The one connection that may be open is free again.
    assert_eq!(get_path(&server, "/health").await.status, 200);
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let server = start(Limits {
        connections: 1,
        request: DEADLINE * 2,
        ..Limits::default()
    })
    .await;
    let mut first = Client::connect(&server).await;
    first.send("GET /hang HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let mut second = Client::connect(&server).await;
    second.send(GET).await;
    let early = tokio::time::timeout(SHORT, second.0.readable()).await;
    assert!(early.is_err(), "served beyond the limit");
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

/// Each address is below its share, and together they have all connections.
#[tokio::test]
async fn where_all_connections_are_taken_the_one_with_the_most_gives_up_an_idle_one() {
    let server = start(Limits {
        connections: 3,
        ..Limits::default()
    })
    .await;
    let mut alone = Client::connect_from([127, 0, 0, 2], &server).await;
    alone.send(GET).await;
    assert_eq!(alone.answer().await.status, 200);
    let mut greedy = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect_from([127, 0, 0, 3], &server).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        greedy.push(client);
    }
    let mut new = Client::connect_from([127, 0, 0, 4], &server).await;
    new.send(GET).await;
    assert_eq!(new.answer().await.status, 200);
    assert!(greedy[0].closed().await.is_empty(), "the one that was idle for longest");
    for client in [&mut alone, &mut greedy[1]] {
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn one_address_keeps_nobody_out() {
    let server = start(Limits {
        per_address: 3,
        ..Limits::default()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&server).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        open.push(client);
    }
    // The one that was idle for longest makes room, the others go on.
    let mut fourth = Client::connect(&server).await;
    fourth.send(GET).await;
    assert_eq!(fourth.answer().await.status, 200);
    assert!(open[0].closed().await.is_empty(), "the first one");
    open[2].send(GET).await;
    assert_eq!(open[2].answer().await.status, 200, "the third one");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let server = start(Limits::default()).await;
    let json = "Content-Type: application/json\r\n";
    let body = "10\r\n{\"text\":\"hello\"}\r\n0\r\n\r\n";
    let cases = [
        format!(
            "POST /notes HTTP/1.1\r\nHost: t\r\n{json}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{body}"
        ),
        format!(
            "POST /notes HTTP/1.1\r\nHost: t\r\n{json}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ),
        format!(
            "POST /notes HTTP/1.1\r\nHost: t\r\n{json}content-length: 26\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ),
        format!("POST /notes HTTP/1.1\r\nHost: t\r\n{json}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{body}"),
        format!("POST /notes HTTP/1.1\r\nHost: t\r\n{json}Transfer-Encoding: gzip\r\n\r\n{body}"),
        "GET /health HTTP/1.1\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
    ];
    for request in cases {
        let mut client = Client::connect(&server).await;
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{request}");
        client.closed().await;
    }
    // The second head's length arrived together with the first request.
    let mut client = Client::connect(&server).await;
    let second = format!("POST /notes HTTP/1.1\r\nHost: t\r\n{json}Content-Length: 5\r\n");
    client.send(format!("{GET}{second}")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(format!("Transfer-Encoding: chunked\r\n\r\n{body}")).await;
    assert_eq!(client.answer().await.status, 400);
}

/// Requests whose end two programs on the way could see in different places.
#[tokio::test]
async fn nothing_hides_behind_an_odd_framing() {
    let server = start(Limits::default()).await;
    let json = "Content-Type: application/json\r\n";
    let hidden = "GET /hidden HTTP/1.1\r\nHost: t\r\n\r\n";
    let body = "10\r\n{\"text\":\"hello\"}\r\n0\r\n\r\n";
    let post = |framing: &str, rest: &str| format!("POST /notes HTTP/1.1\r\nHost: t\r\n{json}{framing}\r\n\r\n{rest}");
    let cases = [
        post("Transfer-Encoding : chunked", body),
        post("Transfer-Encoding: xchunked", body),
        post("Transfer-Encoding: chunked, identity", body),
        post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", body),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", body),
        post("Transfer-Encoding: gzip, chunked", body),
        post("Transfer-Encoding:\x0bchunked", body),
        post("X: y\r\n Transfer-Encoding: chunked", body),
        post("Content-Length: +26", body),
        post("Content-Length: 5, 6", body),
        post("Content-Length: 0x1a", body),
        post("Content-Length: -1", body),
        post("Content-Length: 99999999999999999999", body),
        post("Transfer-Encoding: chunked", "ffffffffffffffff1\r\nx\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "-1\r\nx\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "1 1\r\nx\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "5\r\n{\"texXX0\r\n\r\n"),
        post(
            "Transfer-Encoding: chunked",
            &format!("1;{}\r\n{{\r\n0\r\n\r\n", "x".repeat(60_000)),
        ),
        post("Transfer-Encoding: chunked", "1\n{\n0\n\n"),
        "GET /health HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: t\r\nX: a\rb: c\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n".to_owned(),
        "GET  /health HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\nHost: t\r\n\r\n".to_owned(),
        format!(
            "GET /health HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n",
            "x".repeat(1_000_000)
        ),
    ];
    for request in cases {
        let mut client = Client::connect(&server).await;
        // The server may hang up before it has all of a large one.
        drop(client.0.write_all(format!("{request}{hidden}").as_bytes()).await);
        let all = String::from_utf8_lossy(&client.closed().await).into_owned();
        let head: String = request.chars().take(160).collect();
        let first = all.split(' ').nth(1).unwrap_or_default();
        // Without an answer the connection has at least been closed.
        assert!(
            ["400", "408", "413", "422", "431", ""].contains(&first),
            "{head}: {all}"
        );
        assert_eq!(
            all.matches("HTTP/1.1 ").count(),
            usize::from(!first.is_empty()),
            "{head}: {all}"
        );
    }
    assert_eq!(get_path(&server, "/health").await.status, 200);
}

#[tokio::test]
async fn chunked_requests_work_one_after_the_other() {
    let server = start(Limits::default()).await;
    let mut client = Client::connect(&server).await;
    let head =
        "POST /notes HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "ok");
        client.send(&head[..40]).await;
        client.0.flush().await.unwrap();
        client.send(&head[40..]).await;
        client.send("10\r\n{\"text\":\"hello\"}\r\n0\r\n\r\n").await;
        assert_eq!(client.answer().await.json()["text"], "hello");
    }
}

#[tokio::test]
async fn old_and_broken_clients() {
    let server = start(Limits::default()).await;
    let mut client = Client::connect(&server).await;
    client.send("GET /health HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200, "HTTP/1.0 needs no Host");
    client.closed().await;
    let cases = [
        ("GET /\0 HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        (
            format!("GET /health HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
            431,
        ),
        (
            format!("GET /health HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(120)),
            431,
        ),
        (format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(70_000)), 431),
    ];
    for (request, status) in cases {
        let mut client = Client::connect(&server).await;
        client.send(&request).await;
        assert_eq!(client.answer().await.status, status, "{}", &request[..30]);
    }
}

#[tokio::test]
async fn a_stop_lets_work_finish_and_closes_idle_connections() {
    let server = start(Limits {
        request: SHORT,
        ..Limits::default()
    })
    .await;
    let mut idle = Client::connect(&server).await;
    idle.send(GET).await;
    idle.answer().await;
    let mut busy = Client::connect(&server).await;
    busy.send("GET /hang HTTP/1.1\r\nHost: t\r\n\r\n").await;
    // The server has the request once it has answered a later one.
    get_path(&server, "/health").await;
    server.stop.cancel();
    assert_eq!(busy.answer().await.status, 503, "answered, not cut off");
    assert!(idle.closed().await.is_empty());
    tokio::time::timeout(DEADLINE, server.ended)
        .await
        .expect("stops")
        .unwrap();
}
