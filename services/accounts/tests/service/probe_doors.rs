//! Every door tried with spellings, methods, bodies and origins that it is not made for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::Reply;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::guard_doors::{enter, guarded};
use crate::mailbox::{Accounts, LIMIT, PASSWORD, signup};
use crate::manage_users::USERS;
use crate::stage::Stage;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const LOGIN: &str = "/api/v1/auth/login";
const RESET: &str = "/api/v1/auth/password-reset";

/// What is for signed-in users, for the user of the path, or for administrators.
fn protected(id: &str) -> Vec<(&'static str, String)> {
    vec![
        ("GET", USERS.to_owned()),
        ("POST", USERS.to_owned()),
        ("GET", format!("{USERS}/{id}")),
        ("PUT", format!("{USERS}/{id}")),
        ("DELETE", format!("{USERS}/{id}")),
        ("GET", format!("{USERS}/me")),
        ("GET", format!("{USERS}/email/ann@example.com")),
        ("DELETE", format!("{USERS}/{id}/sessions")),
        ("GET", "/api/v1/auth/sessions".to_owned()),
        ("DELETE", format!("/api/v1/auth/sessions/{id}")),
        ("POST", "/api/v1/auth/logout-all".to_owned()),
        ("PUT", "/api/v1/auth/password".to_owned()),
        ("GET", "/api/v1/auth/introspect".to_owned()),
    ]
}

/// The status and the whole answer to `METHOD target`, which no client library has tidied up.
async fn raw(accounts: &Accounts, method: &str, target: &str, headers: &str) -> Result<(u16, String)> {
    let address = accounts.service.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await?;
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, text))
}

#[tokio::test]
async fn no_spelling_of_a_door_opens_it() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = guarded(&stage).await?;
    let (ann, _) = enter(&accounts, "ann@example.com", "user").await?;
    let (_, bob) = enter(&accounts, "bob@example.com", "user").await?;
    let bobs = format!("Authorization: Bearer {bob}\r\n");
    let tricks = |path: &str| {
        let (folder, last) = path.rsplit_once('/').unwrap_or_default();
        vec![
            format!("{path}/"),
            format!("{path}//"),
            format!("/{path}"),
            format!("{folder}//{last}"),
            format!("{folder}/./{last}"),
            format!("{folder}/x/../{last}"),
            format!("{folder}/x/%2e%2e/{last}"),
            format!("{folder}/%2e/{last}"),
            format!("{folder}%2f{last}"),
            format!("{path};x=1"),
            format!("{path}%00"),
            format!("{path}%20"),
            format!("{path}?access_token=x&role=admin"),
            format!("{path}#x"),
            path.to_uppercase(),
            path.replace("users", "%75sers").replace("auth", "%61uth"),
            format!("http://elsewhere.example{path}"),
        ]
    };
    for (method, path) in protected(&ann) {
        for target in tricks(&path) {
            let (status, text) = raw(&accounts, method, &target, "").await?;
            ensure!(
                [400, 401, 404, 405, 421, 422].contains(&status),
                "{method} {target}: {text}"
            );
            ensure!(!text.contains("ann@"), "{method} {target}: {text}");
        }
        for (other, headers) in [
            ("HEAD", ""),
            ("OPTIONS", ""),
            ("TRACE", ""),
            ("GET", "X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /health\r\n"),
            ("POST", "X-Method-Override: GET\r\nContent-Length: 0\r\n"),
            ("get", ""),
        ] {
            let (status, text) = raw(&accounts, other, &path, headers).await?;
            ensure!([400, 401, 404, 405].contains(&status), "{other} {path}: {text}");
        }
    }
    // The same with somebody else's token: what is Ann's is not there, what is the administrators' is refused.
    for (method, path) in protected(&ann).into_iter().filter(|(_, path)| path.contains(&ann)) {
        for target in tricks(&path) {
            let (status, text) = raw(&accounts, method, &target, &bobs).await?;
            ensure!(
                [400, 403, 404, 405, 415, 421, 422].contains(&status),
                "{method} {target}: {text}"
            );
            ensure!(!text.contains("ann@"), "{method} {target}: {text}");
        }
    }
    ensure!(accounts.service.count("users WHERE email = 'ann@example.com'").await? == 1);
    accounts.stop().await
}

