//! One sign-up through the whole program: signed up, mailed, confirmed, recorded at notifications; no secret is logged.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::wait_until;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::program::{LIMIT, Program};

/// Everything that comes out of `pipe`, as it comes.
fn collect(pipe: impl AsyncRead + Send + Unpin + 'static, all: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(mut all) = all.lock() {
                all.push_str(&line);
                all.push('\n');
            }
        }
    });
}

async fn post(client: &Client, url: String, body: &Value) -> Result<(u16, Value)> {
    let json = ("Content-Type", "application/json");
    let reply = client
        .post(url)
        .header(json.0, json.1)
        .body(body.to_string())
        .send()
        .await?;
    let status = reply.status().as_u16();
    Ok((status, serde_json::from_str(&reply.text().await?).unwrap_or_default()))
}

#[tokio::test]
async fn a_sign_up_is_visible_from_end_to_end_and_its_secrets_nowhere() -> Result<()> {
    let program = Program::new()?;
    // Every line that anything can write, and nothing cut out of it.
    let talkative = [("RUST_LOG", "trace"), ("LOG_REDACTION_ENABLED", "false")];
    let mut child = program.command(&["--port", "0"], &talkative).spawn()?;
    let said = Arc::new(Mutex::new(String::new()));
    collect(child.stderr.take().context("stderr")?, said.clone());
    collect(child.stdout.take().context("stdout")?, said.clone());
    let all = || said.lock().map(|said| said.clone()).unwrap_or_default();
    let api = wait_until("the banner", LIMIT, || async {
        let said = all();
        said.contains("Started in").then_some(())?;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("API"))?;
        Some(line.trim().trim_end_matches('/').to_owned())
    })
    .await?;
    let client = Client::builder().timeout(LIMIT).build()?;
    let password = "canary otter vivid plumber";
    let body = json!({"email": "ann@example.com", "first_name": "Ann", "last_name": "Lee", "password": password});
    let (status, signed_up) = post(&client, format!("{api}/signup"), &body).await?;
    ensure!(status == 201, "{signed_up}");
    // Requests that fail are logged, too.
    let mut wrong = body.clone();
    wrong["first_name"] = json!("");
    for (path, body, wanted) in [
        ("/signup", &body, 409),
        ("/signup", &wrong, 422),
        ("/api/v1/auth/register", &body, 202),
    ] {
        let (status, answer) = post(&client, format!("{api}{path}"), body).await?;
        ensure!(status == wanted, "{path}: {answer}");
    }
    let mail = wait_until("the mail", LIMIT, || async {
        let mut entries = std::fs::read_dir(program.folder().join("data/mail")).ok()?;
        entries.find_map(|entry| {
            let text = std::fs::read_to_string(entry.ok()?.path()).ok()?;
            text.contains("#token=").then_some(text)
        })
    })
    .await?;
    let token = mail
        .split("#token=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .context("no token")?;
    let (status, answer) = post(
        &client,
        format!("{api}/api/v1/auth/verify-email"),
        &json!({"token": token}),
    )
    .await?;
    ensure!(status == 204, "{answer}");

    let id = signed_up["user_id"].as_str().context("no id")?;
    let event = wait_until("the user among the events", LIMIT, || async {
        let url = format!("{api}/api/events?user_id={id}");
        let text = client.get(url).send().await.ok()?.text().await.ok()?;
        let page: Value = serde_json::from_str(&text).ok()?;
        page["items"].get(0).cloned()
    })
    .await?;
    ensure!(event["event_type"] == "user.registered", "{event}");
    child.kill().await?;
    let said = all();
    ensure!(said.contains("verify-email"), "the log tells of the requests");
    for secret in [password, token, "$argon2id$", "canary"] {
        ensure!(!said.contains(secret), "{secret} is logged");
    }
    Ok(())
}
