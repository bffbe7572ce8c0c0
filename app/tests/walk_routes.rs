//! Every route of the four services in one process that asks for tokens: who gets through, and to whose rows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_host::{Config, Host, RunningHost, Service, Sources};
use posthaste_testkit::wait_until;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "plumber otter vivid canal";
/// What the gate says, and no route's own refusal.
const CLOSED: &str = "This needs a valid access token.";

/// What needs no token by the specification, and is in the document.
const OPEN: [&str; 10] = [
    "POST /signup",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/password-reset",
    "POST /api/v1/auth/password-reset/confirm",
    "POST /api/v1/auth/verify-email",
    "PUT /users/{user_id}",
    "GET /.well-known/jwks.json",
];

struct House {
    host: RunningHost,
    client: reqwest::Client,
    store: Store,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
    body: Value,
}

struct Person {
    id: String,
    token: String,
}

impl House {
    async fn open() -> Result<Self> {
        Self::open_in(tempfile::tempdir()?).await
    }

    async fn open_in(folder: tempfile::TempDir) -> Result<Self> {
        let services: [Service; 4] = [
            accounts::service(),
            orders::service(),
            notifications::service(),
            messages::service(),
        ];
        let database = format!("sqlite:{}", folder.path().join("all.db").display());
        let mail = path(&folder.path().join("mail"))?;
        let pairs = [
            ("DATABASE_URL", database.as_str()),
            ("POSTHASTE_AUTH", "enforced"),
            ("MAIL_DIR", &mail),
            ("ACCOUNTS_SECRET", "a secret of the tests, of this one alone"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let names = services.map(|service| service.name);
        let config = Config::load(Sources::new().environment(pairs), &names)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self {
            host: Host::start(&services, &config, listener).await?,
            client: reqwest::Client::builder().timeout(LIMIT).build()?,
            store: Store::open(&database, StoreOptions::default())?,
            folder,
        })
    }

    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Result<Answer> {
        let url = format!("http://{}{path}", self.host.addr);
        let mut request = self.client.request(method.parse()?, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status, text, body })
    }

    /// Somebody with an account.
    async fn enter(&self, name: &str, role: &str) -> Result<Person> {
        let email = format!("{name}@example.com");
        let new = json!({"email": email, "first_name": name, "last_name": "Lee", "password": PASSWORD});
        let signed_up = self.ask("POST", "/signup", None, Some(&new)).await?;
        let id = signed_up.body["user_id"].as_str().context("an id")?.to_owned();
        let sql = "UPDATE users SET verification_state = 'VERIFIED', role = $2 WHERE id = $1";
        wait_until("the user to be there", LIMIT, || async {
            let values = vec![self.store.dialect().uuid(id.parse().ok()?), role.into()];
            (self.store.execute(sql, values).await.ok()? == 1).then_some(())
        })
        .await?;
        Ok(Person {
            token: self.log_in(&email).await?,
            id,
        })
    }

    async fn log_in(&self, email: &str) -> Result<String> {
        let login = json!({"email": email, "password": PASSWORD});
        let answer = self.ask("POST", "/api/v1/auth/login", None, Some(&login)).await?;
        Ok(answer.body["access_token"].as_str().context("a token")?.to_owned())
    }

    async fn close(self) -> tempfile::TempDir {
        self.store.close().await;
        self.host.stop().await;
        self.folder
    }
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path")?.to_owned())
}

/// A path of the pattern, for nobody who exists.
fn fill(pattern: &str) -> String {
    let mut path = String::new();
    for part in pattern.split_inclusive('/') {
        match part.trim_end_matches('/') {
            "{email}" => path.push_str("nobody@example.com"),
            parameter if parameter.starts_with('{') => path.push_str(&Uuid::from_u128(7).to_string()),
            plain => path.push_str(plain),
        }
        if part.ends_with('/') {
            path.push('/');
        }
    }
    path
}