#[tokio::test]
async fn bodies_that_cost_much_are_refused_at_once() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    let good = signup("ann@example.com").to_string();
    let with = |member: &str| format!("{},{member}}}", good.trim_end_matches('}')).into_bytes();
    let deep = |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    let many: String = (0..1_000_000).map(|n| format!("\"k{n}\":0,")).collect();
    let bodies = [
        ("33 deep", deep(33)),
        ("128 deep", deep(128)),
        ("200 deep", deep(200)),
        ("20,000 deep", deep(20_000)),
        ("100,000 deep", deep(100_000)),
        ("only opened", vec![b'['; 60_000]),
        ("a million members", format!("{{{}\"x\":0}}", many).into_bytes()),
        (
            "10 MB in one text",
            with(&format!("\"x\":\"{}\"", "x".repeat(10_000_000))),
        ),
        (
            "a number of 60,000 digits",
            with(&format!("\"x\":{}", "9".repeat(60_000))),
        ),
        ("a number beyond all", with("\"x\":1e999999999")),
        ("an escaped key", with(&format!("\"{}\":1", "\\u0041".repeat(9_000)))),
        ("a comment", [b"/* x */".to_vec(), good.clone().into_bytes()].concat()),
        (
            "a byte order mark",
            [b"\xef\xbb\xbf".to_vec(), good.clone().into_bytes()].concat(),
        ),
        ("half a character", with(r#""x":"\ud800""#)),
        (
            "a long way to write a slash",
            [b"{\"email\":\"\xc0\xaf\"}".to_vec()].concat(),
        ),
        ("something behind it", format!("{good}{good}").into_bytes()),
    ];
    for path in ["/signup", LOGIN, RESET, USERS] {
        for (what, body) in &bodies {
            let asked = Instant::now();
            // The connection may be closed before all of a large body was taken.
            let sent = accounts.service.send("POST", path, &[JSON], body.clone()).await;
            let took = asked.elapsed();
            match sent {
                Ok(reply) => {
                    ensure!([400, 413, 422].contains(&reply.status), "{path} {what}: {reply:?}");
                    ensure!(reply.text.len() < 2_000, "{path} {what}: {}", reply.text.len());
                }
                Err(error) => ensure!(body.len() > 1_000_000, "{path} {what}: {error:#}"),
            }
            // A fraction of that where nothing else runs; other tests are on the same cores.
            ensure!(took < Duration::from_secs(30), "{path} {what}: {took:?}");
        }
    }
    ensure!(accounts.service.count("users").await? == 0);
    ensure!(accounts.sign_up("ann@example.com").await?.status == 201);
    accounts.stop().await
}

/// What of an answer a stranger can compare.
fn visible(reply: &Reply) -> (u16, Vec<(String, String)>, Value) {
    let own = ["date", "x-correlation-id", "x-request-id", "ratelimit", "retry-after"];
    let headers = reply.headers().map(|(name, value)| match own.contains(&name) {
        true => (name.to_owned(), value.len().to_string()),
        false => (name.to_owned(), value),
    });
    let mut body = reply.body.clone();
    if body.get("correlation_id").is_some() {
        body["correlation_id"] = Value::Null;
    }
    (reply.status, headers.collect(), body)
}

#[tokio::test]
async fn known_and_unknown_addresses_have_the_same_answers() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    for email in ["known@example.com", "other@example.com"] {
        let reply = accounts.sign_up(email).await?;
        let path = format!("/users/{}", reply.body["user_id"].as_str().context("an id")?);
        ensure!(accounts.service.send("PUT", &path, &[], Vec::new()).await?.status == 200);
    }
    let wrong = "seventeen brass lanterns";
    let mut seen = Vec::new();
    // Of the same length, so that nothing else differs; the last attempts are those of a locked account.
    for email in ["known@example.com", "nobody@example.co"] {
        let mut answers = Vec::new();
        answers.push(visible(&accounts.service.post(RESET, &json!({"email": email})).await?));
        answers.push(visible(&accounts.register(email).await?));
        for _ in 0..7 {
            let body = json!({"email": email, "password": wrong});
            answers.push(visible(&accounts.service.post(LOGIN, &body).await?));
        }
        // A blank beside it is no way to another account, nor out of the lock.
        for spelled in [format!(" {email}"), format!("{email}\u{3000}"), email.to_uppercase()] {
            let body = json!({"email": spelled, "password": PASSWORD});
            let reply = accounts.service.post(LOGIN, &body).await?;
            ensure!([401, 422, 429].contains(&reply.status), "{spelled:?}: {reply:?}");
        }
        seen.push(answers);
        accounts.around.end_windows(accounts.service.store()).await?;
    }
    for (known, unknown) in seen[0].iter().zip(&seen[1]) {
        ensure!(known == unknown, "{known:?}\n{unknown:?}");
    }
    let statuses: Vec<u16> = seen[0].iter().map(|answer| answer.0).collect();
    ensure!(
        statuses == [202, 202, 401, 401, 401, 401, 401, 429, 429],
        "{statuses:?}"
    );
    accounts.stop().await
}

