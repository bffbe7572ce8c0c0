//! Access tokens: what they say, and every way to make one that is not ours. Forged ones are signed with a key that the
//! service believes in, so that it is their content that is refused.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthaste::message::now;
use posthaste_testkit::wait_until;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::forger::{Forger, KID, hmacs_of_the_public_key, other_points};
use crate::house::{House, LIMIT, PASSWORD, Pass};

const ANN: &str = "ann@example.com";
fn part(token: &str, n: usize) -> Result<Value> {
    let part = token.split('.').nth(n).context("no such part")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID})
}

fn with(value: &Value, member: &str, set: Value) -> Value {
    let mut value = value.clone();
    value[member] = set;
    value
}

fn without(value: &Value, member: &str) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.remove(member);
    }
    value
}

#[tokio::test]
async fn a_token_says_who_and_for_whom_and_nothing_personal() -> Result<()> {
    let house = House::alone(&[]).await?;
    let id = house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let (header, claims) = (part(&pass.access, 0)?, part(&pass.access, 1)?);
    ensure!(
        header["alg"] == "EdDSA" && header["typ"] == "at+jwt" && header["kid"].is_string(),
        "{header}"
    );
    let mut members: Vec<&String> = claims.as_object().context("no object")?.keys().collect();
    members.sort();
    ensure!(
        members == ["aud", "exp", "iat", "iss", "jti", "nbf", "sid", "sub"],
        "{members:?}"
    );
    ensure!(
        claims["sub"] == id && claims["iss"] == "posthaste" && claims["aud"] == "posthaste",
        "{claims}"
    );
    let (iat, exp) = (
        claims["iat"].as_i64().context("iat")?,
        claims["exp"].as_i64().context("exp")?,
    );
    ensure!(exp - iat == 300 && claims["nbf"] == iat, "{claims}");

    let reply = house.act("GET", "/.well-known/jwks.json", &[]).await?;
    ensure!(
        reply.status == 200 && reply.header("cache-control") == Some("public, max-age=300"),
        "{reply:?}"
    );
    let keys = reply.body["keys"].as_array().context("no keys")?;
    ensure!(keys.len() == 1 && keys[0]["kid"] == header["kid"], "{keys:?}");
    let mut members: Vec<&String> = keys[0].as_object().context("no object")?.keys().collect();
    members.sort();
    ensure!(
        members == ["alg", "crv", "kid", "kty", "use", "x"],
        "public members only: {members:?}"
    );

    let me = house.act_as(&pass, "GET", "/api/v1/users/me", &Value::Null).await?;
    ensure!(me.body["data"]["email"] == ANN && !me.text.contains("argon2"), "{me:?}");
    let principal = house
        .act_as(&pass, "GET", "/api/v1/auth/introspect", &Value::Null)
        .await?;
    ensure!(
        principal.body["user_id"] == id && principal.body["role"] == "user",
        "{principal:?}"
    );
    house.close().await
}

