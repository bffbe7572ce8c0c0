//! Two replicas on one database: the one that this service replaces published every outcome twice.

use std::collections::BTreeSet;

use crate::outcomes::{failures, order, processed, put_with_id, settled};
use anyhow::Result;
use posthaste_testkit::{RunningService, TestDatabase, on_each_database};
use serde_json::Value;

on_each_database!(five_hundred_duplicates_of_fifty_orders_are_fifty_orders_and_fifty_outcomes);

async fn five_hundred_duplicates_of_fifty_orders_are_fifty_orders_and_fifty_outcomes(
    database: TestDatabase,
) -> Result<()> {
    let first = RunningService::start(orders::service(), &database).await?;
    let second = RunningService::start(orders::service(), &database).await?;
    // 7 and 500 have no common factor: every order comes ten times, never in a row.
    for n in (0..500).map(|n| n * 7 % 500) {
        let body = order(&format!("order-{}", n % 50), &format!("key-{}", n % 50)).to_string();
        if n % 2 == 0 {
            put_with_id(&first, &body).await?;
        } else {
            let service = if n % 3 == 0 { &first } else { &second };
            // Another body under one key at the API is a conflict; the same one gets the same answer.
            let reply = service.post("/api/v1/orders", &serde_json::from_str(&body)?).await?;
            assert!(matches!(reply.status, 202 | 409), "{reply:?}");
        }
    }
    settled(&first).await?;
    assert_eq!(first.count("orders").await?, 50);
    let told = processed(&second).await?;
    let ids: BTreeSet<&str> = told.iter().filter_map(|one| one["orderId"].as_str()).collect();
    assert_eq!((told.len(), ids.len()), (50, 50));
    assert_eq!(failures(&first).await?, Vec::<Value>::new());
    first.stop().await?;
    second.stop().await
}
