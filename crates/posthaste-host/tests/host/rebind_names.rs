//! A page whose name was given the address of this machine reads nothing from a service that asks for no token.

use anyhow::Result;
use posthaste_host::{Config, Host, RunningHost, Service, ServiceParts, Sources};
use tokio::net::TcpListener;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ledger_service::{LIMIT, once_ok};

#[utoipa::path(get, path = "/secrets", responses((status = 200, description = "All of them")))]
async fn secrets() -> &'static str {
    "hidden"
}

const SERVICE: Service = Service::new("secrets", |_| {
    Ok(ServiceParts::new(OpenApiRouter::new().routes(routes!(secrets)), []))
});

async fn start(bind: &str, settings: &[(&str, &str)]) -> Result<(tempfile::TempDir, RunningHost)> {
    let folder = tempfile::tempdir()?;
    let database = format!("sqlite:{}/names.db", folder.path().display());
    let pairs = [&[("DATABASE_URL", database.as_str())], settings].concat();
    let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = Config::load(Sources::new().environment(pairs), &[SERVICE.name])?;
    let listener = TcpListener::bind((bind, 0)).await?;
    Ok((folder, Host::start(&[SERVICE], &config, listener).await?))
}

/// Status, kind and body of `GET path` with `name` as the host.
async fn get(host: &RunningHost, path: &str, name: &str) -> Result<(u16, String, String)> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let url = format!("http://127.0.0.1:{}{path}", host.addr.port());
    let answer = client.get(url).header("Host", name).send().await?;
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str());
    let kind = kind.transpose()?.unwrap_or_default().to_owned();
    Ok((answer.status().as_u16(), kind, answer.text().await?))
}

#[tokio::test]
async fn an_open_process_on_loopback_answers_under_its_own_names_only() -> Result<()> {
    let (_folder, host) = start("127.0.0.1", &[("PUBLIC_URL", "https://Accounts.example/x")]).await?;
    let port = host.addr.port();
    for own in ["localhost", "127.0.0.1", "[::1]", "accounts.example"] {
        for name in [own.to_owned(), format!("{own}:{port}")] {
            let answer = get(&host, "/secrets", &name).await?;
            assert_eq!((answer.0, answer.2.as_str()), (200, "hidden"), "{name}");
        }
    }
    for other in ["evil.example".to_owned(), format!("localhost.evil.example:{port}")] {
        for path in ["/secrets", "/secrets/"] {
            let (status, kind, body) = get(&host, path, &other).await?;
            assert_eq!((status, kind.as_str()), (421, "application/problem+json"), "{body}");
            assert!(!body.contains("hidden") && !body.contains("evil"), "{body}");
        }
        for path in ["/livez", "/readyz", "/health"] {
            once_ok(path, || get(&host, path, &other)).await?;
        }
    }
    host.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_open_process_that_others_can_reach_answers_under_the_names_that_it_is_told() -> Result<()> {
    let open = ("POSTHASTE_AUTH", "open");
    let hosts = ("ALLOWED_HOSTS", "orders-api, Orders.internal");
    for (bind, settings) in [
        ("0.0.0.0", &[open, hosts][..]),
        ("0.0.0.0", &[open]),
        ("127.0.0.1", &[open, hosts]),
    ] {
        let (_folder, host) = start(bind, settings).await?;
        let told = settings.len() == 2;
        for (name, own) in [
            ("localhost:8001", true),
            ("127.0.0.1", true),
            ("orders-api:8000", told),
            ("orders.internal", told),
            ("evil.example", false),
            ("orders-api.evil.example", false),
            ("192.168.0.1", false),
        ] {
            let status = if own { 200 } else { 421 };
            assert_eq!(
                get(&host, "/secrets", name).await?.0,
                status,
                "{bind} {settings:?} {name}"
            );
        }
        host.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn where_tokens_are_asked_for_any_name_will_do() -> Result<()> {
    for bind in ["127.0.0.1", "0.0.0.0"] {
        let (_folder, host) = start(bind, &[("POSTHASTE_AUTH", "enforced")]).await?;
        assert_eq!(get(&host, "/secrets", "orders.internal:8000").await?.0, 401, "{bind}");
        host.stop().await;
    }
    Ok(())
}
