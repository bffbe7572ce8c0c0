//! `create-admin` and `revoke-keys`, and what an administrator may do in a process that asks for tokens; over a `kill -9`.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::{api_of, keep_log};

const ADMIN: &str = "admin@example.com";
const PASSWORD: &str = "plumber otter vivid canal";
const ENFORCED: [(&str, &str); 1] = [("POSTHASTE_AUTH", "enforced")];

async fn start(program: &Program, variables: &[(&str, &str)]) -> Result<(Child, String)> {
    let mut child = program.command(&["--port", "0"], variables).spawn()?;
    let api = api_of(&mut child).await?;
    Ok((child, api.trim_end_matches('/').to_owned()))
}

/// The status and JSON body of a request, with `bearer` where there is one.
async fn call(method: &str, url: &str, bearer: &str, body: Option<&Value>) -> Result<(u16, Value, Option<String>)> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let mut request = client.request(method.parse()?, url);
    if !bearer.is_empty() {
        request = request.bearer_auth(bearer);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await?;
    let cookie = match answer.headers().get("set-cookie") {
        Some(cookie) => Some(cookie.to_str()?.to_owned()),
        None => None,
    };
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or_default(), cookie))
}

async fn log_in(api: &str, email: &str, password: &str) -> Result<(String, String)> {
    let body = json!({"email": email, "password": password});
    let (status, body, cookie) = call("POST", &format!("{api}/api/v1/auth/login"), "", Some(&body)).await?;
    ensure!(status == 200, "{status} {body}");
    let token = body["access_token"].as_str().context("no token")?.to_owned();
    Ok((token, cookie.context("no cookie")?))
}

#[tokio::test]
async fn the_first_administrator_comes_from_the_command_line() -> Result<()> {
    let program = Program::new()?;
    ensure!(
        program.run(&["create-admin", ADMIN], &[]).await?.code == 1,
        "there is no schema yet"
    );
    ensure!(program.run(&["migrate", "up"], &[]).await?.code == 0);
    let mut child = program
        .command(&["create-admin", ADMIN], &[])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("stdin")?;
    input.write_all(format!("{PASSWORD}\n").as_bytes()).await?;
    drop(input);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && said == format!("{ADMIN} is an administrator.\n"),
        "{said}"
    );
    let again = program.run(&["create-admin", "ADMIN@example.com"], &[]).await?;
    ensure!(
        again.code == 0 && again.stdout.contains("the password stays"),
        "{again:?}"
    );
    let weak = program.run(&["create-admin", "no address"], &[]).await?;
    ensure!(weak.code == 1 && weak.stderr.contains("address"), "{weak:?}");
    let help = program.run(&["--help"], &[]).await?;
    ensure!(
        help.stdout.contains("create-admin") && help.stdout.contains("revoke-keys"),
        "{help:?}"
    );

    let (mut child, api) = start(&program, &ENFORCED).await?;
    let users = format!("{api}/api/v1/users");
    ensure!(call("GET", &users, "", None).await?.0 == 401);
    let (token, _) = log_in(&api, ADMIN, PASSWORD).await?;
    let (left, _) = log_in(&api, ADMIN, PASSWORD).await?;
    ensure!(call("POST", &format!("{api}/api/v1/auth/logout"), &left, None).await?.0 == 204);
    let (status, list, _) = call("GET", &users, &token, None).await?;
    ensure!(status == 200 && list["total"] == 1, "{list}");
    // What was answered holds after a kill, and so does what was ended.
    child.kill().await?;
    let (mut child, api) = start(&program, &ENFORCED).await?;
    let log = keep_log(&mut child)?;
    let users = format!("{api}/api/v1/users");
    ensure!(call("GET", &users, &token, None).await?.0 == 200, "the same keys");
    ensure!(
        call("GET", &users, &left, None).await?.0 == 401,
        "logged out before the kill"
    );

    let revoked = program.run(&["revoke-keys", "all"], &[]).await?;
    ensure!(revoked.code == 0 && revoked.stdout.starts_with("1 keys"), "{revoked:?}");
    posthaste_testkit::wait_until("the key to be noticed", LIMIT, || async {
        (call("GET", &users, &token, None).await.ok()?.0 == 401).then_some(())
    })
    .await?;
    ensure!(
        program.run(&["revoke-keys", "all"], &[]).await?.code == 1,
        "none is left"
    );
    let (token, _) = log_in(&api, ADMIN, PASSWORD).await?;
    ensure!(call("GET", &users, &token, None).await?.0 == 200);
    // Whoever has signed up with an administrator's address has not shown that it is theirs: the password goes.
    let signup = json!({"email": "third@example.com", "first_name": "A", "last_name": "B", "password": PASSWORD});
    let (status, body, _) = call("POST", &format!("{api}/signup"), "", Some(&signup)).await?;
    ensure!(status == 201, "{status} {body}");
    let made = program.run(&["create-admin", "third@example.com"], &[]).await?;
    let password = made.stdout.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(made.code == 0 && password.len() == 43, "{made:?}");
    for (password, expected) in [(PASSWORD, 401), (password, 200)] {
        let login = json!({"email": "third@example.com", "password": password});
        let (status, body, _) = call("POST", &format!("{api}/api/v1/auth/login"), "", Some(&login)).await?;
        ensure!(status == expected, "{status} {body}");
    }

    child.kill().await?;
    let log = log.await?;
    ensure!(log.contains("/api/v1/auth/login"), "{log}");
    for secret in [PASSWORD, &token, &left, ADMIN] {
        ensure!(!log.contains(secret), "the log has {secret}");
    }

    // Without a password on the standard input one is made, and shown once.
    let made = program.run(&["create-admin", "second@example.com"], &[]).await?;
    let password = made.stdout.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(made.code == 0 && password.len() == 43, "{made:?}");
    Ok(())
}