#[tokio::test]
async fn every_route_asks_for_a_token_but_those_that_are_meant_to_be_open() -> Result<()> {
    let house = House::open().await?;
    let admin = house.enter("admin", "admin").await?;
    let disabled = house.enter("disabled", "admin").await?;
    let disable = json!({"is_active": false});
    let users = format!("/api/v1/users/{}", disabled.id);
    let answer = house.ask("PUT", &users, Some(&admin.token), Some(&disable)).await?;
    ensure!(answer.status == 200, "{answer:?}");

    let document = house.ask("GET", "/openapi.json", None, None).await?.body;
    let paths = document["paths"].as_object().context("paths")?;
    let mut seen = 0;
    for (pattern, operations) in paths {
        for method in operations.as_object().context("operations")?.keys() {
            let (method, path) = (method.to_uppercase(), fill(pattern));
            let what = format!("{method} {pattern}");
            seen += 1;
            if OPEN.contains(&what.as_str()) {
                let answer = house.ask(&method, &path, None, None).await?;
                ensure!(!answer.text.contains(CLOSED), "{what}: {answer:?}");
                continue;
            }
            for path in [path.clone(), format!("{path}/")] {
                for token in [None, Some("forged"), Some(disabled.token.as_str())] {
                    let answer = house.ask(&method, &path, token, Some(&json!({}))).await?;
                    ensure!(
                        answer.status == 401 && answer.text.contains(CLOSED),
                        "{what} {token:?}: {answer:?}"
                    );
                }
            }
            // A session of its own, which this route may end.
            let token = house.log_in("admin@example.com").await?;
            let answer = house.ask(&method, &path, Some(&token), None).await?;
            ensure!(![401, 403, 405, 500].contains(&answer.status), "{what}: {answer:?}");
        }
    }
    ensure!(seen > OPEN.len() + 15, "only {seen} operations were tried");
    for path in [
        "/metrics",
        "/metrics/",
        "/nothing",
        "/api/events/x/y",
        "/api/v1/nothing",
    ] {
        for token in [None, Some("forged"), Some(disabled.token.as_str())] {
            let answer = house.ask("GET", path, token, None).await?;
            ensure!(answer.status == 401, "{path} {token:?}: {answer:?}");
        }
    }
    let token = house.log_in("admin@example.com").await?;
    ensure!(house.ask("GET", "/metrics", Some(&token), None).await?.status == 200);
    house.close().await;
    Ok(())
}

#[tokio::test]
async fn a_user_sends_and_reads_only_what_is_its_own() -> Result<()> {
    let house = House::open().await?;
    let (ann, bob) = (house.enter("ann", "user").await?, house.enter("bob", "user").await?);
    let admin = house.enter("admin", "admin").await?;
    let event = json!({"user_id": ann.id, "event_type": "secret_event", "message": "for ann"});
    let order =
        json!({"orderId": "anns-order", "userId": ann.id, "totalAmount": 9.99, "idempotencyKey": "k1", "items": []});
    let message = json!({"content": "from ann", "sender": ann.id});
    let doors = [
        ("/api/events", &event, 202),
        ("/api/v1/orders", &order, 202),
        ("/api/v1/messages/send", &message, 200),
    ];
    for (path, body, taken) in doors {
        ensure!(house.ask("POST", path, None, Some(body)).await?.status == 401, "{path}");
        let strangers = house.ask("POST", path, Some(&bob.token), Some(body)).await?;
        ensure!(strangers.status == 403, "{path}: {strangers:?}");
        let own = house.ask("POST", path, Some(&ann.token), Some(body)).await?;
        ensure!(own.status == taken, "{path}: {own:?}");
    }
    let lists = [
        ("/api/events?event_type=secret_event", "/items/0/id"),
        ("/api/v1/orders", "/items/0/orderId"),
        ("/api/v1/messages", "/data/0/message_id"),
    ];
    let ones = ["/api/events/", "/api/v1/orders/", "/api/v1/messages/"];
    for ((list, id), one) in lists.into_iter().zip(ones) {
        let id = wait_until("the row to be there", LIMIT, || async {
            let page = house.ask("GET", list, Some(&ann.token), None).await.ok()?;
            Some(page.body.pointer(id)?.as_str()?.to_owned())
        })
        .await?;
        let others = house.ask("GET", list, Some(&bob.token), None).await?;
        ensure!(
            others.status == 200 && !others.text.contains(&ann.id),
            "{list}: {others:?}"
        );
        let all = house.ask("GET", list, Some(&admin.token), None).await?;
        ensure!(all.status == 200 && all.text.contains(&ann.id), "{list}: {all:?}");
        for (person, status) in [(&ann, 200), (&bob, 403), (&admin, 200)] {
            let read = house
                .ask("GET", &format!("{one}{id}"), Some(&person.token), None)
                .await?;
            ensure!(read.status == status, "{one}: {read:?}");
        }
    }
    for path in [
        format!("/api/events?user_id={}", ann.id),
        format!("/api/v1/orders?userId={}", ann.id),
        format!("/api/v1/messages/sender/{}", ann.id),
    ] {
        for (person, status) in [(&ann, 200), (&bob, 403), (&admin, 200)] {
            let read = house.ask("GET", &path, Some(&person.token), None).await?;
            ensure!(read.status == status, "{path}: {read:?}");
        }
    }
    // What the other services tell about a user is that user's, too; nobody reads a stranger's address.
    let told = wait_until("the sign-up to be recorded", LIMIT, || async {
        let page = house.ask("GET", "/api/events?event_type=user.registered", Some(&ann.token), None);
        let page = page.await.ok()?;
        (!page.body["items"].as_array()?.is_empty()).then_some(page)
    })
    .await?;
    ensure!(!told.text.contains("bob") && told.text.contains(&ann.id), "{told:?}");

    // A key of ann's is no key of bob's: nothing of hers is repeated to him.
    let mut his = order.clone();
    his["userId"] = json!(bob.id);
    his["orderId"] = json!("bobs-order");
    let answer = house
        .ask("POST", "/api/v1/orders", Some(&bob.token), Some(&his))
        .await?;
    ensure!(
        answer.status == 409 && !answer.text.contains("anns-order"),
        "{answer:?}"
    );
    house.close().await;
    Ok(())
}

