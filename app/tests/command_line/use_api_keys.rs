//! `api-keys`: programs call with a key, as far as its scopes go and until it is revoked.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use posthaste_testkit::wait_until;

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::{api_of, keep_log};

const ENFORCED: (&str, &str) = ("POSTHASTE_AUTH", "enforced");

async fn call(method: &str, url: &str, bearer: &str, body: Option<&Value>) -> Result<(u16, String)> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let mut request = client.request(method.parse()?, url);
    if !bearer.is_empty() {
        request = request.bearer_auth(bearer);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// A new key and its id.
async fn create(program: &Program, arguments: &[&str]) -> Result<(String, String)> {
    let ran = program.run(&[&["api-keys", "create"], arguments].concat(), &[]).await?;
    ensure!(ran.code == 0, "{ran:?}");
    let id = ran.stderr.split_whitespace().nth(2).context("an id")?.to_owned();
    ensure!(id.parse::<Uuid>().is_ok(), "{ran:?}");
    Ok((ran.stdout.trim().to_owned(), id))
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say_until_it_is_revoked() -> Result<()> {
    let program = Program::new()?;
    ensure!(program.run(&["migrate", "up"], &[]).await?.code == 0);
    for wrong in [
        &["api-keys", "create", "ci", "--scope", "orders:destroy"][..],
        &["api-keys", "create", "", "--scope", "orders:read"],
        &["api-keys", "revoke", "00000000-0000-0000-0000-000000000001"],
    ] {
        let ran = program.run(wrong, &[]).await?;
        ensure!(ran.code == 1 && !ran.stderr.is_empty(), "{ran:?}");
    }
    let (writer, writer_id) = create(&program, &["writer", "--scope", "orders:write,orders:read"]).await?;
    let (reader, _) = create(&program, &["reader", "--scope", "orders:read", "--expires-in", "7"]).await?;
    let (scraper, _) = create(&program, &["scraper", "--scope", "metrics:read"]).await?;
    let (people, _) = create(&program, &["people", "--scope", "users:read", "--scope", "users:write"]).await?;

    // No secret is listed, and none lies in the database.
    let listed = program.run(&["api-keys", "list"], &[]).await?;
    ensure!(
        listed.stdout.contains("writer") && listed.stdout.contains("orders:read"),
        "{listed:?}"
    );
    let file = std::fs::read(program.folder().join("data/posthaste.db"))?;
    let wal = std::fs::read(program.folder().join("data/posthaste.db-wal")).unwrap_or_default();
    for key in [&writer, &reader, &scraper] {
        ensure!(key.starts_with("ph_") && key.len() == 67, "{}", key.len());
        ensure!(!listed.stdout.contains(key.as_str()));
        for bytes in [&file, &wal] {
            ensure!(!bytes.windows(64).any(|window| window == &key.as_bytes()[3..]));
        }
    }

    // Without the accounts service and without one to ask, keys are all there is.
    let mut child = program.command(&["serve", "--port", "0"], &[ENFORCED]).spawn()?;
    let api = api_of(&mut child).await?.trim_end_matches('/').to_owned();
    drop(keep_log(&mut child)?);
    let orders = format!("{api}/api/v1/orders");
    let order = json!({"orderId": "o1", "userId": "anybody", "totalAmount": 1, "idempotencyKey": "k", "items": []});
    let forged = format!("ph_{}", "0".repeat(64));
    for (method, path, key, body, status) in [
        ("POST", "/api/v1/orders", &writer, Some(&order), 202),
        ("GET", "/api/v1/orders", &writer, None, 200),
        ("GET", "/api/v1/orders/", &reader, None, 200),
        ("POST", "/api/v1/orders", &reader, Some(&order), 403),
        ("GET", "/api/events", &writer, None, 403),
        ("GET", "/api/v1/messages", &writer, None, 403),
        ("GET", "/metrics", &writer, None, 403),
        ("GET", "/metrics", &scraper, None, 200),
        ("GET", "/metrics/", &scraper, None, 200),
        ("GET", "/api/v1/orders", &scraper, None, 403),
        ("GET", "/api/v1/orders", &forged, None, 401),
        ("GET", "/nothing", &writer, None, 404),
        ("GET", "/nothing", &forged, None, 401),
        ("GET", "/api/v1/users", &people, None, 200),
        ("GET", "/api/v1/users", &reader, None, 403),
        // A key is no user.
        ("GET", "/api/v1/users/me", &people, None, 403),
        ("POST", "/api/v1/auth/logout-all", &people, None, 403),
        ("GET", "/api/v1/auth/introspect", &people, None, 403),
    ] {
        let (answered, text) = call(method, &format!("{api}{path}"), key, body).await?;
        ensure!(answered == status, "{method} {path}: {answered} {text}");
    }
    let new = json!({"email": "bot@example.com", "first_name": "Bot", "last_name": "One"});
    let (status, text) = call("POST", &format!("{api}/api/v1/users"), &people, Some(&new)).await?;
    ensure!(status == 201, "{status} {text}");

    let revoked = program.run(&["api-keys", "revoke", &writer_id], &[]).await?;
    ensure!(revoked.code == 0, "{revoked:?}");
    wait_until("the key to open nothing", LIMIT, || async {
        (call("GET", &orders, &writer, None).await.ok()?.0 == 401).then_some(())
    })
    .await?;
    ensure!(call("GET", &orders, &reader, None).await?.0 == 200, "another key");
    let again = program.run(&["api-keys", "revoke", &writer_id], &[]).await?;
    ensure!(again.code == 1, "{again:?}");
    child.kill().await?;

    // A process without accounts, and with its operators' listener apart.
    let apart = [ENFORCED, ("OPS_PORT", "0")];
    let mut child = program.command(&["serve", "orders", "--port", "0"], &apart).spawn()?;
    let mut lines = crate::serve_and_stop::banner_of(&mut child).await?;
    drop(keep_log(&mut child)?);
    let api = lines.remove("API").context("API")?.trim_end_matches('/').to_owned();
    let metrics = lines.remove("Metrics").context("Metrics")?;
    ensure!(call("GET", &format!("{api}/api/v1/orders"), &reader, None).await?.0 == 200);
    ensure!(call("GET", &format!("{api}/api/v1/orders"), "a.b.c", None).await?.0 == 401);
    ensure!(
        call("GET", &format!("{api}/metrics"), &scraper, None).await?.0 == 404,
        "it is elsewhere"
    );
    let (status, text) = call("GET", &metrics, "", None).await?;
    ensure!(
        status == 200 && text.contains("posthaste_build_info"),
        "{status} {text}"
    );
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let rebound = client.get(&metrics).header("Host", "evil.example").send().await?;
    ensure!(rebound.status() == 421, "{rebound:?}");
    child.kill().await?;
    Ok(())
}
