//! The service with a mailbox of its own, and what a person does with both.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::{Reply, RunningService, TestDatabase, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const LIMIT: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "plumber otter vivid canal";

/// The service and the folder its mail goes to.
pub struct Accounts {
    pub service: RunningService,
    pub mail: TempDir,
}

/// A mail as it lies in the folder.
#[derive(Clone, Debug)]
pub struct Mail {
    pub text: String,
}

impl Mail {
    pub fn is_to(&self, address: &str) -> bool {
        self.text.lines().any(|line| line == format!("To: {address}"))
    }

    /// The token of the link in it.
    pub fn token(&self) -> Result<String> {
        let (_, rest) = self.text.split_once("/verify-email#token=").context("no link")?;
        Ok(rest.split_whitespace().next().context("no token")?.to_owned())
    }
}

impl Accounts {
    pub async fn start(database: &TestDatabase) -> Result<Self> {
        Self::start_with(database, &[]).await
    }

    pub async fn start_with(database: &TestDatabase, settings: &[(&str, &str)]) -> Result<Self> {
        let mail = tempfile::tempdir()?;
        let service = start_in(mail.path(), database, settings).await?;
        Ok(Self { service, mail })
    }

    pub async fn stop(self) -> Result<()> {
        self.service.stop().await
    }

    pub async fn sign_up(&self, email: &str) -> Result<Reply> {
        self.service.post("/signup", &signup(email)).await
    }

    pub async fn register(&self, email: &str) -> Result<Reply> {
        self.service.post("/api/v1/auth/register", &signup(email)).await
    }

    /// The mails that were written so far, oldest first.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(self.mail.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "eml") {
                paths.push(path);
            }
        }
        paths.sort();
        let read = |path: &std::path::PathBuf| -> Result<Mail> {
            let text = std::fs::read_to_string(path)?;
            Ok(Mail { text })
        };
        paths.iter().map(read).collect()
    }

    /// Waits for `wanted` mails to `address` and answers the last one.
    pub async fn mail_to(&self, address: &str, wanted: usize) -> Result<Mail> {
        wait_until(&format!("{wanted} mails to {address}"), LIMIT, || async {
            let mails: Vec<Mail> = self
                .mails()
                .ok()?
                .into_iter()
                .filter(|mail| mail.is_to(address))
                .collect();
            (mails.len() == wanted).then(|| mails.last().cloned()).flatten()
        })
        .await
    }

    /// Waits until `table`, which may name a condition, has `wanted` rows.
    pub async fn count_is(&self, table: &str, wanted: i64) -> Result<()> {
        wait_until(&format!("{wanted} rows in {table}"), LIMIT, || async {
            (self.service.count(table).await.ok()? == wanted).then_some(())
        })
        .await
    }

    /// Waits until everything that was asked for is worked off.
    pub async fn settled(&self) -> Result<()> {
        let sql = "SELECT (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
            + (SELECT COUNT(*) FROM inbox_messages WHERE status = 'parked') \
            + (SELECT COUNT(*) FROM queue_messages WHERE topic IN ('user_onboarding_queue', 'user_mail_queue')) AS n";
        wait_until("the sign-ups to be worked off", LIMIT, || async {
            let rows = self.service.store().query(sql, vec![]).await.ok()?;
            (rows.first()?.get::<i64>("n").ok()? == 0).then_some(())
        })
        .await
    }

    /// The bodies of what was published to `topic`.
    pub async fn told(&self, topic: &str) -> Result<Vec<Value>> {
        let sql = "SELECT body FROM queue_messages WHERE topic = $1 ORDER BY seq";
        let rows = self.service.store().query(sql, vec![topic.into()]).await?;
        rows.iter()
            .map(|row| Ok(serde_json::from_slice(&row.get::<Vec<u8>>("body")?)?))
            .collect()
    }
}

pub async fn start_in(mail: &Path, database: &TestDatabase, settings: &[(&str, &str)]) -> Result<RunningService> {
    let folder = mail.to_str().context("a path")?;
    let own = [
        ("MAIL_DIR", folder),
        ("ACCOUNTS_SECRET", "a secret of the tests and of nothing else"),
        ("PUBLIC_URL", "https://accounts.example/"),
    ];
    RunningService::start_with(accounts::service(), database, &[&own, settings].concat()).await
}

pub fn signup(email: &str) -> Value {
    json!({"email": email, "first_name": "Ann", "last_name": "Lee", "password": PASSWORD})
}
