//! Secrets in every field of every request, errors on the way, and then a search for them in everything that the program
//! writes: log lines with redaction on and off, traces, metrics, answers, dead letters, and the whole database.

#[path = "../command_line/program.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod program;

mod keep_output;

use std::io::Write;

use anyhow::{Context, Result, ensure};
use keep_output::{Written, collector};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::servers::{PrivateRedis, TestVhost};
use posthaste_testkit::{TestDatabase, dump_database, wait_until};
use program::{LIMIT, Program};
use reqwest::Client;
use serde_json::{Value, json};

const ANN: &str = "ann@example.com";
const PASSWORD: &str = "canarypass otter vivid plumber";
const NEW_PASSWORD: &str = "canarynew brass lanterns otter";
/// In all that is made up: members, headers, queries, tokens.
const CANARY: &str = "canarystray";

/// The program at work, and what a stranger sends it.
struct Attacked {
    api: String,
    client: Client,
    answers: Written,
    program: Program,
}

impl Attacked {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(u16, String)> {
        let (status, text, _) = self.ask(method, path, headers, body).await?;
        self.answers.add(text.as_bytes());
        Ok((status, text))
    }

    /// The same for an answer that may hold a secret: the one that was asked for.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(u16, String, String)> {
        let mut request = self
            .client
            .request(method.parse()?, format!("{}{path}", self.api))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, value.as_bytes());
        }
        let reply = request.send().await?;
        let cookies = reply.headers().get_all("set-cookie").iter();
        let cookie = cookies.filter_map(|cookie| cookie.to_str().ok()).collect();
        Ok((reply.status().as_u16(), reply.text().await?, cookie))
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
        let kind = [("Content-Type", "application/json")];
        self.send(method, path, &kind, body.to_string().into_bytes()).await
    }

    /// The token of the newest mail whose link leads to `page`.
    async fn mailed(&self, page: &str) -> Result<String> {
        wait_until(page, LIMIT, || async {
            let entries = std::fs::read_dir(self.program.folder().join("data/mail")).ok()?;
            let mut found: Vec<String> = entries
                .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
                .filter_map(|text| Some(text.split_once(&format!("/{page}#token="))?.1.to_owned()))
                .collect();
            found.sort();
            Some(found.pop()?.split_whitespace().next()?.to_owned())
        })
        .await
    }

    /// A user who signs up, confirms, signs in, refreshes, forgets the password and logs out. Answers every token.
    async fn live(&self) -> Result<Vec<String>> {
        let mut issued = Vec::new();
        let signup = json!({"email": ANN, "first_name": "Ann", "last_name": "Lee", "password": PASSWORD});
        ensure!(self.json("POST", "/signup", &signup).await?.0 == 201);
        let verify = self.mailed("verify-email").await?;
        let (status, text) = self
            .json("POST", "/api/v1/auth/verify-email", &json!({"token": verify}))
            .await?;
        ensure!(status == 204, "{text}");
        issued.push(verify);
        let login = json!({"email": ANN, "password": PASSWORD}).to_string().into_bytes();
        let kind = [("Content-Type", "application/json")];
        let mut answer = self.ask("POST", "/api/v1/auth/login", &kind, login).await?;
        for _ in 0..2 {
            let (status, text, cookie) = &answer;
            ensure!(*status == 200, "{text}");
            let access = serde_json::from_str::<Value>(text)?["access_token"]
                .as_str()
                .context("no token")?
                .to_owned();
            let pair = cookie.split(';').next().context("no cookie")?.to_owned();
            issued.push(pair.split_once('=').context("no cookie")?.1.to_owned());
            let bearer = format!("Bearer {access}");
            issued.push(access);
            self.send("GET", "/api/v1/users/me", &[("Authorization", &bearer)], Vec::new())
                .await?;
            let headers = [("Cookie", pair.as_str()), ("X-Requested-With", "test")];
            answer = self.ask("POST", "/api/v1/auth/refresh", &headers, Vec::new()).await?;
        }
        ensure!(
            self.json("POST", "/api/v1/auth/password-reset", &json!({"email": ANN}))
                .await?
                .0
                == 202
        );
        let reset = self.mailed("reset-password").await?;
        let body = json!({"token": reset, "new_password": NEW_PASSWORD});
        issued.push(reset);
        ensure!(self.json("POST", "/api/v1/auth/password-reset/confirm", &body).await?.0 == 204);
        Ok(issued)
    }

    /// Requests that fail, with canaries in everything that they are made of.
    async fn stray(&self) -> Result<()> {
        let query = format!("?token={CANARY}&password={CANARY}&limit={CANARY}&cursor={CANARY}&access_token={CANARY}");
        let bearer = format!("Bearer {CANARY}.{CANARY}.{CANARY}");
        let (basic, cookie) = (
            format!("Basic {CANARY}"),
            format!("refresh={CANARY}; __Host-refresh={CANARY}"),
        );
        // What a terminal would obey, and what some take for the end of a line.
        let agent = "agent\u{9b}31m\u{2028}{\"level\":\"error\"}\ttail";
        let wide: [(&str, &str); 8] = [
            ("Content-Type", "application/json"),
            ("Cookie", &cookie),
            ("X-Requested-With", "test"),
            ("X-Api-Key", CANARY),
            ("X-Forwarded-For", CANARY),
            ("Referer", CANARY),
            ("X-Correlation-ID", "the end\u{85}of a line"),
            ("Origin", CANARY),
        ];
        let bodies = [
            json!({"email": format!("{CANARY}@example.com"), "password": CANARY, "extra": CANARY}).to_string(),
            json!({"email": ANN, "first_name": "A", "last_name": "L", "password": CANARY}).to_string(),
            json!({"token": CANARY, "new_password": CANARY}).to_string(),
            json!({"current_password": CANARY, "new_password": CANARY}).to_string(),
            format!("{{\"password\": \"{CANARY}\", \"password\": \"{CANARY}\"}}"),
            format!("{{\"password\": {CANARY}"),
            format!("[\"{CANARY}\"]"),
        ];
        for (method, path) in [
            ("POST", "/signup"),
            ("POST", "/api/v1/auth/register"),
            ("POST", "/api/v1/auth/login"),
            ("POST", "/api/v1/auth/refresh"),
            ("POST", "/api/v1/auth/logout"),
            ("POST", "/api/v1/auth/verify-email"),
            ("POST", "/api/v1/auth/password-reset/confirm"),
            ("PUT", "/api/v1/auth/password"),
            ("GET", "/api/v1/users"),
            ("GET", "/api/v1/users/me"),
            ("POST", "/api/v1/users"),
            ("PUT", "/users/01a1fe2f-4398-7518-bd75-79dc635da6ab"),
        ] {
            for authorization in [&bearer, &basic] {
                for body in &bodies {
                    let headers = [&wide[..], &[("Authorization", authorization)]].concat();
                    let target = format!("{path}{query}");
                    let (status, _) = self.send(method, &target, &headers, body.clone().into_bytes()).await?;
                    ensure!((400..500).contains(&status), "{method} {path}: {status}");
                }
            }
            let body = bodies[1].clone().into_bytes();
            let kind = [("Content-Type", "application/json"), ("User-Agent", agent)];
            self.send(method, path, &kind, body).await?;
        }
        self.send("GET", &format!("/{CANARY}"), &[], Vec::new()).await?;
        let form = format!("grant_type=password&username=ann&password={CANARY}&client_secret={CANARY}&scope=");
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        self.send("POST", "/api/v1/auth/login", &kind, form.into_bytes())
            .await?;
        Ok(())
    }
}

