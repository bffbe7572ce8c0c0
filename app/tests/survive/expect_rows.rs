//! What became of what was acknowledged: one row for each, nothing else, nothing left over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::wait_until;
use uuid::Uuid;

use crate::load::{Kind, Seen};

/// Includes the leases of those who were killed.
const LIMIT: Duration = Duration::from_secs(300);

const LEFT: &str = "SELECT (SELECT COUNT(*) FROM queue_messages) \
    + (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
    + (SELECT COUNT(*) FROM inbox_messages WHERE status IN ('retrying', 'waiting')) AS n";

/// Waits until every acknowledged event is one row of `processed_events` and nothing is left over.
pub async fn expect_all_processed(database: &str, seen: &Seen) -> Result<()> {
    expect_rows(Kind::Event, database, seen).await
}

/// Waits until all that was acknowledged is one row each of the service's table and nothing is left over.
pub async fn expect_rows(kind: Kind, database: &str, seen: &Seen) -> Result<()> {
    let store = Store::open(database, StoreOptions::default())?;
    let arrived = wait_until("everything to be processed", LIMIT, || async {
        let rows = count(&store, &format!("SELECT COUNT(*) AS n FROM {}", table(kind)))
            .await
            .ok()?;
        if rows < seen.acknowledged.len() as i64 || count(&store, LEFT).await.ok()? > 0 {
            return None;
        }
        let rows = BTreeSet::from_iter(ids(kind, &store).await.ok()?);
        seen.acknowledged.is_subset(&rows).then_some(())
    })
    .await;
    let ids = ids(kind, &store).await?;
    let distinct: BTreeSet<Uuid> = ids.iter().copied().collect();
    let lost = seen.acknowledged.difference(&distinct).count();
    let strange = distinct.difference(&seen.sent).count();
    let dead = count(&store, "SELECT COUNT(*) AS n FROM inbox_messages WHERE status = 'dead'").await?;
    println!(
        "{kind:?}: {} acknowledged, {} refused, {} unanswered; {} rows, {lost} lost, {dead} dead",
        seen.acknowledged.len(),
        seen.refused,
        seen.unanswered,
        ids.len()
    );
    ensure!(lost == 0, "{lost} were acknowledged and have no row");
    ensure!(distinct.len() == ids.len(), "one has two rows");
    ensure!(dead == 0, "{dead} are dead");
    ensure!(strange == 0, "{strange} rows nobody sent");
    arrived?;
    if kind == Kind::Order {
        let told = "SELECT COUNT(*) AS n FROM outbox_messages WHERE topic = 'order_processed_queue'";
        ensure!(
            count(&store, told).await? == ids.len() as i64,
            "an outcome told twice or never"
        );
    }
    store.close().await;
    Ok(())
}

/// The messages of each sender have to lie in the order in which they were sent.
pub async fn expect_order_per_sender(database: &str) -> Result<()> {
    let store = Store::open(database, StoreOptions::default())?;
    // Ids of rows grow with time; those of one batch in its order.
    let rows = store
        .query("SELECT sender, content FROM messages ORDER BY id", vec![])
        .await?;
    let mut last = BTreeMap::<String, u64>::new();
    for row in rows {
        let (sender, content): (String, String) = (row.get("sender")?, row.get("content")?);
        let number: u64 = content.split(' ').next().context("no number")?.parse()?;
        let before = last.insert(sender.clone(), number).unwrap_or_default();
        ensure!(before < number, "{sender}: {number} came after {before}");
    }
    store.close().await;
    Ok(())
}

fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Event => "processed_events",
        Kind::Order => "orders",
        Kind::Message => "messages",
    }
}

async fn count(store: &Store, sql: &str) -> Result<i64> {
    Ok(store.query(sql, vec![]).await?.first().context("no row")?.get("n")?)
}

/// The clients' ids, once for each row.
async fn ids(kind: Kind, store: &Store) -> Result<Vec<Uuid>> {
    let column = match kind {
        // What orders told is recorded as well.
        Kind::Event => "id AS id FROM processed_events WHERE event_type = 'torture'",
        Kind::Order => "order_id AS id FROM orders",
        Kind::Message => "content AS id FROM messages",
    };
    let rows = store.query(&format!("SELECT {column}"), vec![]).await?;
    rows.iter()
        .map(|row| match kind {
            Kind::Event => Ok(row.uuid("id")?),
            Kind::Order | Kind::Message => {
                let text: String = row.get("id")?;
                Ok(text.rsplit(' ').next().unwrap_or_default().parse()?)
            }
        })
        .collect()
}
