//! A database that comes later, and one without its schema.

use anyhow::{Context, Result, ensure};
use posthaste_host::StartError;
use posthaste_testkit::{TestDatabase, wait_until};
use reqwest::Method;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::ledger_service::{LIMIT, config, get, send, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_without_its_database_and_works_once_it_comes() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let Away { url, socket, target } = Away::of(&database)?;
    let mut config = config(&[("DATABASE_URL", url.as_str())])?;
    config.migrate = true;
    let host = start(&config).await?;
    let (status, _, body) = get(&host, "/readyz").await?;
    ensure!(status == 503, "{status} {body}");
    let (status, _, body) = get(&host, "/health").await?;
    ensure!(status == 503 && body.contains(r#""status":"down""#), "{status} {body}");
    ensure!(body.contains(r#""db":"disconnected""#), "{body}");
    let (status, ..) = get(&host, "/livez").await?;
    ensure!(status == 200, "the process itself is well");
    let (status, _, body) = send(&host, Method::POST, "/book/early").await?;
    ensure!(status == 503, "{status} {body}");

    let forwarding = tokio::spawn(forward(socket.listen(64)?, target));
    wait_until("the host to be ready", LIMIT, || async {
        let (status, ..) = get(&host, "/readyz").await.ok()?;
        (status == 200).then_some(())
    })
    .await?;
    let (status, _, body) = send(&host, Method::POST, "/book/late").await?;
    ensure!(status == 202, "{status} {body}");
    let store = posthaste::Store::open(database.url(), posthaste::StoreOptions::default())?;
    wait_until("the booking", LIMIT, || async {
        let rows = store.query("SELECT what FROM ledger", vec![]).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await?;
    store.close().await;
    host.stop().await;
    forwarding.abort();
    database.finish().await
}

/// A database behind a port that is reserved for us and does not listen: connections are refused.
struct Away {
    url: url::Url,
    socket: TcpSocket,
    target: String,
}

impl Away {
    fn of(database: &TestDatabase) -> Result<Self> {
        let mut url: url::Url = database.url().parse()?;
        let target = format!("{}:{}", url.host_str().context("host")?, url.port().unwrap_or(5432));
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind("127.0.0.1:0".parse()?)?;
        url.set_host(Some("127.0.0.1"))?;
        ensure!(url.set_port(Some(socket.local_addr()?.port())).is_ok(), "port");
        Ok(Self { url, socket, target })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_clients_to_come_again_while_tables_are_missing() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let Away { url, socket, target } = Away::of(&database)?;
    // Nobody completes the schema.
    let host = start(&config(&[("DATABASE_URL", url.as_str())])?).await?;
    let forwarding = tokio::spawn(forward(socket.listen(64)?, target));
    wait_until("the database to be there", LIMIT, || async {
        let (_, _, body) = get(&host, "/health").await.ok()?;
        body.contains(r#""db":"connected""#).then_some(())
    })
    .await?;
    let (status, _, body) = send(&host, Method::POST, "/book/early").await?;
    ensure!(status == 503, "{status} {body}");
    let (status, _, body) = get(&host, "/readyz").await?;
    ensure!(status == 503, "{status} {body}");
    host.stop().await;
    forwarding.abort();
    database.finish().await
}

async fn forward(listener: TcpListener, target: String) -> std::io::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        let mut server = TcpStream::connect(&target).await?;
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_a_database_without_its_schema_and_names_the_command() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let mut config = config(&[("DATABASE_URL", database.url())])?;
    let Err(error) = start(&config).await else {
        anyhow::bail!("it started without its tables");
    };
    let refused = error.downcast_ref::<StartError>().context("another error")?;
    ensure!(matches!(refused, StartError::Schema { .. }), "{refused:?}");
    let text = refused.to_string();
    ensure!(text.contains("ledger/1") && text.contains("migrate up"), "{text}");

    config.migrate = true;
    start(&config).await?.stop().await;
    config.migrate = false;
    start(&config).await?.stop().await;
    database.finish().await
}
