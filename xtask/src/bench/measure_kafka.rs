//! The row C2: a backlog on a Kafka topic drained into PostgreSQL, beside a bare consumer and beside multi-row inserts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateKafka;
use sqlx::{Connection, PgConnection};

use super::measure_flows::CONNECTIONS;
use super::measure_relay::await_marked;
use super::measure_sends::{PATH, await_stored, check_stored, messages};
use super::print_figures::{Figures, rate};
use super::{drive_kafka, send_load};
use crate::run_binary::Running;

/// Where its ports begin.
const FIRST_PORT: u16 = 27_900;
/// Where messages go.
const TOPIC: &str = "integration-events.message_sent";

/// Per second.
#[derive(Default)]
pub struct Drained {
    drain: Vec<f64>,
    consume: Vec<f64>,
    insert: Vec<f64>,
}

impl Drained {
    /// `requests` through the roles `api` and `relay` onto the topic, then the role `worker` until all are stored.
    pub async fn repeat(&mut self, binary: &Path, folder: &Path, requests: usize) -> Result<()> {
        let kafka = PrivateKafka::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let url = kafka.url();
        let start = async |arguments| Running::start_over(binary, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let mut accepted = BTreeSet::new();
        let bodies = messages(requests, &mut accepted);
        let sender = start(&["serve", "messages", "--role", "api,relay"]).await?;
        send_load::post(sender.port, PATH, &bodies, CONNECTIONS).await?;
        await_marked(&mut connection, requests).await?;
        sender.stop().await?;

        self.consume
            .push(drive_kafka::consume(&kafka.servers(), TOPIC, requests).await?);
        // The worker's start-up and its joining count against it.
        let from = Instant::now();
        let worker = start(&["serve", "messages", "--role", "worker"]).await?;
        await_stored(&mut connection, requests).await?;
        self.drain.push(requests as f64 / from.elapsed().as_secs_f64());
        worker.stop().await?;
        check_stored(&mut connection, &accepted).await?;
        self.insert.push(insert_again(&mut connection, requests).await?);
        connection.close().await?;
        database.finish().await
    }

    /// Prints both rows.
    pub fn print(self) {
        let (drain, consume) = (Figures::of(self.drain), Figures::of(self.consume));
        let insert = Figures::of(self.insert);
        let row = |beside| format!("C2 backlog to rows/s beside {beside}, Kafka, PostgreSQL");
        // The lower of the two is the limit.
        let target = |limit: &Figures, other: &Figures| (limit.median() <= other.median()).then_some(0.75);
        rate(&row("consume"), &drain, &consume, target(&consume, &insert));
        rate(&row("multi-row insert"), &drain, &insert, target(&insert, &consume));
    }
}

/// The stored messages as multi-row inserts into a table like theirs; rows per second.
async fn insert_again(connection: &mut PgConnection, count: usize) -> Result<f64> {
    const CHUNK: i64 = 500;
    sqlx::query("CREATE TABLE raw_messages (LIKE messages INCLUDING ALL)")
        .execute(&mut *connection)
        .await?;
    // Read before the clock starts, in the order in which they were stored.
    sqlx::query(
        "CREATE TEMPORARY TABLE stored AS SELECT row_number() OVER (ORDER BY id) AS n, m AS row FROM messages m",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("CREATE UNIQUE INDEX ON stored (n)")
        .execute(&mut *connection)
        .await?;
    let start = Instant::now();
    for first in (1..=count as i64).step_by(CHUNK as usize) {
        sqlx::query("INSERT INTO raw_messages SELECT (row).* FROM stored WHERE n >= $1 AND n < $2")
            .bind(first)
            .bind(first + CHUNK)
            .execute(&mut *connection)
            .await?;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM raw_messages")
        .fetch_one(connection)
        .await?;
    ensure!(rows == count as i64, "void: {rows} of {count} rows are in the table");
    Ok(rate)
}
