//! Refreshing: rotation, its grace, reuse; in one instance and in two, over restarts.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use crate::house::{House, NO_BROWSER, Pass, cookie};
use crate::stage::Stage;

const ANN: &str = "ann@example.com";

on_each_stage!(
    a_token_is_rotated_and_its_reuse_ends_the_family,
    twenty_parallel_refreshes_at_two_instances_are_one_family,
    without_grace_exactly_one_of_many_wins,
    what_was_rotated_or_revoked_stays_so_over_a_restart,
    a_session_ends_when_it_is_idle_or_old
);

async fn a_token_is_rotated_and_its_reuse_ends_the_family(stage: Stage) -> Result<()> {
    let house = House::open(&stage).await?;
    house.user(ANN).await?;
    let (first, other) = (house.login(ANN).await?, house.login(ANN).await?);
    let second = Pass::of(&house.refresh(&first.refresh).await?)?;
    ensure!(second.refresh != first.refresh && second.access != first.access);

    // Whoever has lost the answer gets the same one again, for ten seconds from the first use.
    let repeated = Pass::of(&house.refresh(&first.refresh).await?)?;
    ensure!(repeated.refresh == second.refresh, "one successor");
    house.age("sessions", "rotated_at", 5).await?;
    ensure!(house.refreshes(&first.refresh).await? == 200, "five seconds later");
    house.age("sessions", "rotated_at", 6).await?;
    // Used a moment ago, and dead all the same: the time does not slide.
    let late = house.refresh(&first.refresh).await?;
    ensure!(late.status == 401 && cookie(&late).as_deref() == Some(""), "{late:?}");
    ensure!(house.refreshes(&second.refresh).await? == 401, "the newest one is dead");
    for pass in [&first, &second, &repeated] {
        ensure!(house.calls(pass).await? == 401, "and so are the access tokens");
    }
    ensure!(
        house.calls(&other).await? == 200 && house.refreshes(&other.refresh).await? == 200,
        "another device"
    );
    ensure!(house.audited("user.refresh_reuse").await? == 1);

    // The one before the one before is a thief's however soon it comes.
    let one = house.login(ANN).await?;
    let two = Pass::of(&house.refresh(&one.refresh).await?)?;
    let three = Pass::of(&house.refresh(&two.refresh).await?)?;
    ensure!(house.refreshes(&one.refresh).await? == 401);
    ensure!(house.refreshes(&three.refresh).await? == 401 && house.calls(&three).await? == 401);
    ensure!(house.audited("user.refresh_reuse").await? == 2);

    // Unknown, ended and reused look alike, and nothing of a token is in the database.
    let unknown = house.refresh(&"A".repeat(43)).await?;
    let mut bodies: Vec<_> = [late, unknown, house.refresh(&one.refresh).await?]
        .map(|reply| reply.body)
        .into();
    bodies
        .iter_mut()
        .for_each(|body| body["correlation_id"] = serde_json::Value::Null);
    ensure!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    let stored = house.number(
        "SELECT COUNT(*) AS n FROM refresh_tokens WHERE token_hash = $1",
        &other.refresh,
    );
    ensure!(stored.await? == 0, "only hashes are stored");
    house.close().await
}

async fn twenty_parallel_refreshes_at_two_instances_are_one_family(stage: Stage) -> Result<()> {
    let houses = [House::open(&stage).await?, House::open(&stage).await?];
    houses[0].user(ANN).await?;
    let pass = houses[0].login(ANN).await?;
    let many = (0..20).map(|n| houses[n % 2].refresh(&pass.refresh));
    let replies = try_join_all(many).await?;
    let mut next = Vec::new();
    for reply in &replies {
        next.push(Pass::of(reply)?);
    }
    ensure!(
        next.iter().all(|pass| pass.refresh == next[0].refresh),
        "all have the same cookie"
    );
    ensure!(houses[1].service.count("sessions").await? == 1);
    ensure!(houses[1].service.count("refresh_tokens").await? == 2, "no fork");
    ensure!(houses[1].refreshes(&next[19].refresh).await? == 200);
    ensure!(
        houses[0].audited("user.refresh_reuse").await? == 0,
        "nobody was logged out"
    );
    let [one, two] = houses;
    one.close().await?;
    two.close().await
}

