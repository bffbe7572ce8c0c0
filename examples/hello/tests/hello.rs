//! The example as its reader runs it: the program, one request, one row, a signal.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::{TestDatabase, wait_until};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greets_and_remembers_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hello = Command::new(env!("CARGO_BIN_EXE_hello"))
        .current_dir(folder.path())
        .env_clear()
        .env("PORT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut banner = BufReader::new(hello.stderr.take().context("no stderr")?).lines();
    let url = tokio::time::timeout(LIMIT, async {
        while let Some(line) = banner.next_line().await? {
            if let Some(url) = line.trim().strip_prefix("API ") {
                return anyhow::Ok(url.trim().to_owned());
            }
        }
        anyhow::bail!("no banner")
    })
    .await??;

    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let answer = client.post(format!("{url}hello/Ada")).send().await?.text().await?;
    ensure!(answer == "Hello, Ada!\n", "{answer}");

    let store = Store::open(
        &format!("sqlite:{}", folder.path().join("data/posthaste.db").display()),
        StoreOptions::default(),
    )?;
    let names = wait_until("the greeting to be remembered", LIMIT, || async {
        let rows = store.query("SELECT name FROM greetings", vec![]).await.ok()?;
        (!rows.is_empty()).then(|| {
            rows.iter()
                .map(|row| row.get("name"))
                .collect::<Result<Vec<String>, _>>()
        })
    })
    .await??;
    ensure!(names == ["Ada"], "{names:?}");
    store.close().await;

    let id = hello.id().context("it has ended")?.to_string();
    Command::new("kill").args(["-TERM", &id]).status().await?;
    let status = tokio::time::timeout(LIMIT, hello.wait()).await??;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_schema_is_applied_where_no_server_applies_it() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let mut hello = Command::new(env!("CARGO_BIN_EXE_hello"));
    hello
        .args(["migrate", "up"])
        .env_clear()
        .env("DATABASE_URL", database.url());
    let applied = tokio::time::timeout(LIMIT, hello.kill_on_drop(true).output()).await??;
    ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let store = Store::open(database.url(), StoreOptions::default())?;
    ensure!(store.query("SELECT name FROM greetings", vec![]).await?.is_empty());
    store.close().await;
    database.finish().await
}