#[tokio::test]
async fn no_forged_token_opens_anything() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let forger = Forger::move_in(&house).await?;
    let honest = part(&pass.access, 1)?;
    let right = forger.sign(&header().to_string(), &honest.to_string());
    wait_until("the key to be noticed", LIMIT, || async {
        (house.calls_with(&right).await.ok()? == 200).then_some(())
    })
    .await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let lure = format!("http://{}/keys", listener.local_addr()?);
    let mut tokens: Vec<(String, String)> = Vec::new();
    let mut add = |what: String, header: &Value, claims: &str| {
        tokens.push((what, forger.sign(&header.to_string(), claims)));
    };
    for alg in ["none", "None", "nOnE", "", "HS256", "ES256", "RS256", "Ed25519"] {
        add(
            format!("alg {alg}"),
            &with(&header(), "alg", json!(alg)),
            &honest.to_string(),
        );
    }
    for kid in [
        json!("../../dev/null"),
        json!("' OR 1=1--"),
        json!("\0"),
        json!([KID]),
        json!("k".repeat(10_000)),
        json!(part(&pass.access, 0)?["kid"]),
    ] {
        add(format!("kid {kid}"), &with(&header(), "kid", kid), &honest.to_string());
    }
    for member in ["alg", "typ", "kid"] {
        add(format!("no {member}"), &without(&header(), member), &honest.to_string());
    }
    for (member, value) in [
        ("jku", json!(lure)),
        ("x5u", json!(lure)),
        ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"})),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["x"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("typ", json!("JWT")),
        ("typ", json!("refresh")),
    ] {
        add(
            format!("{member} {value}"),
            &with(&header(), member, value),
            &honest.to_string(),
        );
    }
    let at = now().timestamp();
    for (member, value) in [
        ("exp", json!("never")),
        ("exp", json!(1e30)),
        ("exp", json!(-1)),
        ("exp", json!(at - 10)),
        ("exp", json!(at + 90_000)),
        ("exp", json!(at as f64 + 60.5)),
        ("exp", json!([at + 60])),
        ("exp", Value::Null),
        ("nbf", json!("9999999999")),
        ("nbf", json!(at + 60)),
        ("iat", json!(at + 60)),
        ("iss", json!("someone")),
        ("aud", json!("something")),
        ("aud", json!(["posthaste"])),
        ("sub", json!(Uuid::new_v4())),
        ("sid", json!(Uuid::new_v4())),
        ("sub", json!("1")),
        ("role", json!("admin")),
    ] {
        add(
            format!("{member} {value}"),
            &header(),
            &with(&honest, member, value).to_string(),
        );
    }
    for member in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid"] {
        add(format!("no {member}"), &header(), &without(&honest, member).to_string());
    }
    let twice = format!(
        "{},\"sub\":\"{}\"}}",
        honest.to_string().trim_end_matches('}'),
        Uuid::new_v4()
    );
    add("sub twice".to_owned(), &header(), &twice);
    add("an array".to_owned(), &header(), "[]");

    let parts: Vec<&str> = right.split('.').collect();
    let public = URL_SAFE_NO_PAD.encode(forger.0.public_key());
    let mut spelled = vec![
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{right}.{}", parts[2]),
        format!("{right}="),
        format!("{} .{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode([0; 64])),
        format!("{}.{}.{}", parts[0], parts[1], public),
        format!("{}.{}.{}.{}.{}", parts[0], parts[1], parts[2], parts[1], parts[2]),
        "a".repeat(60_000),
        pass.refresh.clone(),
    ];
    // Another's claims under an honest signature; the parts of two honest tokens mixed.
    let honest_parts: Vec<&str> = pass.access.split('.').collect();
    let edited = URL_SAFE_NO_PAD.encode(with(&honest, "sub", json!(Uuid::new_v4())).to_string());
    spelled.push(format!("{}.{edited}.{}", honest_parts[0], honest_parts[2]));
    spelled.push(format!("{}.{}.{}", parts[0], honest_parts[1], honest_parts[2]));
    spelled.extend(hmacs_of_the_public_key(
        &honest.to_string(),
        forger.0.public_key().as_ref(),
    ));
    spelled.extend(other_points(&right)?);
    // The last character has bits that are not of the signature.
    let last = right.chars().last().context("empty")?;
    let other = if last == 'B' { 'C' } else { 'B' };
    spelled.push(format!("{}{other}", &right[..right.len() - 1]));
    for (what, token) in tokens
        .into_iter()
        .chain(spelled.into_iter().map(|token| ("spelling".to_owned(), token)))
    {
        let status = house.calls_with(&token).await?;
        // A head beyond what the listener reads is refused before.
        ensure!(
            status == 401 || (token.len() > 50_000 && status == 431),
            "{what}: {status}"
        );
    }
    let called = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    ensure!(called.is_err(), "somebody has asked for a key");
    ensure!(
        house.calls_with(&right).await? == 200,
        "and the next honest request works"
    );
    house.close().await
}

