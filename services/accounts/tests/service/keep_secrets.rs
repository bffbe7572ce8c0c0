//! What nobody may see, and what strangers may not find out.

use anyhow::{Context, Result};
use serde_json::json;

use crate::mailbox::{Accounts, PASSWORD, signup};
use crate::stage::Stage;

on_each_stage!(
    no_password_and_no_token_is_kept_anywhere,
    a_registration_tells_nothing_about_the_address,
    a_repeated_key_is_no_way_to_try_passwords,
    links_lead_where_the_configuration_says,
);

async fn no_password_and_no_token_is_kept_anywhere(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let key = [("Idempotency-Key", "k")];
    assert_eq!(
        service
            .post_with("/signup", &signup("ann@example.com"), &key)
            .await?
            .status,
        201
    );
    assert_eq!(accounts.sign_up("bob@example.com").await?.status, 201);
    assert_eq!(accounts.register("ann@example.com").await?.status, 202);
    let mail = accounts.mail_to("bob@example.com", 1).await?;
    accounts.mail_to("ann@example.com", 2).await?;
    accounts.settled().await?;
    // A message with a password in it is none of ours; it is given up at once.
    let foreign = br#"{"user_id":"01a1fe2f-4398-7518-bd75-79dc635da6ab","email":"eve@example.com","first_name":"E",
        "last_name":"V","password":"plain","requested_at":"2026-11-21T00:00:00Z"}"#;
    accounts.put("user_onboarding_queue", foreign).await?;
    accounts.count_is("inbox_messages WHERE status = 'dead'", 1).await?;
    assert_eq!(service.count("users").await?, 2);

    let everything = posthaste_testkit::dump_database(service.store()).await?;
    assert!(everything.contains("bob@example.com"), "the search finds what is there");
    let base64 = "cGx1bWJlciBvdHRlciB2aXZpZCBjYW5hb";
    for secret in [PASSWORD, base64, &mail.token()?] {
        assert!(!everything.contains(secret), "{secret}");
    }
    let rows = service.store().query("SELECT password_hash FROM users", vec![]).await?;
    let mut hashes = Vec::new();
    for row in rows {
        hashes.push(row.get::<String>("password_hash")?);
    }
    assert!(
        hashes
            .iter()
            .all(|hash| hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$")),
        "{hashes:?}"
    );
    assert_ne!(hashes[0], hashes[1], "each has a salt of its own");
    // The hash is in its row and nowhere else.
    for hash in hashes {
        assert_eq!(everything.matches(hash.as_str()).count(), 1);
    }
    accounts.stop().await
}

async fn a_registration_tells_nothing_about_the_address(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let new = accounts.register("ann@example.com").await?;
    let mail = accounts.mail_to("ann@example.com", 1).await?;
    assert!(mail.text.contains("/verify-email#token="));
    let known = accounts.register("ANN@example.com").await?;
    assert_eq!((new.status, known.status), (202, 202));
    assert_eq!(new.text, known.text);
    for header in [
        "content-type",
        "content-length",
        "location",
        "cache-control",
        "set-cookie",
    ] {
        assert_eq!(new.header(header), known.header(header), "{header}");
    }
    // The owner is told, without a link that would confirm what somebody else has typed.
    let notice = accounts.mail_to("ann@example.com", 2).await?;
    assert!(
        notice.text.contains("Subject: You have an account already"),
        "{notice:?}"
    );
    assert!(!notice.text.contains("token="), "{notice:?}");
    // Once an hour will do: anybody can make them.
    for _ in 0..3 {
        assert_eq!(accounts.register("ann@example.com").await?.status, 202);
    }
    accounts.settled().await?;
    assert_eq!(accounts.mails()?.len(), 2);
    assert_eq!(accounts.service.count("users").await?, 1);
    assert_eq!(
        accounts
            .service
            .count("audit_events WHERE action = 'user.register'")
            .await?,
        5
    );
    assert_eq!(accounts.told("user.registered").await?.len(), 1);
    // The first registration's link is still good.
    let token = json!({"token": mail.token()?});
    assert_eq!(
        accounts.service.post("/api/v1/auth/verify-email", &token).await?.status,
        204
    );
    accounts.stop().await
}

