//! Kafka as foreign clients, its own tools and failures use it. What every transport has to do is in the conformance
//! suites.

mod break_broker;
mod foreign_client;
mod identify;
#[path = "../rabbitmq/log.rs"]
mod log;
mod move_partition;
mod odd_logs;
mod share_group;
#[path = "../rabbitmq/shop.rs"]
mod shop;

use anyhow::Result;
use posthaste_testkit::servers;

/// The transport on the cluster that all tests share.
fn transport() -> Result<String> {
    Ok(format!("kafka://{}", servers::kafka()?))
}
