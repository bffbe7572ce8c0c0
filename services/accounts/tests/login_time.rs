//! How long a failed login takes. Alone in its program: no other test runs beside it.

#[path = "sessions/house.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod house;
#[path = "stage/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need all of it")]
mod stage;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use house::{House, OTHER_PASSWORD};
use stage::{Stack, Stage};

const STACK: Stack = Stack::Embedded;

/// A difference that is there shows in each of so many rounds; noise of the machine does not.
const ROUNDS: usize = 3;

#[tokio::test]
async fn an_unknown_user_takes_as_long_as_a_known_one() -> Result<()> {
    // One after the other: they must not disturb each other.
    for stage in [Stage::open().await?, Stage::on_servers().await?] {
        alike_on(&stage).await?;
        stage.finish().await?;
    }
    Ok(())
}

async fn alike_on(stage: &Stage) -> Result<()> {
    let house = House::open_with(stage, &[("TRUSTED_PROXIES", "127.0.0.1")]).await?;
    house.user("ann@example.com").await?;
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let (a, b) = medians(&house, round).await?;
        if a.abs_diff(b) < Duration::from_millis(5).max(a / 20) {
            return house.close().await;
        }
        seen.push((a, b));
    }
    bail!("medians of known and unknown users: {seen:?}")
}

async fn medians(house: &House, round: usize) -> Result<(Duration, Duration)> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for n in 0..60 {
        let address = format!("10.0.{round}.{n}");
        let mut pair = [("ann@example.com", &mut known), ("nobody@example.com", &mut unknown)];
        // Neither is always the first.
        pair.rotate_left(n % 2);
        for (email, times) in pair {
            // The patience with an account is not what is measured.
            let store = house.service.store();
            store.execute("DELETE FROM login_attempts", vec![]).await?;
            let started = Instant::now();
            let headers = [("X-Forwarded-For", address.as_str())];
            let reply = house.try_login(email, OTHER_PASSWORD, &headers).await?;
            times.push(started.elapsed());
            ensure!(reply.status == 401, "{reply:?}");
        }
    }
    known.sort_unstable();
    unknown.sort_unstable();
    Ok((known[30], unknown[30]))
}