#[tokio::test]
async fn a_promotion_ends_older_sessions_and_commands_are_on_record() -> Result<()> {
    let program = Program::new()?;
    let database = format!("sqlite:{}", program.folder().join("accounts.db").display());
    let variables = [ENFORCED[0], ("DATABASE_URL", database.as_str())];
    ensure!(program.run(&["migrate", "up"], &variables).await?.code == 0);
    let (mut child, api) = start(&program, &variables).await?;
    let log = keep_log(&mut child)?;
    let store = Store::open(&database, StoreOptions::default())?;
    for (email, active) in [("ann@example.com", true), ("bob@example.com", false)] {
        let signup = json!({"email": email, "first_name": "A", "last_name": "B", "password": PASSWORD});
        let (status, body, _) = call("POST", &format!("{api}/signup"), "", Some(&signup)).await?;
        ensure!(status == 201, "{status} {body}");
        let sql = "UPDATE users SET verification_state = 'VERIFIED', is_active = $2 WHERE email = $1";
        posthaste_testkit::wait_until("the user to be there", LIMIT, || async {
            (store.execute(sql, vec![email.into(), active.into()]).await.ok()? == 1).then_some(())
        })
        .await?;
    }
    let users = format!("{api}/api/v1/users");
    let (before, _) = log_in(&api, "ann@example.com", PASSWORD).await?;
    ensure!(call("GET", &users, &before, None).await?.0 == 403);
    let made = program.run(&["create-admin", "ann@example.com"], &variables).await?;
    ensure!(made.code == 0 && made.stdout.contains("sign in again"), "{made:?}");
    // What was stolen from a user has not become an administrator's.
    let status = posthaste_testkit::wait_until("the promotion to be noticed", LIMIT, || async {
        let status = call("GET", &users, &before, None).await.ok()?.0;
        (status != 403).then_some(status)
    })
    .await?;
    ensure!(status == 401, "{status}");
    let (after, _) = log_in(&api, "ann@example.com", PASSWORD).await?;
    ensure!(call("GET", &users, &after, None).await?.0 == 200);
    let refused = program.run(&["create-admin", "bob@example.com"], &variables).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("disabled"), "{refused:?}");
    let revoked = program.run(&["revoke-keys", "all"], &variables).await?;
    ensure!(revoked.code == 0, "{revoked:?}");
    let sql = "SELECT action FROM audit_events WHERE actor = 'command line' ORDER BY action";
    let rows = store.query(sql, vec![]).await?;
    let actions: Vec<String> = rows.iter().map(|row| row.get("action")).collect::<Result<_, _>>()?;
    ensure!(actions == ["signing_keys.revoke", "user.made_admin"], "{actions:?}");
    store.close().await;
    child.kill().await?;
    log.await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_safe_does_not_start() -> Result<()> {
    let program = Program::new()?;
    for (variables, words) in [
        (&[("ACCOUNTS_SECRET", "short")][..], "32 characters"),
        (&[("ACCESS_TOKEN_SECONDS", "86400")], "60 to 900"),
        (&[("REFRESH_GRACE_SECONDS", "61")], "0 to 60"),
        (&[("TRUSTED_PROXIES", "everybody")], "10.0.0.0/8"),
    ] {
        let ran = program.run(&["serve", "--port", "0"], variables).await?;
        ensure!(ran.code == 78 && ran.stderr.contains(words), "{variables:?}: {ran:?}");
    }
    let secret = ("ACCOUNTS_SECRET", "a secret that nobody may see, 0123456789");
    let shown = program.run(&["config", "show"], &[secret]).await?;
    ensure!(shown.code == 0 && !shown.stdout.contains("nobody may see"), "{shown:?}");
    Ok(())
}