#[tokio::test]
async fn tokens_of_one_kind_are_no_tokens_of_another() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user(ANN).await?;
    let pass = house.login(ANN).await?;
    let reset = house.reset_token(ANN, 1).await?;
    for token in [&pass.refresh, &reset] {
        ensure!(house.calls_with(token).await? == 401, "as an access token");
    }
    let short: String = pass.access.chars().take(43).collect();
    for token in [&pass.access, &reset, &short] {
        ensure!(house.refreshes(token).await? == 401, "as a refresh token");
    }
    for token in [&pass.access, &pass.refresh] {
        let reply = house.confirm_reset(token, PASSWORD).await?;
        ensure!([400, 422].contains(&reply.status), "as a reset token: {reply:?}");
        let reply = house
            .service
            .post("/api/v1/auth/verify-email", &json!({"token": token}))
            .await?;
        ensure!([400, 422].contains(&reply.status), "as a verification token: {reply:?}");
    }
    let reply = house
        .service
        .post("/api/v1/auth/verify-email", &json!({"token": reset}))
        .await?;
    ensure!(reply.status == 400, "{reply:?}");
    ensure!(
        house.confirm_reset(&reset, "seventeen brass lanterns").await?.status == 204,
        "it was not spent by that"
    );
    house.close().await
}

#[tokio::test]
async fn keys_are_published_before_they_sign_and_kept_until_their_tokens_end() -> Result<()> {
    let house = House::alone(&[]).await?;
    house.user(ANN).await?;
    let before = house.login(ANN).await?;
    let kids = async || -> Result<Vec<String>> {
        let reply = house.act("GET", "/.well-known/jwks.json", &[]).await?;
        let keys = reply.body["keys"].as_array().context("no keys")?;
        Ok(keys
            .iter()
            .map(|key| key["kid"].as_str().unwrap_or_default().to_owned())
            .collect())
    };
    let old = kids().await?;
    // A month later the next one is made, and published for a while before it signs.
    house.age("signing_keys", "active_from", 31 * 24 * 3600).await?;
    // So many refreshes in a minute would be refused.
    let uncounted = async |pass: &Pass| -> Result<Pass> {
        house.service.store().execute("DELETE FROM rate_limits", vec![]).await?;
        Pass::of(&house.refresh(&pass.refresh).await?)
    };
    let mut pass = house.login(ANN).await?;
    let deadline = std::time::Instant::now() + LIMIT;
    while kids().await?.len() < 2 {
        pass = uncounted(&pass).await?;
        ensure!(std::time::Instant::now() < deadline, "no next key");
    }
    ensure!(
        part(&pass.access, 0)?["kid"] == old[0].as_str(),
        "the old one signs until everybody has the new one"
    );
    house.age("signing_keys", "active_from", 1000).await?;
    while part(&pass.access, 0)?["kid"] == old[0].as_str() {
        pass = uncounted(&pass).await?;
        ensure!(std::time::Instant::now() < deadline, "no token under the next key");
    }
    let new = pass;
    ensure!(
        house.calls(&before).await? == 200 && house.calls(&new).await? == 200,
        "both are good"
    );
    house.age("signing_keys", "retires_at", 3000).await?;
    wait_until("the old key to go", LIMIT, || async {
        (house.calls(&before).await.ok()? == 401).then_some(())
    })
    .await?;
    ensure!(house.calls(&new).await? == 200 && !kids().await?.contains(&old[0]));

    // Somebody else has the key: it is dropped at once, and who is signed in gets a token under another.
    let sql = "UPDATE signing_keys SET revoked_at = $1";
    house
        .service
        .store()
        .execute(sql, vec![house.service.store().dialect().time(now())])
        .await?;
    wait_until("the revoked key to go", LIMIT, || async {
        (house.calls(&new).await.ok()? == 401).then_some(())
    })
    .await?;
    let next = Pass::of(&house.refresh(&new.refresh).await?)?;
    ensure!(house.calls(&next).await? == 200);
    house.close().await
}
