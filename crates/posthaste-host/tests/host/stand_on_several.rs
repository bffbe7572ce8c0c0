//! Services with a database or a transport each, in one process.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use posthaste::dead_letter::{self, Selection};
use posthaste::{Broker, Cx, Event, Handle, Handled, Message, Store, StoreOptions, Subscription, outbox};
use posthaste_host::{Config, ConfigError, Host, RoleSet, RunningHost, Service, ServiceContext, ServiceParts, Sources};
use posthaste_testkit::servers::TestVhost;
use posthaste_testkit::{TestDatabase, wait_until};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use utoipa_axum::router::OpenApiRouter;

use crate::ledger_service::{LIMIT, get};

#[derive(Serialize, Deserialize)]
struct Shipped(String);

impl Event for Shipped {
    const TYPE: &'static str = "shipped";
    const TOPIC: &'static str = "east_and_west";
}

struct Ignore;

impl Handle<Shipped> for Ignore {
    async fn handle(&self, _: Shipped, _: &mut Cx<'_>) -> Handled {
        Ok(())
    }
}

fn build(cx: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let name = format!("{}.ship", cx.name);
    let ship = Subscription::new::<Shipped, _>(&name, Shipped::TOPIC, Ignore);
    Ok(ServiceParts::new(OpenApiRouter::new(), [ship]))
}

async fn start(settings: &[(&str, &str)]) -> Result<RunningHost> {
    let pairs = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut config = Config::load(Sources::new().environment(pairs), &["east", "west"])?;
    // Nobody takes what stands in the outboxes.
    config.roles = RoleSet {
        relay: false,
        ..RoleSet::ALL
    };
    let services = [Service::new("east", build), Service::new("west", build)];
    Ok(Host::start(&services, &config, TcpListener::bind("127.0.0.1:0").await?).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_broker_is_seen_beside_another_of_its_kind() -> Result<()> {
    let (database, vhost) = (TestDatabase::sqlite()?, TestVhost::create().await?);
    let nobody = TcpSocket::new_v4()?;
    nobody.bind("127.0.0.1:0".parse()?)?;
    let lost = format!("amqp://{}", nobody.local_addr()?);
    let host = start(&[
        ("DATABASE_URL", database.url()),
        ("EAST_BROKER_URL", vhost.url()),
        ("WEST_BROKER_URL", &lost),
    ])
    .await?;
    wait_until("one broker to be up and one down", LIMIT, || async {
        let (status, _, body) = get(&host, "/health").await.ok()?;
        let health: serde_json::Value = serde_json::from_str(&body).ok()?;
        let is = |check: &str, state: &str| health["checks"][check]["status"] == state;
        let seen = is("broker:east", "ok") && is("broker:west", "down");
        (seen && status == 503 && health["mq"] == "disconnected").then_some(())
    })
    .await?;
    let (_, _, metrics) = get(&host, "/metrics").await?;
    for (check, up) in [("east", 1), ("west", 0)] {
        let line =
            format!("posthaste_broker_up{{messaging_system=\"rabbitmq\",posthaste_check=\"broker:{check}\"}} {up}\n");
        ensure!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    host.stop().await;
    database.finish().await
}

fn shipped(body: &[u8]) -> Result<Message> {
    let mut message = Message::of(&Shipped("a box".to_owned()))?;
    message.body = body.to_vec();
    Ok(message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_one_database_do_not_depend_on_another() -> Result<()> {
    let databases = [TestDatabase::sqlite()?, TestDatabase::sqlite()?];
    let host = start(&[
        ("EAST_DATABASE_URL", databases[0].url()),
        ("WEST_DATABASE_URL", databases[1].url()),
    ])
    .await?;
    let mut stores = BTreeMap::new();
    for (service, database) in ["east", "west"].into_iter().zip(&databases) {
        let store = Store::open(database.url(), StoreOptions::default())?;
        let mut tx = store.begin().await?;
        outbox::append(&mut tx, service, shipped(b"\"a box\"")?).await?;
        tx.commit().await?;
        for published in Broker::open("sql:", &store)?.publish(vec![shipped(b"no JSON")?]).await {
            published?;
        }
        stores.insert(service, store);
    }
    let shows = async |lines: &[&str]| {
        wait_until("the figures", LIMIT, || async {
            let (_, _, metrics) = get(&host, "/metrics").await.ok()?;
            let has = |line: &&str| metrics.lines().any(|shown| shown == *line);
            lines.iter().all(has).then_some(())
        })
        .await
        .with_context(|| format!("{lines:?}"))
    };
    let letters = |n: u32| format!("posthaste_dlq_messages{{messaging_destination_name=\"east_and_west\"}} {n}");
    let pending = |service: &str| format!("posthaste_outbox_pending{{posthaste_service=\"{service}\"}} 1");
    let (east, west) = (pending("east"), pending("west"));
    shows(&[&letters(2), &east, &west]).await?;
    for (store, left) in stores.values().zip([1, 0]) {
        ensure!(dead_letter::discard(store, &Selection::default()).await? == 1);
        shows(&[&letters(left), &east, &west]).await?;
    }
    for store in stores.values() {
        store.close().await;
    }
    host.stop().await;
    for database in databases {
        database.finish().await?;
    }
    Ok(())
}
