//! The guard in front of routes, with three tokens that a verifier of the test's own knows.

use anyhow::{Result, ensure};
use axum::extract::{FromRef, Path};
use http::Method;
use posthaste_host::auth::{Admin, Caller, Guard, Principal, Refusal, Role, SignedIn, Verifier, Visitor};
use posthaste_host::http::ApiError;
use posthaste_host::{
    Config, ConfigError, Host, RunningHost, Service, ServiceContext, ServiceParts, Sources, StartError,
};
use tokio::net::TcpListener;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::ledger_service::{LIMIT, once_ok};

const ANN: Uuid = Uuid::from_u128(1);
const BOB: Uuid = Uuid::from_u128(2);

#[derive(Clone)]
struct State(Guard);

/// A route of somebody who has never heard of guards.
#[utoipa::path(get, path = "/careless", responses((status = 200, description = "Everything")))]
async fn careless() -> &'static str {
    "everything"
}

impl FromRef<State> for Guard {
    fn from_ref(state: &State) -> Self {
        state.0.clone()
    }
}

#[utoipa::path(get, path = "/admin", responses((status = 200, description = "Yes")))]
async fn admin(Admin(caller): Admin) -> String {
    format!("{:?}", caller.user_id())
}

#[utoipa::path(get, path = "/of/{user}", responses((status = 200, description = "Yes")))]
async fn of(caller: Caller, Path(user): Path<Uuid>) -> Result<&'static str, ApiError> {
    if caller.may_see(user) {
        Ok("seen")
    } else {
        Err(ApiError::not_found("There is no such user."))
    }
}

#[utoipa::path(get, path = "/me", responses((status = 200, description = "Yes")))]
async fn me(SignedIn(principal): SignedIn) -> String {
    principal.user_id.to_string()
}

#[utoipa::path(get, path = "/visit", responses((status = 200, description = "Yes")))]
async fn visit(Visitor(caller): Visitor) -> String {
    format!("{}", caller.is_some_and(|caller| caller.is_admin()))
}

fn doors(cx: &ServiceContext) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(admin))
        .routes(routes!(of))
        .routes(routes!(me))
        .routes(routes!(visit))
        .routes(routes!(careless))
        .with_state(State(cx.guard()))
}

fn principal(user_id: Uuid, role: Role) -> Principal {
    Principal {
        user_id,
        session_id: Uuid::from_u128(9),
        token_id: Uuid::from_u128(9),
        role,
        expires_at: i64::MAX,
    }
}

fn build(cx: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let mut parts = ServiceParts::new(doors(cx), []).open([(Method::GET, "/visit")]);
    parts.verifier = Some(Verifier::new(async |token| match token.as_str() {
        "ann" => Ok(principal(ANN, Role::Admin)),
        "bob" => Ok(principal(BOB, Role::User)),
        "later" => Err(Refusal::Unavailable),
        _ => Err(Refusal::Invalid),
    }));
    Ok(parts)
}

const KNOWING: Service = Service::new("knowing", build);
const ASKING: Service = Service::new("asking", |cx| Ok(ServiceParts::new(doors(cx), [])));

async fn start(
    service: Service,
    settings: &[(&str, &str)],
) -> Result<(tempfile::TempDir, Result<RunningHost, StartError>)> {
    let folder = tempfile::tempdir()?;
    let database = format!("sqlite:{}/guard.db", folder.path().display());
    let pairs = [&[("DATABASE_URL", database.as_str())], settings].concat();
    let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = Config::load(Sources::new().environment(pairs), &[service.name])?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok((folder, Host::start(&[service], &config, listener).await))
}

/// Status, challenge and body of `GET path` with `headers`.
async fn get(host: &RunningHost, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String, String)> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let mut request = client.get(format!("http://{}{path}", host.addr));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let challenge = match answer.headers().get("www-authenticate") {
        Some(challenge) => challenge.to_str()?.to_owned(),
        None => String::new(),
    };
    Ok((answer.status().as_u16(), challenge, answer.text().await?))
}