#[tokio::test]
async fn nothing_is_told_to_other_sites_and_nothing_about_the_inside() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let origins = [
        "https://evil.example",
        "null",
        "https://accounts.example.evil.example",
        "https://evilaccounts.example",
        "http://accounts.example",
        "https://accounts.example:8443",
    ];
    for origin in origins {
        for (method, path) in [
            ("OPTIONS", LOGIN),
            ("OPTIONS", USERS),
            ("GET", USERS),
            ("GET", "/.well-known/jwks.json"),
            ("POST", "/api/v1/auth/refresh"),
        ] {
            let headers = [
                ("Origin", origin),
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "content-type, x-requested-with"),
                ("Access-Control-Request-Private-Network", "true"),
            ];
            let reply = service.send(method, path, &headers, Vec::new()).await?;
            let allowed = reply.headers().any(|(name, _)| name.starts_with("access-control-"));
            ensure!(!allowed, "{origin} {method} {path}: {reply:?}");
            ensure!(method != "OPTIONS" || reply.status == 405, "{origin} {path}: {reply:?}");
        }
    }
    for path in [
        "/debug",
        "/debug/pprof",
        "/actuator",
        "/admin",
        "/api/v1/dead-letters",
        "/.env",
        "/.git/config",
        "/server-status",
        "/api/v1/users/..%2f..%2fmetrics",
    ] {
        let reply = service.get(path).await?;
        ensure!([404, 422].contains(&reply.status), "{path}: {reply:?}");
    }
    for path in ["/", "/livez", USERS, "/nothing", "/verify-email", "/metrics"] {
        let reply = service.get(path).await?;
        for name in ["server", "x-powered-by", "via"] {
            ensure!(reply.header(name).is_none(), "{path}: {reply:?}");
        }
        ensure!(
            reply.header("x-content-type-options") == Some("nosniff"),
            "{path}: {reply:?}"
        );
        let policy = reply.header("content-security-policy").unwrap_or_default();
        ensure!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
    }
    // A failure inside says nothing of it.
    service
        .refuse_rows("outbox_messages", "topic", "user_onboarding_queue")
        .await?;
    let reply = accounts.sign_up("ann@example.com").await?;
    ensure!([500, 503].contains(&reply.status), "{reply:?}");
    let text = reply.text.to_lowercase();
    for word in [
        "outbox",
        "sql",
        "constraint",
        "trigger",
        "refused",
        "postgres",
        "panicked",
        ".rs",
    ] {
        ensure!(!text.contains(word), "{word}: {text}");
    }
    service.accept_rows("outbox_messages").await?;
    ensure!(accounts.sign_up("ann@example.com").await?.status == 201);
    accounts.stop().await
}
