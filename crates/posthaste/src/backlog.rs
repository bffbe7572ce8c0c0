//! Gauges of what waits: asked for when metrics are scraped, so that an idle process counts nothing.

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::dead_letter;
use crate::store::{Store, StoreError, backlog_rows};
use crate::telemetry::metric;

/// Services and queues that had a figure before: without rows they have to show 0, not the last one.
static SHOWN: LazyLock<Mutex<BTreeSet<(bool, String)>>> = LazyLock::new(Mutex::default);

/// Sets the gauges of the outbox, the `sql:` queues and the dead letters of `store`.
///
/// # Errors
/// When the database is away; the gauges keep their last values.
pub async fn record(store: &Store) -> Result<(), StoreError> {
    let outboxes = backlog_rows::outbox(store).await?;
    let queues = backlog_rows::queues(store).await?;
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (is_queue, name) in &shown {
        set(*is_queue, name, 0, 0.0);
    }
    for (service, count, age) in outboxes {
        set(false, &service, count, age);
        shown.insert((false, service));
    }
    for (queue, count) in queues {
        set(true, &queue, count, 0.0);
        shown.insert((true, queue));
    }
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner).extend(shown);
    dead_letter::record(store).await
}

fn set(is_queue: bool, name: &str, count: i64, age: f64) {
    if is_queue {
        metrics::gauge!(metric::QUEUE_DEPTH, "messaging_destination_name" => name.to_owned()).set(count as f64);
        return;
    }
    metrics::gauge!(metric::OUTBOX_PENDING, "posthaste_service" => name.to_owned()).set(count as f64);
    metrics::gauge!(metric::OUTBOX_OLDEST, "posthaste_service" => name.to_owned()).set(age);
}
