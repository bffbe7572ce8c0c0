//! What has to be true after any run.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use chrono::{DateTime, Utc};
use posthaste::broker::memory::MemoryBroker;
use posthaste::{Store, Subscription};
use uuid::Uuid;

/// How many rows each of the service's own tables has.
pub(crate) type Rows = BTreeMap<String, i64>;

/// What the checks have to know of a subscription.
#[derive(Clone)]
pub(crate) struct Reader {
    pub name: String,
    pub queue: String,
    pub ordered: bool,
}

impl Reader {
    pub fn of(subscription: &Subscription) -> Self {
        Self {
            name: subscription.name.clone(),
            queue: subscription.queue.clone(),
            ordered: subscription.ordered,
        }
    }
}

/// A message on its way out.
struct Sent {
    id: Uuid,
    topic: String,
    key: Option<String>,
}

/// Counts the rows of the service's own tables.
pub(crate) async fn count_rows(store: &Store) -> Result<Rows> {
    const CORE: &[&str] = &[
        "outbox_messages",
        "queue_messages",
        "inbox_messages",
        "leases",
        "idempotency_keys",
        "schema_migrations",
    ];
    let mut counts = Rows::new();
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    for row in store.query(sql, vec![]).await? {
        let table: String = row.get("name")?;
        if CORE.contains(&table.as_str()) {
            continue;
        }
        let sql = format!("SELECT COUNT(*) AS number FROM \"{table}\"");
        for row in store.query(&sql, vec![]).await? {
            counts.insert(table.clone(), row.get("number")?);
        }
    }
    Ok(counts)
}

/// Which invariants do not hold.
pub(crate) async fn check(store: &Store, broker: Option<&MemoryBroker>, readers: &[Reader]) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    let outbox = outbox(store).await?;
    let wire: Vec<Sent> = match broker {
        Some(broker) => broker
            .published()
            .into_iter()
            .map(|message| Sent {
                id: message.id.0,
                topic: message.topic,
                key: message.key,
            })
            .collect(),
        None => outbox.iter().map(Sent::clone_of).collect(),
    };
    let mut first: HashMap<Uuid, usize> = HashMap::new();
    for (n, sent) in wire.iter().enumerate() {
        first.entry(sent.id).or_insert(n);
    }
    for message in &outbox {
        if !first.contains_key(&message.id) {
            violations.push(format!("{} was marked published and never was", message.id));
        }
    }
    in_order("was published", &outbox, |sent| first.get(&sent.id), &mut violations);
    handled(store, &wire, readers, &mut violations).await?;
    Ok(violations)
}

/// Every message on the wire is handled, by ordered subscriptions in order.
async fn handled(store: &Store, wire: &[Sent], readers: &[Reader], violations: &mut Vec<String>) -> Result<()> {
    let mut marks: HashMap<(String, Uuid), Option<DateTime<Utc>>> = HashMap::new();
    let sql = "SELECT subscription, message_id, processed_at FROM inbox_messages WHERE status IN ('processed', 'dead')";
    for row in store.query(sql, vec![]).await? {
        let key = (row.get("subscription")?, row.uuid("message_id")?);
        marks.insert(key, row.time_or_null("processed_at")?);
    }
    let mark = |reader: &Reader, id| marks.get(&(reader.name.clone(), id));
    for sent in wire {
        let mut candidates = readers.iter().filter(|reader| reader.queue == sent.topic).peekable();
        if candidates.peek().is_some() && !candidates.any(|reader| mark(reader, sent.id).is_some()) {
            violations.push(format!(
                "{} of {} was neither handled nor is it dead",
                sent.id, sent.topic
            ));
        }
    }
    let mut seen = std::collections::HashSet::new();
    let once: Vec<&Sent> = wire.iter().filter(|sent| seen.insert(sent.id)).collect();
    for reader in readers.iter().filter(|reader| reader.ordered) {
        let sent: Vec<Sent> = once
            .iter()
            .filter(|sent| sent.topic == reader.queue)
            .map(|sent| Sent::clone_of(sent))
            .collect();
        let what = format!("was handled by {}", reader.name);
        in_order(&what, &sent, |sent| mark(reader, sent.id)?.as_ref(), violations);
    }
    Ok(())
}

/// Within each key, `position` must not fall.
fn in_order<P: PartialOrd>(what: &str, sent: &[Sent], position: impl Fn(&Sent) -> Option<P>, out: &mut Vec<String>) {
    let mut latest: HashMap<(&str, &str), P> = HashMap::new();
    for message in sent {
        let (Some(key), Some(at)) = (message.key.as_deref(), position(message)) else {
            continue;
        };
        let lane = (message.topic.as_str(), key);
        if latest.get(&lane).is_some_and(|before| at < *before) {
            out.push(format!("{} with key {key} {what} before its predecessor", message.id));
        }
        latest.insert(lane, at);
    }
}

impl Sent {
    fn clone_of(other: &Self) -> Self {
        Self {
            id: other.id,
            topic: other.topic.clone(),
            key: other.key.clone(),
        }
    }
}

/// What was marked published, in the order of its commits. Scheduled rows go by their time instead.
async fn outbox(store: &Store) -> Result<Vec<Sent>> {
    let sql = "SELECT event_id, topic, message_key FROM outbox_messages \
        WHERE status = 'published' AND due_at IS NULL ORDER BY seq";
    let rows = store.query(sql, vec![]).await?;
    let read = |row: &posthaste::store::Row| {
        Ok(Sent {
            id: row.uuid("event_id")?,
            topic: row.get("topic")?,
            key: row.get("message_key")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The rows that differ from those of the undisturbed run.
pub(crate) fn compare_rows(now: &Rows, undisturbed: &Rows) -> Vec<String> {
    undisturbed
        .iter()
        .filter_map(|(table, want)| {
            let have = now.get(table).copied().unwrap_or(0);
            (have != *want).then(|| format!("table {table} has {have} rows, undisturbed it had {want}"))
        })
        .collect()
}
