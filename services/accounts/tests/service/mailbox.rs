//! The service with a mailbox of its own, and what a person does with both.

use std::time::Duration;

use anyhow::{Context, Result};
use posthaste_testkit::{Reply, RunningService, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{self, Stage, Surroundings};

pub const LIMIT: Duration = Duration::from_secs(90);
pub const PASSWORD: &str = "plumber otter vivid canal";

/// The service and the folder its mail goes to.
pub struct Accounts {
    pub service: RunningService,
    pub mail: TempDir,
    pub around: Surroundings,
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
    pub async fn start(stage: &Stage) -> Result<Self> {
        Self::start_with(stage, &[]).await
    }

    pub async fn start_with(stage: &Stage, settings: &[(&str, &str)]) -> Result<Self> {
        let mail = tempfile::tempdir()?;
        Self::start_in(mail, stage, settings).await
    }

    /// With the mail that is in `mail` already.
    pub async fn start_in(mail: TempDir, stage: &Stage, settings: &[(&str, &str)]) -> Result<Self> {
        let folder = mail.path().to_str().context("a path")?;
        let own = [
            ("MAIL_DIR", folder),
            ("ACCOUNTS_SECRET", "a secret of the tests and of nothing else"),
            ("PUBLIC_URL", "https://accounts.example/"),
        ];
        let around = stage.surroundings();
        let settings = [&own, around.settings().as_slice(), settings].concat();
        let service = RunningService::start_with(accounts::service(), stage.database(), &settings).await?;
        Ok(Self { service, mail, around })
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
        stage::settled(self.service.store()).await
    }

    /// The bodies of what was published to `topic`.
    pub async fn told(&self, topic: &str) -> Result<Vec<Value>> {
        self.around.told(self.service.store(), topic).await
    }

    /// Puts `body` into the queue `topic` by hand, without an id.
    pub async fn put(&self, topic: &str, body: &[u8]) -> Result<()> {
        self.around.put(self.service.store(), topic, body.to_vec()).await
    }
}

pub fn signup(email: &str) -> Value {
    json!({"email": email, "first_name": "Ann", "last_name": "Lee", "password": PASSWORD})
}