#[tokio::test]
async fn a_token_is_taken_from_one_authorization_header_only() -> Result<()> {
    let (_folder, host) = start(KNOWING, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let host = host?;
    let invalid = "Bearer error=\"invalid_token\"";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let cases: [Case<'_>; 12] = [
        ("/admin", &[("authorization", "Bearer ann")], 200, ""),
        ("/admin", &[("authorization", "bearer ann")], 200, ""),
        ("/admin", &[], 401, "Bearer"),
        ("/admin?access_token=ann", &[], 401, "Bearer"),
        (
            "/admin",
            &[("cookie", "refresh=ann; __Host-refresh=ann; access_token=ann")],
            401,
            "Bearer",
        ),
        ("/admin", &[("authorization", "Basic YW5uOmFubg==")], 401, "Bearer"),
        ("/admin", &[("authorization", "Bearer")], 401, "Bearer"),
        (
            "/admin",
            &[("authorization", "Bearer ann"), ("authorization", "Bearer ann")],
            401,
            invalid,
        ),
        ("/admin", &[("authorization", "Bearer ann, Bearer ann")], 401, invalid),
        ("/admin", &[("authorization", "Bearer eve")], 401, invalid),
        (
            "/admin",
            &[("x-http-method-override", "GET"), ("x-original-url", "/visit")],
            401,
            "Bearer",
        ),
        ("/admin", &[("authorization", "Bearer later")], 503, ""),
    ];
    for (path, headers, status, challenge) in cases {
        let (answered, challenged, body) = get(&host, path, headers).await?;
        ensure!(
            answered == status && challenged == challenge,
            "{path} {headers:?}: {answered} {challenged}"
        );
        ensure!(
            status == 200 || !body.contains("Bearer"),
            "the token is not repeated: {body}"
        );
    }
    let long = format!("Bearer {}", "a".repeat(5000));
    ensure!(
        get(&host, "/admin", &[("authorization", &long)]).await?.0 == 401,
        "too long"
    );
    host.stop().await;
    Ok(())
}

#[tokio::test]
async fn roles_and_owners_are_told_apart() -> Result<()> {
    let (_folder, host) = start(KNOWING, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let host = host?;
    let (ann, bob) = (("authorization", "Bearer ann"), ("authorization", "Bearer bob"));
    let (status, challenge, _) = get(&host, "/admin", &[bob]).await?;
    ensure!(
        status == 403 && challenge.contains("insufficient_scope"),
        "{status} {challenge}"
    );
    for (path, caller, status) in [
        (format!("/of/{ANN}"), ann, 200),
        (format!("/of/{BOB}"), ann, 200),
        (format!("/of/{BOB}"), bob, 200),
        (format!("/of/{ANN}"), bob, 404),
        (format!("/of/{ANN}/"), bob, 404),
        (format!("/of//{ANN}"), bob, 404),
    ] {
        ensure!(get(&host, &path, &[caller]).await?.0 == status, "{path} {caller:?}");
    }
    ensure!(get(&host, "/me", &[bob]).await?.2 == BOB.to_string());
    ensure!(get(&host, "/visit", &[]).await?.2 == "false", "a stranger");
    ensure!(get(&host, "/visit", &[ann]).await?.2 == "true", "an administrator");
    ensure!(
        get(&host, "/visit", &[("authorization", "Bearer eve")]).await?.0 == 401,
        "a bad token is no visitor"
    );
    host.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_not_declared_open_needs_a_token_before_it_is_found_or_not() -> Result<()> {
    let (_folder, host) = start(KNOWING, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let host = host?;
    let (ann, bob) = (("authorization", "Bearer ann"), ("authorization", "Bearer bob"));
    for (path, to_users) in [
        ("/careless", 200),
        ("/careless/", 200),
        ("/nothing", 404),
        ("/nothing/", 404),
        ("/Livez", 404),
        ("//livez", 404),
        ("/livez/x", 404),
        ("/%6Civez", 404),
        ("/metrics", 403),
        ("/metrics/", 403),
    ] {
        for (headers, status) in [
            (&[][..], 401),
            (&[("authorization", "Bearer eve")], 401),
            (&[("authorization", "Bearer later")], 503),
            (&[bob], to_users),
        ] {
            let (answered, _, body) = get(&host, path, headers).await?;
            ensure!(answered == status, "{path} {headers:?}: {answered} {body}");
            ensure!(status == 200 || !body.contains("everything"), "{path}: {body}");
        }
    }
    ensure!(get(&host, "/metrics", &[ann]).await?.0 == 200, "an administrator");
    for open in [
        "/",
        "/livez",
        "/livez/",
        "/readyz",
        "/health",
        "/docs",
        "/docs/assets/start.js",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
        "/docs/assets/favicon-32x32.png",
        "/redoc",
        "/redoc/assets/start.js",
        "/redoc/assets/redoc.standalone.js",
        "/openapi.json",
        "/openapi.json/",
        "/visit",
    ] {
        once_ok(open, || get(&host, open, &[])).await?;
    }
    // A door that is open to one method is not open to another.
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    for (method, path, status) in [
        (reqwest::Method::HEAD, "/visit", 200),
        (reqwest::Method::HEAD, "/careless", 401),
        (reqwest::Method::POST, "/visit", 401),
        (reqwest::Method::DELETE, "/livez", 401),
        (reqwest::Method::OPTIONS, "/careless", 401),
    ] {
        let url = format!("http://{}{path}", host.addr);
        let answered = client.request(method.clone(), url).send().await?.status().as_u16();
        ensure!(answered == status, "{method} {path}: {answered}");
    }
    host.stop().await;
    Ok(())
}

#[tokio::test]
async fn open_lets_everybody_manage_but_knows_nobody() -> Result<()> {
    let (_folder, host) = start(KNOWING, &[]).await?;
    let host = host?;
    for path in ["/admin".to_owned(), format!("/of/{ANN}"), "/visit".to_owned()] {
        ensure!(get(&host, &path, &[]).await?.0 == 200, "{path}");
    }
    ensure!(
        get(&host, "/me", &[]).await?.0 == 401,
        "nobody is signed in without a token"
    );
    ensure!(get(&host, "/me", &[("authorization", "Bearer bob")]).await?.0 == 200);
    host.stop().await;
    Ok(())
}

#[tokio::test]
async fn enforced_without_anybody_who_knows_tokens_lets_no_token_in() -> Result<()> {
    let (_folder, host) = start(ASKING, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let host = host?;
    for path in ["/admin", "/careless", "/me", "/metrics", "/nothing"] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer ann")],
            &[("authorization", "Bearer ph_ann")],
        ] {
            ensure!(get(&host, path, headers).await?.0 == 401, "{path} {headers:?}");
        }
    }
    host.stop().await;
    let https = [("POSTHASTE_AUTH", "enforced"), ("ACCOUNTS_URL", "https://127.0.0.1:9")];
    let (_folder, host) = start(ASKING, &https).await?;
    ensure!(
        host.err()
            .is_some_and(|error| error.is_configuration() && error.to_string().contains("no TLS"))
    );

    // The accounts service is away: nobody is let in, and nobody is called a forger.
    let away = [("POSTHASTE_AUTH", "enforced"), ("ACCOUNTS_URL", "http://127.0.0.1:9")];
    let (_folder, host) = start(ASKING, &away).await?;
    let host = host?;
    ensure!(get(&host, "/admin", &[]).await?.0 == 401);
    ensure!(get(&host, "/admin", &[("authorization", "Bearer a.b.c")]).await?.0 == 401);
    let shaped = "Bearer eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImsxIn0.e30.AAAA";
    ensure!(get(&host, "/admin", &[("authorization", shaped)]).await?.0 == 503);
    host.stop().await;
    Ok(())
}