#[tokio::test]
async fn nothing_in_the_file_says_who_a_deleted_user_was() -> Result<()> {
    let house = House::open().await?;
    let gone = house.enter("whoisthis", "user").await?;
    let (ann, own) = (house.enter("ann", "user").await?, format!("/api/v1/users/{}", gone.id));
    let change = json!({"first_name": "Zebulon"});
    let answer = house.ask("PUT", &own, Some(&gone.token), Some(&change)).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let events = format!("/api/events?user_id={}", gone.id);
    wait_until("both events to be recorded", LIMIT, || async {
        let page = house.ask("GET", &events, Some(&gone.token), None).await.ok()?;
        (page.body["items"].as_array()?.len() == 2).then_some(())
    })
    .await?;
    // What an earlier version, or anybody else, has told of the user.
    let sql = "UPDATE processed_events SET payload = $2, message = 'Welcome, Zebulon!' WHERE user_id = $1";
    let old = json!({"email": "whoisthis@example.com", "first_name": "Zebulon"}).to_string();
    let values = vec![house.store.dialect().uuid(gone.id.parse()?), old.into()];
    ensure!(house.store.execute(sql, values).await? == 2);
    let deleted = house.ask("DELETE", &own, Some(&gone.token), None).await?;
    ensure!(deleted.status == 200, "{deleted:?}");
    let admin = house.enter("admin", "admin").await?;
    wait_until("the deletion to be recorded", LIMIT, || async {
        let page = house.ask("GET", &events, Some(&admin.token), None).await.ok()?;
        (page.body["items"].as_array()?.len() == 3).then_some(())
    })
    .await?;
    let page = house.ask("GET", &events, Some(&admin.token), None).await?;
    ensure!(
        !page.text.contains("whoisthis") && !page.text.contains("Zebulon"),
        "{page:?}"
    );

    // A worker blanks the messages at its start.
    let house = House::open_in(house.close().await).await?;
    wait_until("the messages to be blanked", LIMIT, || async {
        let sql = "SELECT id FROM users WHERE erased_at IS NOT NULL";
        (house.store.query(sql, vec![]).await.ok()?.len() == 1).then_some(())
    })
    .await?;
    let folder = house.close().await;
    let mut looked_at = 0;
    for entry in std::fs::read_dir(folder.path())? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        looked_at += 1;
        let bytes = std::fs::read(&path)?;
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        ensure!(!has("whoisthis") && !has("Zebulon"), "{}", path.display());
        ensure!(
            path.extension().is_none_or(|kind| kind != "db") || has("ann@example.com"),
            "{}",
            ann.id
        );
    }
    ensure!(looked_at > 0);
    Ok(())
}
