//! The row R1: an outbox backlog published to RabbitMQ, confirmed and marked, by one relay and by several.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::drive_python::Python;
use super::measure_flows::{CONNECTIONS, await_count};
use super::measure_rabbitmq::FIRST_PORT;
use super::print_figures::{Figures, rate};
use super::{check_ids, drive_rabbitmq, send_load};
use crate::run_binary::Running;

/// Where orders are placed.
const PATH: &str = "/api/v1/orders";
/// Relays beside each other.
const RELAYS: usize = 4;

/// Per second, on classic queues.
#[derive(Default)]
pub struct Relayed {
    confirms: Vec<f64>,
    relay: Vec<f64>,
    relays: Vec<f64>,
    python: Vec<f64>,
}

impl Relayed {
    /// Two backlogs of `requests`, each left by the role `api`: for one relay and for several; then a worker for the
    /// check. The Python way gets the number that stands beside it.
    pub async fn repeat(
        &mut self,
        binary: &Path,
        folder: &Path,
        requests: usize,
        (python, count): (&Python, usize),
    ) -> Result<()> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let plain = broker.url();
        let url = format!("{plain}?queue_type=classic");
        let start = async |role| {
            let arguments = ["serve", "orders", "--migrate", "--role", role];
            Running::start_over(binary, &arguments, database.url(), Some(&url), folder).await
        };
        let mut connection = PgConnection::connect(database.url()).await?;
        let mut accepted = BTreeSet::new();
        let leave = async |accepted: &mut BTreeSet<_>| {
            let bodies = orders(requests, accepted);
            let api = start("api").await?;
            send_load::post(api.port, PATH, &bodies, CONNECTIONS).await?;
            api.stop().await?;
            anyhow::Ok(bodies)
        };
        let per_second = |from: Instant| requests as f64 / from.elapsed().as_secs_f64();

        let bodies = leave(&mut accepted).await?;
        let (confirms, _) = drive_rabbitmq::drive(&plain, "classic", &bodies).await?;
        self.confirms.push(confirms);
        let few: Vec<String> = bodies.into_iter().take(count).collect();
        self.python.push(python.relay(&plain, database.url(), &few).await?);
        ensure!(
            marked(&mut connection).await? == 0,
            "void: the backlog was not left alone"
        );
        // The start-up of what works a backlog off counts against it.
        let from = Instant::now();
        let relay = start("relay").await?;
        await_marked(&mut connection, requests).await?;
        self.relay.push(per_second(from));
        relay.stop().await?;

        leave(&mut accepted).await?;
        let from = Instant::now();
        let mut relays = Vec::new();
        for _ in 0..RELAYS {
            relays.push(start("relay").await?);
        }
        await_marked(&mut connection, 2 * requests).await?;
        self.relays.push(per_second(from));
        for relay in relays {
            relay.stop().await?;
        }

        let worker = start("worker").await?;
        let from = Instant::now();
        let stored = "SELECT COUNT(*) FROM orders";
        while !await_count(
            sqlx::query_scalar(stored).fetch_one(&mut connection).await?,
            accepted.len(),
            from,
        )
        .await?
        {}
        worker.stop().await?;
        let stored: Vec<String> = sqlx::query_scalar("SELECT order_id FROM orders")
            .fetch_all(&mut connection)
            .await?;
        let stored = stored.iter().map(|id| Uuid::parse_str(id));
        check_ids::check(&accepted, &stored.collect::<Result<Vec<_>, _>>()?)?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints the rows.
    pub fn print(self) {
        let relay = Figures::of(self.relay);
        let row = |beside| format!("R1 outbox backlog marked/s beside {beside}, RabbitMQ classic, PostgreSQL");
        let confirms = Figures::of(self.confirms);
        rate(&row("pipelined confirms"), &relay, &confirms, Some(0.8));
        let python = Figures::of(self.python);
        rate(&row("a Python relay that never sleeps"), &relay, &python, None);
        let relays = Figures::of(self.relays);
        let row = format!("R1 with {RELAYS} relays beside 1, marked/s, RabbitMQ classic, PostgreSQL");
        rate(&row, &relays, &relay, Some(1.0));
    }
}

/// Orders under ids of our own.
fn orders(count: usize, accepted: &mut BTreeSet<Uuid>) -> Vec<String> {
    let made = (0..count).map(|_| {
        let id = Uuid::now_v7();
        accepted.insert(id);
        format!(r#"{{"orderId":"{id}","userId":"user-456","totalAmount":"99.99","idempotencyKey":"{id}","items":[]}}"#)
    });
    made.collect()
}

/// Waits until `expected` messages are published and marked.
pub async fn await_marked(connection: &mut PgConnection, expected: usize) -> Result<()> {
    let start = Instant::now();
    while !await_count(marked(connection).await?, expected, start).await? {}
    Ok(())
}

async fn marked(connection: &mut PgConnection) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM outbox_messages WHERE published_at IS NOT NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}