async fn without_grace_exactly_one_of_many_wins(stage: Stage) -> Result<()> {
    let settings = [("REFRESH_GRACE_SECONDS", "0")];
    let houses = [
        House::open_with(&stage, &settings).await?,
        House::open_with(&stage, &settings).await?,
    ];
    houses[0].user(ANN).await?;
    let pass = houses[0].login(ANN).await?;
    let many = (0..20).map(|n| houses[n % 2].refreshes(&pass.refresh));
    let statuses = try_join_all(many).await?;
    let won = statuses.iter().filter(|status| **status == 200).count();
    ensure!(
        won == 1 && statuses.iter().all(|status| [200, 401].contains(status)),
        "{statuses:?}"
    );
    let [one, two] = houses;
    one.close().await?;
    two.close().await
}

async fn what_was_rotated_or_revoked_stays_so_over_a_restart(stage: Stage) -> Result<()> {
    // A restart fits into it, also on a busy machine.
    let long = [("REFRESH_GRACE_SECONDS", "60")];
    let house = House::open_with(&stage, &long).await?;
    house.user(ANN).await?;
    let (kept, rotated, left) = (
        house.login(ANN).await?,
        house.login(ANN).await?,
        house.login(ANN).await?,
    );
    let next = Pass::of(&house.refresh(&rotated.refresh).await?)?;
    ensure!(house.log_out(&left).await?.status == 204);
    house.close().await?;
    let house = House::open_with(&stage, &long).await?;
    ensure!(house.calls(&kept).await? == 200, "keys and sessions are still there");
    ensure!(house.calls(&left).await? == 401 && house.refreshes(&left.refresh).await? == 401);
    ensure!(
        Pass::of(&house.refresh(&rotated.refresh).await?)?.refresh == next.refresh,
        "the grace, too"
    );
    house.age("sessions", "rotated_at", 61).await?;
    ensure!(house.refreshes(&rotated.refresh).await? == 401 && house.refreshes(&next.refresh).await? == 401);
    house.close().await
}

async fn a_session_ends_when_it_is_idle_or_old(stage: Stage) -> Result<()> {
    let settings = [("SESSION_IDLE_SECONDS", "100"), ("SESSION_SECONDS", "150")];
    let house = House::open_with(&stage, &settings).await?;
    house.user(ANN).await?;
    let mut pass = house.login(ANN).await?;
    let age = async |seconds: i64| -> Result<()> {
        for column in ["idle_until", "absolute_until", "rotated_at"] {
            house.age("sessions", column, seconds).await?;
        }
        Ok(())
    };
    age(80).await?;
    let reply = house.refresh(&pass.refresh).await?;
    pass = Pass::of(&reply)?;
    let set = reply.header("set-cookie").unwrap_or_default();
    let left: i64 = set.rsplit('=').next().unwrap_or_default().parse()?;
    ensure!(
        (60..=70).contains(&left),
        "the end of the session comes no later for a refresh: {set}"
    );
    age(60).await?;
    pass = Pass::of(&house.refresh(&pass.refresh).await?)?;
    age(15).await?;
    ensure!(house.refreshes(&pass.refresh).await? == 401, "too old");
    ensure!(house.calls(&pass).await? == 401, "its access token ends with it");

    let idle = house.login(ANN).await?;
    age(101).await?;
    ensure!(house.refreshes(&idle.refresh).await? == 401, "idle");
    house.close().await
}

