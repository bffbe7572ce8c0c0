//! Services in one process and in processes of their own, each with its own servers; replicas of each role.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::servers::PrivateRabbitmq;
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::alone;
use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

const LIMIT: Duration = Duration::from_secs(600);
/// How long a message may be on its way; the first one waits for its consumers.
const WAY: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_has_its_own_servers() -> Result<()> {
    alone(LIMIT, async {
        let broker = PrivateRabbitmq::launch(26_880).await?;
        let (orders, notifications, messages) = (
            TestDatabase::mysql().await?,
            TestDatabase::postgres().await?,
            TestDatabase::postgres().await?,
        );
        let kafka = tokio::task::spawn_blocking(posthaste_testkit::servers::kafka).await??;
        let kafka = format!("kafka://{kafka}");
        let group = format!("run-roles-{}", Uuid::new_v4().simple());
        let url = broker.url();
        let settings = [
            ("ORDERS_DATABASE_URL", orders.url()),
            ("ORDERS_BROKER_URL", url.as_str()),
            ("NOTIFICATIONS_DATABASE_URL", notifications.url()),
            ("NOTIFICATIONS_BROKER_URL", url.as_str()),
            ("MESSAGES_DATABASE_URL", messages.url()),
            ("MESSAGES_BROKER_URL", kafka.as_str()),
            ("KAFKA_CONSUMER_GROUP", group.as_str()),
        ];
        let folder = tempfile::tempdir()?;

        let all = Posthaste::spawn(folder.path(), &[], &settings)?;
        let health = all.answers("/health", 200).await?;
        for check in ["database:orders", "database:notifications", "database:messages"] {
            ensure!(health.contains(check), "{check} in {health}");
        }
        follow(&all, &all, &all).await.context("in one process")?;
        all.terminate().await?;

        let of = |service| Posthaste::spawn(folder.path(), &[service], &settings);
        let (orders_process, notifications_process, messages_process) =
            (of("orders")?, of("notifications")?, of("messages")?);
        follow(&orders_process, &notifications_process, &messages_process)
            .await
            .context("in three processes")?;
        for process in [orders_process, notifications_process, messages_process] {
            process.terminate().await?;
        }
        for database in [orders, notifications, messages] {
            database.finish().await?;
        }
        Ok(())
    })
    .await
}

/// One order to its record at notifications, and one message to its row.
async fn follow(orders: &Posthaste, notifications: &Posthaste, messages: &Posthaste) -> Result<()> {
    for process in [orders, notifications, messages] {
        process.answers("/readyz", 200).await?;
    }
    let (order, user, sender) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let client = reqwest::Client::new();
    let body = json!({"orderId": order, "userId": user, "totalAmount": 99.99, "idempotencyKey": order, "items": []});
    let placed = client
        .post(format!("{}/api/v1/orders", orders.base))
        .json(&body)
        .send()
        .await?;
    ensure!(placed.status() == 202, "{placed:?}");
    let found = orders.answers(&format!("/api/v1/orders/{order}"), 200).await?;
    ensure!(found.contains(r#""status":"PROCESSED""#), "{found}");
    let told = first(&format!("{}/api/events?user_id={user}", notifications.base), "items").await?;
    ensure!(told["event_type"] == "order.processed", "{told}");

    let sent = client
        .post(format!("{}/api/v1/messages/send", messages.base))
        .json(&json!({"sender": sender, "content": "end to end"}))
        .send()
        .await?;
    ensure!(sent.status() == 200, "{sent:?}");
    let stored = first(&format!("{}/api/v1/messages/sender/{sender}", messages.base), "data").await?;
    ensure!(stored["content"] == "end to end", "{stored}");
    Ok(())
}

/// Waits for the first of a list.
async fn first(url: &str, list: &str) -> Result<Value> {
    wait_until(url, WAY, || async {
        let page: Value = serde_json::from_str(&reqwest::get(url).await.ok()?.text().await.ok()?).ok()?;
        page[list].get(0).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_of_each_role() -> Result<()> {
    alone(LIMIT, async {
        let broker = PrivateRabbitmq::launch(26_900).await?;
        let database = TestDatabase::postgres().await?;
        let url = broker.url();
        let settings = [("DATABASE_URL", database.url()), ("BROKER_URL", url.as_str())];
        let folder = tempfile::tempdir()?;
        let start = |role| Posthaste::spawn(folder.path(), &["notifications", "--role", role], &settings);
        let roles = ["api", "worker", "relay"];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for role in roles {
            first.push(start(role)?);
            second.push(start(role)?);
        }
        for process in first.iter().chain(&second) {
            process.answers("/readyz", 200).await?;
        }
        let loads = [Load::start(&first[0].base, 8), Load::start(&second[0].base, 8)];
        for load in &loads {
            load.acknowledge(300).await?;
        }
        // What goes through the outbox as well.
        broker.stop().await?;
        for load in &loads {
            load.acknowledge(300).await?;
        }
        broker.start().await?;
        // One of each kind dies; the others go on alone.
        loads[0].redirect(&second[0].base);
        for process in first {
            process.kill9().await?;
        }
        for load in &loads {
            load.acknowledge(300).await?;
        }
        let [one, other] = loads;
        let (mut seen, other) = (one.finish().await, other.finish().await);
        seen.sent.extend(other.sent);
        seen.acknowledged.extend(other.acknowledged);
        seen.refused += other.refused;
        seen.unanswered += other.unanswered;
        expect_all_processed(database.url(), &seen).await?;
        for process in second {
            process.terminate().await?;
        }
        database.finish().await
    })
    .await
}
