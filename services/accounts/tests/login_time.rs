//! How long the answers take that must not tell whether an address has an account. Alone in its program: no other test
//! runs beside it.

#[path = "sessions/house.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod house;
#[path = "stage/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod stage;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use house::{House, OTHER_PASSWORD};
use stage::{Stack, Stage};

const STACK: Stack = Stack::Embedded;

/// A difference that is there shows in each of so many rounds; noise of the machine does not.
const ROUNDS: usize = 6;

/// Requests that a stranger sends to find out.
#[derive(Clone, Copy, Debug)]
enum Question {
    Login,
    Reset,
    Registration,
}

#[tokio::test]
async fn an_unknown_user_takes_as_long_as_a_known_one() -> Result<()> {
    // One after the other: they must not disturb each other.
    for stage in [Stage::open().await?, Stage::on_servers().await?] {
        let house = House::open_with(&stage, &[("TRUSTED_PROXIES", "127.0.0.1")]).await?;
        house.user("ann@example.com").await?;
        for question in [Question::Login, Question::Reset, Question::Registration] {
            alike(&house, question).await?;
        }
        house.close().await?;
        stage.finish().await?;
    }
    Ok(())
}

async fn alike(house: &House, question: Question) -> Result<()> {
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let (a, b) = medians(house, question, round).await?;
        if a.abs_diff(b) < Duration::from_millis(5).max(a / 20) {
            return Ok(());
        }
        seen.push((a, b));
    }
    bail!("{question:?}: medians of known and unknown users: {seen:?}")
}

async fn medians(house: &House, question: Question, round: usize) -> Result<(Duration, Duration)> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    // Most often the first round is enough.
    let pairs: usize = if round == 0 { 30 } else { 60 };
    for n in 0..pairs {
        let address = format!("10.0.{round}.{n}");
        let nobody = format!("nobody{round}x{n}@example.com");
        let mut pair = [("ann@example.com", &mut known), (nobody.as_str(), &mut unknown)];
        // Neither is always the first, and the order has no period: two threads that take turns at hashing, each with memory
        // that it keeps or gives back, have one, and then all of one kind would be the slow ones.
        pair.rotate_left(n.count_ones() as usize % 2);
        for (email, times) in pair {
            // The patience with an account is not what is measured.
            let store = house.service.store();
            store.execute("DELETE FROM login_attempts", vec![]).await?;
            let started = Instant::now();
            let status = ask(house, question, email, &address).await?;
            times.push(started.elapsed());
            ensure!([401, 202].contains(&status), "{question:?} {email}: {status}");
            // What is done behind the answer would be in the way of the next one.
            house.settled().await?;
        }
    }
    known.sort_unstable();
    unknown.sort_unstable();
    Ok((known[pairs / 2], unknown[pairs / 2]))
}

async fn ask(house: &House, question: Question, email: &str, address: &str) -> Result<u16> {
    let headers = [("X-Forwarded-For", address)];
    let reply = match question {
        Question::Login => house.try_login(email, OTHER_PASSWORD, &headers).await?,
        Question::Reset => {
            let body = json!({"email": email});
            house
                .service
                .post_with("/api/v1/auth/password-reset", &body, &headers)
                .await?
        }
        Question::Registration => {
            let body = json!({"email": email, "first_name": "A", "last_name": "L", "password": OTHER_PASSWORD});
            house
                .service
                .post_with("/api/v1/auth/register", &body, &headers)
                .await?
        }
    };
    Ok(reply.status)
}