async fn a_repeated_key_is_no_way_to_try_passwords(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let key = [("Idempotency-Key", "k")];
    let first = accounts
        .service
        .post_with("/signup", &signup("ann@example.com"), &key)
        .await?;
    let mut other = signup("ann@example.com");
    other["password"] = json!("seven vivid otters canal");
    let again = accounts.service.post_with("/signup", &other, &key).await?;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(
        (first.text, again.header("idempotent-replayed")),
        (again.text.clone(), Some("true"))
    );
    let bob = accounts
        .service
        .post_with("/signup", &signup("bob@example.com"), &key)
        .await?;
    assert_eq!(bob.status, 422, "{bob:?}");
    accounts.stop().await
}

async fn links_lead_where_the_configuration_says(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "host=evil.example"),
        ("X-Forwarded-For", "6.6.6.6"),
    ];
    let body = json!({"email": "ann@example.com", "first_name": "http://evil.example", "last_name": "Bcc: eve@evil.example", "password": PASSWORD});
    let reply = accounts
        .service
        .send("POST", "/signup", &headers, body.to_string().into_bytes())
        .await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    let mail = accounts.mail_to("ann@example.com", 1).await?;
    assert!(!mail.text.contains("evil"), "{mail:?}");
    assert_eq!(mail.text.matches("To: ").count(), 1, "{mail:?}");
    assert_eq!(accounts.service.count("audit_events WHERE ip = '127.0.0.1'").await?, 1);
    // The page that the link opens asks for nothing from elsewhere.
    let page = accounts.service.get("/verify-email").await?;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").context("a policy")?;
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_mails_work_behind_a_path() -> Result<()> {
    const PREFIX: &str = "https://accounts.example/below/it";
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    for (page, route) in [
        ("/verify-email", "/api/v1/auth/verify-email"),
        ("/reset-password", "/api/v1/auth/password-reset/confirm"),
    ] {
        for page in [page.to_owned(), format!("{page}/")] {
            let at = url::Url::parse(&format!("{PREFIX}{page}"))?;
            let html = accounts.service.get(&page).await?.text;
            let (_, source) = html.split_once("<script src=\"").context("a script")?;
            let script = at.join(source.split('"').next().unwrap_or_default())?;
            let path = script.as_str().strip_prefix(PREFIX).context("the script leads out")?;
            let file = accounts.service.get(path).await?;
            assert_eq!(file.status, 200, "{script}");
            let text = file.text;
            let (_, asked) = text.split_once("new URL('").context("a route")?;
            let asked = script.join(asked.split('\'').next().unwrap_or_default())?;
            assert_eq!(asked.as_str(), format!("{PREFIX}{route}"));
            assert!(
                text.contains("document.currentScript.src") && !text.contains("fetch('"),
                "{text}"
            );
        }
    }
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_hashing_is_refused_at_the_start() -> Result<()> {
    let stage = Stage::open().await?;
    for (memory, passes) in [
        ("19455", "2"),
        ("19456", "1"),
        ("47103", "1"),
        ("0", "0"),
        ("4294967295", "0"),
    ] {
        let settings = [("PASSWORD_HASH_MEMORY_KIB", memory), ("PASSWORD_HASH_PASSES", passes)];
        let refused = Accounts::start_with(&stage, &settings)
            .await
            .err()
            .context("it has started")?;
        let said = format!("{refused:#}");
        assert!(
            said.contains("PASSWORD_HASH_MEMORY_KIB") && said.contains("19456"),
            "{said}"
        );
    }
    let other = [("PASSWORD_HASH_MEMORY_KIB", "47104"), ("PASSWORD_HASH_PASSES", "1")];
    let accounts = Accounts::start_with(&stage, &other).await?;
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    let strong = "users WHERE password_hash LIKE '$argon2id$v=19$m=47104,t=1,p=1$%'";
    assert_eq!(accounts.service.count(strong).await?, 1);
    accounts.stop().await
}
