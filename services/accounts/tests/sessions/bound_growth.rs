//! What sessions leave behind is bounded: refreshes in a minute, and rows once their time is over.

use anyhow::{Context, Result, ensure};
use posthaste::message::now;
use posthaste_testkit::wait_until;
use uuid::Uuid;

use crate::house::{House, LIMIT, Pass, cookie};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";

on_each_stage!(
    a_session_is_refreshed_sixty_times_a_minute,
    what_has_ended_goes_though_nobody_signs_in,
);

async fn a_session_is_refreshed_sixty_times_a_minute(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let (mut pass, other) = (house.login(ANN).await?, house.login(ANN).await?);
    let mut before = pass.clone();
    for _ in 0..60 {
        let next = Pass::of(&house.refresh(&pass.refresh).await?)?;
        before = std::mem::replace(&mut pass, next);
    }
    for _ in 0..2 {
        let refused = house.refresh(&pass.refresh).await?;
        ensure!(refused.status == 429 && cookie(&refused).is_none(), "{refused:?}");
        let wait: u64 = refused.header("retry-after").context("when")?.parse()?;
        ensure!((1..=60).contains(&wait), "{wait}");
    }
    ensure!(house.calls(&pass).await? == 200, "the session goes on");
    ensure!(
        house.refreshes(&before.refresh).await? == 200,
        "a lost answer is given again"
    );
    ensure!(house.refreshes(&other.refresh).await? == 200, "another device");
    house.age("rate_limits", "window_ends", 61).await?;
    ensure!(house.refreshes(&pass.refresh).await? == 200, "a minute later");
    house.close().await
}

async fn what_has_ended_goes_though_nobody_signs_in(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    for _ in 0..2 {
        let pass = house.login(ANN).await?;
        ensure!(house.refreshes(&pass.refresh).await? == 200);
    }
    ensure!(
        house
            .try_login("nobody@example.com", "a wrong password", &[])
            .await?
            .status
            == 401
    );
    for (table, column) in [
        ("sessions", "absolute_until"),
        ("rate_limits", "window_ends"),
        ("login_attempts", "last_at"),
    ] {
        house.age(table, column, 31 * 24 * 3600).await?;
    }
    // More than go at once, and one whose time is still to come.
    let store = house.service.store();
    let sql = "INSERT INTO revoked_tokens (token_id, expires_at) VALUES ($1, $2)";
    for n in 0..251 {
        let ends = now() + chrono::TimeDelta::seconds(if n == 250 { 600 } else { -n });
        let values = vec![store.dialect().uuid(Uuid::new_v4()), store.dialect().time(ends)];
        store.execute(sql, values).await?;
    }
    house.close().await?;

    let house = House::open(&stage).await?;
    for (table, left) in [
        ("sessions", 0),
        ("refresh_tokens", 0),
        ("rate_limits", 0),
        ("login_attempts", 0),
        ("revoked_tokens", 1),
    ] {
        wait_until(&format!("{left} rows in {table}"), LIMIT, || async {
            (house.service.count(table).await.ok()? == left).then_some(())
        })
        .await?;
    }
    house.close().await
}