#[tokio::test]
async fn only_pages_of_our_own_make_a_browser_refresh() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let cookie = format!("refresh={}", pass.refresh);
    for path in ["/api/v1/auth/refresh", "/api/v1/auth/logout"] {
        let refused: [&[(&str, &str)]; 6] = [
            &[("Sec-Fetch-Site", "cross-site")],
            &[("Sec-Fetch-Site", "same-site")],
            &[("Sec-Fetch-Site", "cross-site"), NO_BROWSER],
            &[("Origin", "null")],
            &[("Origin", "https://evil.example"), NO_BROWSER],
            &[],
        ];
        for headers in refused {
            let reply = house
                .act("POST", path, &[&[("Cookie", cookie.as_str())], headers].concat())
                .await?;
            ensure!([403, 415].contains(&reply.status), "{path} {headers:?}: {reply:?}");
            ensure!(reply.header("set-cookie").is_none(), "the cookie is left alone");
        }
        let text = [
            ("Cookie", cookie.as_str()),
            ("Sec-Fetch-Site", "same-origin"),
            ("Content-Type", "text/plain"),
        ];
        let reply = house.service.send("POST", path, &text, b"x".to_vec()).await?;
        ensure!(reply.status == 415, "{path}: {reply:?}");
        ensure!(reply.header("set-cookie").is_none(), "the cookie is left alone");
        for method in ["GET", "PUT", "DELETE"] {
            let reply = house.act(method, path, &[("Cookie", &cookie), NO_BROWSER]).await?;
            ensure!(
                reply.status == 405 && reply.header("allow").is_some(),
                "{method} {path}: {reply:?}"
            );
        }
    }
    // Some clients give an empty body the type of a form.
    let typed = format!("refresh={}", house.login(ANN).await?.refresh);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let reply = house
        .act("POST", "/api/v1/auth/refresh", &[("Cookie", &typed), form, NO_BROWSER])
        .await?;
    ensure!(reply.status == 200, "{reply:?}");
    // The cookie is a token for nothing else.
    let stray = house
        .act("GET", "/api/v1/users/me", &[("Cookie", &cookie), NO_BROWSER])
        .await?;
    ensure!(stray.status == 401, "{stray:?}");
    // Two of the name, of which one is somebody else's: neither counts, whichever stands first.
    house.user("bob@example.com").await?;
    let bobs = house.login("bob@example.com").await?.refresh;
    let doubled = format!("{cookie}; {cookie}");
    let (before, behind) = (format!("refresh={bobs}; {cookie}"), format!("{cookie}; refresh={bobs}"));
    let (quoted, oversize) = (format!("refresh=\"{bobs}\""), format!("refresh={}", bobs.repeat(120)));
    for wrong in [
        doubled.as_str(),
        &before,
        &behind,
        &quoted,
        &oversize,
        "refresh=",
        "refresh=abc",
        "Refresh=abc",
        "__Host-refresh=abc",
    ] {
        let reply = house
            .act("POST", "/api/v1/auth/refresh", &[("Cookie", wrong), NO_BROWSER])
            .await?;
        ensure!(
            reply.status == 401 && reply.header("set-cookie").is_none(),
            "{wrong}: {reply:?}"
        );
    }
    let two_lines = [("Cookie", cookie.as_str()), ("Cookie", &before[..51]), NO_BROWSER];
    ensure!(house.act("POST", "/api/v1/auth/refresh", &two_lines).await?.status == 401);
    let own = house
        .act(
            "POST",
            "/api/v1/auth/refresh",
            &[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")],
        )
        .await?;
    ensure!(own.status == 200, "{own:?}");
    house.close().await
}

#[tokio::test]
async fn over_tls_the_cookie_is_bound_to_the_host() -> Result<()> {
    let settings = [("PUBLIC_URL", "https://accounts.example")];
    let house = House::alone(&settings).await?;
    house.user(ANN).await?;
    let reply = house.try_login(ANN, crate::house::PASSWORD, &[]).await?;
    let set = reply.header("set-cookie").unwrap_or_default().to_owned();
    let token = cookie(&reply).unwrap_or_default();
    ensure!(
        set == format!("__Host-refresh={token}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=604800"),
        "{set}"
    );
    let refresh = async |name: &str| -> Result<u16> {
        let cookie = format!("{name}={token}");
        let headers = [("Cookie", cookie.as_str()), ("Origin", "https://accounts.example")];
        Ok(house.act("POST", "/api/v1/auth/refresh", &headers).await?.status)
    };
    ensure!(
        refresh("refresh").await? == 401 && refresh("__host-refresh").await? == 401,
        "only under its name"
    );
    ensure!(refresh("__Host-refresh").await? == 200);
    house.close().await
}
