//! The service with users in it, and what a client does: without a cookie jar, which would hide what is sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Reply, RunningService, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{self, Stage, Surroundings};

pub const LIMIT: Duration = Duration::from_secs(90);
pub const PASSWORD: &str = "plumber otter vivid canal";
pub const OTHER_PASSWORD: &str = "seventeen brass lanterns";
const SECRET: &str = "a secret of the tests, the same for all replicas";
/// What a client that is no browser sends with its cookie.
pub const NO_BROWSER: (&str, &str) = ("X-Requested-With", "test");

/// One instance of the service.
pub struct House {
    pub service: RunningService,
    pub mail: TempDir,
    around: Surroundings,
    /// Its own, removed with it.
    stage: Option<Stage>,
}

/// What a client has after it signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub access: String,
    pub refresh: String,
}

impl Pass {
    /// What `reply` gives.
    pub fn of(reply: &Reply) -> Result<Self> {
        ensure!(reply.status == 200, "{reply:?}");
        Ok(Self {
            access: reply.body["access_token"]
                .as_str()
                .context("no access token")?
                .to_owned(),
            refresh: cookie(reply).context("no cookie")?,
        })
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.access)
    }
}

/// The refresh token in the `Set-Cookie` of `reply`; empty where it is taken away.
pub fn cookie(reply: &Reply) -> Option<String> {
    let header = reply.header("set-cookie")?;
    let (_, value) = header.split(';').next()?.split_once('=')?;
    Some(value.to_owned())
}

impl House {
    /// One on a stage of its own.
    pub async fn alone(settings: &[(&str, &str)]) -> Result<Self> {
        let stage = Stage::open().await?;
        let mut house = Self::open_with(&stage, settings).await?;
        house.stage = Some(stage);
        Ok(house)
    }

    pub async fn open(stage: &Stage) -> Result<Self> {
        Self::open_with(stage, &[]).await
    }

    pub async fn open_with(stage: &Stage, settings: &[(&str, &str)]) -> Result<Self> {
        let mail = tempfile::tempdir()?;
        let folder = mail.path().to_str().context("a path")?;
        let own = [("MAIL_DIR", folder), ("ACCOUNTS_SECRET", SECRET)];
        let around = stage.surroundings();
        let settings = [&own, around.settings().as_slice(), settings].concat();
        let service = RunningService::start_with(accounts::service(), stage.database(), &settings).await?;
        Ok(Self {
            service,
            mail,
            around,
            stage: None,
        })
    }

    pub async fn close(self) -> Result<()> {
        self.service.stop().await?;
        match self.stage {
            Some(stage) => stage.finish().await,
            None => Ok(()),
        }
    }

    /// A user who has confirmed the address; the service is open.
    pub async fn user(&self, email: &str) -> Result<String> {
        let id = self.unverified_user(email).await?;
        let reply = self
            .service
            .send("PUT", &format!("/users/{id}"), &[], Vec::new())
            .await?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(id)
    }

    pub async fn unverified_user(&self, email: &str) -> Result<String> {
        let body = json!({"email": email, "first_name": "Ann", "last_name": "Lee", "password": PASSWORD});
        let reply = self.service.post("/signup", &body).await?;
        ensure!(reply.status == 201, "{reply:?}");
        Ok(reply.body["user_id"].as_str().context("no id")?.to_owned())
    }

    pub async fn try_login(&self, email: &str, password: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        let body = json!({"email": email, "password": password});
        self.service.post_with("/api/v1/auth/login", &body, headers).await
    }

    pub async fn login(&self, email: &str) -> Result<Pass> {
        Pass::of(&self.try_login(email, PASSWORD, &[]).await?)
    }

    pub async fn refresh(&self, token: &str) -> Result<Reply> {
        let cookie = format!("refresh={token}");
        self.act("POST", "/api/v1/auth/refresh", &[("Cookie", &cookie), NO_BROWSER])
            .await
    }

    /// The status of a refresh.
    pub async fn refreshes(&self, token: &str) -> Result<u16> {
        Ok(self.refresh(token).await?.status)
    }

    /// The status of a call with the access token of `pass`.
    pub async fn calls(&self, pass: &Pass) -> Result<u16> {
        self.calls_with(&pass.access).await
    }