fn search(place: &str, text: &str, secrets: &[&str]) -> Result<()> {
    for secret in secrets {
        if let Some(at) = text.find(secret) {
            let around: String = text[text.floor_char_boundary(at.saturating_sub(200))..]
                .chars()
                .take(400)
                .collect();
            // Kept for whoever looks into it; the message of a failed test is cut.
            std::io::stderr().write_all(around.as_bytes())?;
            anyhow::bail!("{secret} is in {place}: …{around}…");
        }
    }
    Ok(())
}

async fn nothing_leaks(database: TestDatabase, around: &[(&str, &str)], redaction: &str) -> Result<()> {
    let program = Program::new()?;
    let (said, traced) = (Written::default(), Written::default());
    let endpoint = collector(traced.clone()).await?;
    let secret = "canarysecret of the server, long enough";
    let own = [
        ("RUST_LOG", "trace"),
        ("LOG_FORMAT", "json"),
        ("LOG_REDACTION_ENABLED", redaction),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("DATABASE_URL", database.url()),
        ("ACCOUNTS_SECRET", secret),
        ("ONBOARDING_ATTEMPTS", "1"),
    ];
    let settings = [&own, around].concat();
    let mut child = program.command(&["--port", "0", "--migrate"], &settings).spawn()?;
    said.collect(child.stderr.take().context("stderr")?);
    said.collect(child.stdout.take().context("stdout")?);
    let api = wait_until("the banner", LIMIT, || async {
        let said = said.text();
        said.contains("Started in").then_some(())?;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("API"))?;
        Some(line.trim().trim_end_matches('/').to_owned())
    })
    .await
    .with_context(|| said.text())?;
    let attacked = Attacked {
        api,
        client: Client::builder().timeout(LIMIT).build()?,
        answers: Written::default(),
        program,
    };
    let store = Store::open(database.url(), StoreOptions::default())?;
    let issued = attacked.live().await?;
    attacked.stray().await?;
    // The next sign-up ends as a dead letter: its worker cannot write that there is a user.
    refuse(&store, true).await?;
    let signup = json!({"email": "dead@example.com", "first_name": "D", "last_name": "L", "password": PASSWORD});
    ensure!(attacked.json("POST", "/signup", &signup).await?.0 == 201);
    wait_until("the dead letter", LIMIT, || async {
        let rows = store
            .query("SELECT error FROM inbox_messages WHERE status = 'dead'", vec![])
            .await
            .ok()?;
        (!rows.is_empty()).then_some(())
    })
    .await?;
    refuse(&store, false).await?;

    let metrics = attacked.ask("GET", "/metrics", &[], Vec::new()).await?.1;
    let letters = attacked.program.run(&["dead-letters", "list"], &settings).await?;
    let shown = attacked.program.run(&["config"], &settings).await?;
    let everything = dump_database(&store).await?;
    ensure!(
        everything.contains("dead@example.com"),
        "the search finds what is there"
    );
    store.close().await;
    let id = child.id().context("no process")?.to_string();
    ensure!(
        tokio::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .await?
            .success()
    );
    tokio::time::timeout(LIMIT, child.wait()).await??;

    let passwords = around
        .iter()
        .copied()
        .chain([("DATABASE_URL", database.url())])
        .filter_map(|(_, url)| {
            let (_, rest) = url.split_once("://")?;
            let (_, password) = rest.split_once('@')?.0.split_once(':')?;
            (password != "guest").then_some(password)
        });
    let mut secrets: Vec<&str> = vec![
        PASSWORD,
        NEW_PASSWORD,
        secret,
        "canarypass",
        "canarynew",
        "canarysecret",
    ];
    secrets.extend(issued.iter().map(String::as_str));
    secrets.extend(passwords);
    let strays = [&secrets[..], &[CANARY]].concat();
    search("the database", &everything, &strays)?;
    let said = said.text();
    ensure!(said.lines().count() > 200, "{}", said.lines().count());
    search("the log", &said, &secrets)?;
    ensure!(traced.text().contains("/api/v1/auth/login"), "no traces came");
    search("the traces", &traced.text(), &strays)?;
    search("the metrics", &metrics, &strays)?;
    search("the answers", &attacked.answers.text(), &strays)?;
    search("the dead letters", &format!("{letters:?}"), &strays)?;
    search("the configuration", &format!("{shown:?}"), &strays)?;
    ensure!(
        letters.code == 0 && letters.stdout.contains("onboard_user"),
        "{letters:?}"
    );
    // Each event is one line, whatever was in it.
    for line in said.lines().filter(|line| line.starts_with('{')) {
        serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
        ensure!(!line.contains(['\u{9b}', '\u{2028}', '\u{85}']), "{line}");
    }
    if redaction == "true" {
        search("the redacted log", &said, &strays)?;
    }
    database.finish().await
}

/// Makes the database refuse what a worker tells of a new user, or take it again.
async fn refuse(store: &Store, on: bool) -> Result<()> {
    use posthaste::store::Dialect;
    let sql = match (store.dialect(), on) {
        (Dialect::Sqlite, true) => {
            "CREATE TRIGGER refused BEFORE INSERT ON outbox_messages WHEN NEW.topic = 'user.registered' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
        (Dialect::Sqlite, false) => "DROP TRIGGER refused",
        (_, true) => "ALTER TABLE outbox_messages ADD CONSTRAINT refused CHECK (topic <> 'user.registered') NOT VALID",
        (_, false) => "ALTER TABLE outbox_messages DROP CONSTRAINT refused",
    };
    store.execute(sql, vec![]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_on_one_file_whatever_is_logged() -> Result<()> {
    nothing_leaks(TestDatabase::sqlite()?, &[], "false").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_on_postgres_rabbitmq_and_redis() -> Result<()> {
    let (vhost, redis) = tokio::try_join!(TestVhost::create(), PrivateRedis::launch(26_900))?;
    let around = [("BROKER_URL", vhost.url()), ("REDIS_URL", redis.url())];
    nothing_leaks(TestDatabase::postgres().await?, &around, "true").await
}
