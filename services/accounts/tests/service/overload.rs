//! More work than there are cores for, and messages that are no sign-ups.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::join_all;

use crate::mailbox::Accounts;
use crate::stage::Stage;

on_each_stage!(what_is_no_sign_up_is_given_up_at_once,);

/// A hash takes tens of milliseconds of a core; a hundred at once are more than two seconds have room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_for_a_hash_is_asked_to_come_again() -> Result<()> {
    let stage = Stage::open().await?;
    // Sixteen passes make sure that there is not.
    let accounts = Accounts::start_with(&stage, &[("PASSWORD_HASH_PASSES", "16")]).await?;
    let flood = async {
        let emails: Vec<String> = (0..100).map(|n| format!("u{n}@example.com")).collect();
        join_all(emails.iter().map(|email| accounts.sign_up(email))).await
    };
    let probes = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let started = Instant::now();
            ensure!(accounts.service.get("/livez").await?.status == 200);
            slowest = slowest.max(started.elapsed());
        }
        Ok(slowest)
    };
    let (replies, slowest) = tokio::join!(flood, probes);
    let mut made = 0;
    let mut refused = 0;
    for reply in replies {
        let reply = reply?;
        match reply.status {
            201 => made += 1,
            503 => {
                assert!(reply.header("retry-after").is_some(), "{reply:?}");
                refused += 1;
            }
            _ => panic!("{reply:?}"),
        }
    }
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused");
    assert_eq!(accounts.service.count("users").await?, made);
    assert!(slowest? < Duration::from_secs(10), "others are answered meanwhile");
    assert_eq!(accounts.sign_up("later@example.com").await?.status, 201);
    accounts.stop().await
}

async fn what_is_no_sign_up_is_given_up_at_once(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let good = r#""user_id":"01a1fe2f-4398-7518-bd75-79dc635da6ab","first_name":"A","last_name":"B","requested_at":"2026-11-21T00:00:00Z""#;
    let bodies = [
        "".to_owned(),
        "no JSON".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        format!("{{{good}}}"),
        format!(r#"{{{good},"email":"no address"}}"#),
        format!(r#"{{{good},"email":"ANN@example.com"}}"#),
        format!(r#"{{{good},"email":"a\u0000@example.com"}}"#),
        format!(r#"{{{good},"email":"ann@example.com","password":"plain"}}"#),
        format!(r#"{{{good},"email":"ann@example.com","role":"admin"}}"#),
        format!(r#"{{{good},"email":"ann@example.com","password_hash":"cGxhaW4="}}"#),
        format!(r#"{{{good},"email":"ann@example.com","password_hash":"plain text"}}"#),
        format!(r#"{{{good},"email":"ann@example.com","first_name":"twice"}}"#),
        good.replace("01a1fe2f", "no UUID."),
        "x".repeat(1 << 20),
    ];
    let count = bodies.len() as i64;
    for (n, body) in bodies.into_iter().enumerate() {
        // The user's id is the message's where it has none.
        let body = body.replace("79dc635da6ab", &format!("79dc635da6{n:02}"));
        accounts.put("user_onboarding_queue", body.as_bytes()).await?;
    }
    accounts
        .count_is("inbox_messages WHERE status = 'dead' AND attempts = 0", count)
        .await?;
    assert_eq!(accounts.service.count("users").await?, 0);
    // The worker goes on.
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.stop().await
}
