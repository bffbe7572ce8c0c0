//! Rows that wait in partitions without a living owner, and which service reads which queue.

use std::collections::{BTreeMap, BTreeSet};

use super::lease_rows::alive;
use super::{Store, StoreError};
use crate::PARTITIONS;
use crate::status::What;

/// Rows that are counted at most, from the oldest on.
const MOST: i64 = 10_000;

/// Notes that `service` reads `queues` of this database.
pub(crate) async fn announce(store: &Store, service: &str, queues: &[String]) -> Result<(), StoreError> {
    let tx = store.begin().await?;
    for queue in queues {
        let sql = "INSERT INTO queue_readers (service, queue) VALUES ($1, $2) {ignore:service}";
        tx.execute(sql, vec![service.into(), queue.as_str().into()]).await?;
    }
    tx.commit().await
}

/// What waits for nobody, of all services on the database, with how many rows.
pub(crate) async fn find(store: &Store) -> Result<Vec<(What, u64)>, StoreError> {
    let owned = owned(store).await?;
    let mut found = Vec::new();
    let mut services = with_pending(store).await?;
    // Scheduled rows are not looked through for services that nobody has heard of.
    services.extend(
        owned
            .keys()
            .filter_map(|scope| scope.split('/').next().map(str::to_owned)),
    );
    for service in services {
        let Some(free) = free(&owned, &format!("{service}/relay")) else {
            continue;
        };
        let mut rows = 0;
        for (due, order) in [("due_at IS NULL", "seq"), ("due_at <= {clock}", "due_at")] {
            let sql = format!(
                "SELECT COUNT(*) AS number FROM (SELECT partition_no FROM outbox_messages \
                 WHERE status = 'pending' AND service = $1 AND {due} ORDER BY {order} LIMIT $2) AS oldest \
                 WHERE partition_no {{in:$3}}"
            );
            rows += count(store, &sql, &service, &free).await?;
        }
        if rows > 0 {
            found.push((What::Outbox { service }, rows));
        }
    }
    for (service, queue) in readers(store).await? {
        let Some(free) = free(&owned, &format!("{service}/worker")) else {
            continue;
        };
        let sql = "SELECT COUNT(*) AS number FROM (SELECT partition_no FROM queue_messages {index:queue_by_topic} \
            WHERE topic = $1 ORDER BY seq LIMIT $2) AS oldest WHERE partition_no {in:$3}";
        let rows = count(store, sql, &queue, &free).await?;
        if rows > 0 {
            found.push((What::Queue { service, queue }, rows));
        }
    }
    Ok(found)
}

/// The slots of each scope that a living process has.
async fn owned(store: &Store) -> Result<BTreeMap<String, BTreeSet<i64>>, StoreError> {
    let sql = concat!(
        "SELECT scope, slot, CASE WHEN owner IS NOT NULL AND ",
        alive!(),
        " THEN 1 ELSE 0 END AS owned FROM leases WHERE slot >= 0"
    );
    let mut owned: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for row in store.query(sql, vec![]).await? {
        let slots = owned.entry(row.get("scope")?).or_default();
        if row.get::<i32>("owned")? == 1 {
            slots.insert(i64::from(row.get::<i32>("slot")?));
        }
    }
    Ok(owned)
}

/// The partitions of `scope` that nobody has; `None` where there is none of that kind.
fn free(owned: &BTreeMap<String, BTreeSet<i64>>, scope: &str) -> Option<Vec<i64>> {
    let slots = owned.get(scope);
    let free: Vec<i64> = (0..i64::from(PARTITIONS))
        .filter(|slot| slots.is_none_or(|slots| !slots.contains(slot)))
        .collect();
    (!free.is_empty()).then_some(free)
}

/// Services with pending rows, one probe of the index for each.
async fn with_pending(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let sql = "SELECT service FROM outbox_messages \
        WHERE status = 'pending' AND due_at IS NULL AND service > $1 ORDER BY service LIMIT 1";
    let mut services = BTreeSet::new();
    let mut last = String::new();
    while let Some(row) = store.query(sql, vec![last.as_str().into()]).await?.first() {
        last = row.get("service")?;
        services.insert(last.clone());
    }
    Ok(services)
}

async fn readers(store: &Store) -> Result<Vec<(String, String)>, StoreError> {
    let rows = store.query("SELECT service, queue FROM queue_readers", vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("service")?, row.get("queue")?)))
        .collect()
}

async fn count(store: &Store, sql: &str, of: &str, partitions: &[i64]) -> Result<u64, StoreError> {
    let partitions = store.dialect().ints(partitions.iter().copied());
    let rows = store.query(sql, vec![of.into(), MOST.into(), partitions]).await?;
    let number: i64 = rows.first().map_or(Ok(0), |row| row.get("number"))?;
    Ok(number.cast_unsigned())
}