    pub async fn calls_with(&self, token: &str) -> Result<u16> {
        let bearer = format!("Bearer {token}");
        Ok(self
            .act("GET", "/api/v1/users/me", &[("Authorization", &bearer)])
            .await?
            .status)
    }

    pub async fn log_out(&self, pass: &Pass) -> Result<Reply> {
        let (bearer, cookie) = (pass.bearer(), format!("refresh={}", pass.refresh));
        let headers = [("Authorization", bearer.as_str()), ("Cookie", &cookie), NO_BROWSER];
        self.act("POST", "/api/v1/auth/logout", &headers).await
    }

    /// Any request without a body.
    pub async fn act(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        self.service.send(method, path, headers, Vec::new()).await
    }

    /// Any request of `pass` with a JSON body.
    pub async fn act_as(&self, pass: &Pass, method: &str, path: &str, body: &Value) -> Result<Reply> {
        let headers = [
            ("Authorization", pass.bearer()),
            ("Content-Type", "application/json".to_owned()),
        ];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.service
            .send(method, path, &headers, serde_json::to_vec(body)?)
            .await
    }

    /// Asks for a new password and answers the token of the mail, which is number `nth` to `email` with one.
    pub async fn reset_token(&self, email: &str, nth: usize) -> Result<String> {
        let reply = self.ask_for_reset(email).await?;
        ensure!(reply.status == 202, "{reply:?}");
        self.mailed_reset(email, nth).await
    }

    pub async fn ask_for_reset(&self, email: &str) -> Result<Reply> {
        self.service
            .post("/api/v1/auth/password-reset", &json!({"email": email}))
            .await
    }

    /// How many mails about a forgotten password have gone to `email`.
    pub fn reset_mails(&self, email: &str) -> Result<usize> {
        Ok(reset_tokens(self.mail.path(), email)?.len())
    }

    pub async fn mailed_reset(&self, email: &str, nth: usize) -> Result<String> {
        wait_until(&format!("reset mail {nth} to {email}"), LIMIT, || async {
            let tokens = reset_tokens(self.mail.path(), email).ok()?;
            (tokens.len() == nth).then(|| tokens.last().cloned()).flatten()
        })
        .await
    }

    pub async fn confirm_reset(&self, token: &str, password: &str) -> Result<Reply> {
        let body = json!({"token": token, "new_password": password});
        self.service.post("/api/v1/auth/password-reset/confirm", &body).await
    }

    /// Waits until everything that was asked for is worked off.
    pub async fn settled(&self) -> Result<()> {
        stage::settled(self.service.store()).await
    }

    /// As if the windows in which attempts are counted had ended.
    pub async fn end_windows(&self) -> Result<()> {
        self.around.end_windows(self.service.store()).await
    }

    /// How many audit events there are of `action`.
    pub async fn audited(&self, action: &str) -> Result<i64> {
        self.number("SELECT COUNT(*) AS n FROM audit_events WHERE action = $1", action)
            .await
    }

    /// The number `n` that `sql` answers about `what`.
    pub async fn number(&self, sql: &str, what: &str) -> Result<i64> {
        let rows = self.service.store().query(sql, vec![what.into()]).await?;
        Ok(rows.first().context("no row")?.get("n")?)
    }

    /// As if `column` of all rows of `table` had been written `seconds` earlier.
    pub async fn age(&self, table: &str, column: &str, seconds: i64) -> Result<()> {
        let store = self.service.store();
        // Ascending: none is moved onto one that is still to be moved.
        let times = format!("SELECT DISTINCT {column} AS at FROM {table} WHERE {column} IS NOT NULL ORDER BY at");
        for row in store.query(&times, vec![]).await? {
            let at = row.time("at")?;
            let sql = format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2");
            let earlier = store.dialect().time(at - chrono::TimeDelta::seconds(seconds));
            store.execute(&sql, vec![earlier, store.dialect().time(at)]).await?;
        }
        Ok(())
    }
}

/// The tokens of the mails about a new password to `email`, oldest first.
fn reset_tokens(folder: &Path, email: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "eml") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut tokens = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path)?;
        if text.lines().any(|line| line == format!("To: {email}"))
            && let Some((_, rest)) = text.split_once("/reset-password#token=")
        {
            tokens.push(rest.split_whitespace().next().context("no token")?.to_owned());
        }
    }
    Ok(tokens)
}
