//! The rows R1 (an outbox backlog published to RabbitMQ, confirmed and marked) and R2 (on to its rows).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{Connection, PgConnection};

use super::drive_python::Python;
use super::measure_flows::{CONNECTIONS, await_count};
use super::measure_rabbitmq::FIRST_PORT;
use super::measure_sends::{PATH, await_stored, check_stored, messages};
use super::print_figures::{Figures, rate};
use super::run_binary::Running;
use super::{drive_rabbitmq, send_load};

/// Relays beside each other.
const RELAYS: usize = 4;

/// Per second, on classic queues.
#[derive(Default)]
pub struct Relayed {
    confirms: Vec<f64>,
    relay: Vec<f64>,
    relays: Vec<f64>,
    drain: Vec<f64>,
    whole: Vec<f64>,
    python: Vec<f64>,
}

impl Relayed {
    /// Three backlogs of `requests`, each left by the role `api`: for one relay, for several, for a relay and a worker.
    pub async fn repeat(
        &mut self,
        binary: &Path,
        folder: &Path,
        requests: usize,
        python: Option<(&Python, usize)>,
    ) -> Result<()> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let plain = broker.url();
        let url = format!("{plain}?queue_type=classic");
        let start = async |arguments| Running::start_over(binary, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let mut accepted = BTreeSet::new();
        let leave = async |accepted: &mut BTreeSet<_>| {
            let bodies = messages(requests, accepted);
            let api = start(&["serve", "--role", "api"]).await?;
            send_load::post(api.port, PATH, &bodies, CONNECTIONS).await?;
            api.stop().await?;
            anyhow::Ok(bodies)
        };
        let per_second = |from: Instant| requests as f64 / from.elapsed().as_secs_f64();

        let bodies = leave(&mut accepted).await?;
        self.confirms
            .push(drive_rabbitmq::drive(&plain, "classic", &bodies).await?.0);
        if let Some((python, count)) = python {
            let bodies: Vec<String> = bodies.into_iter().take(count).collect();
            self.python.push(python.relay(&plain, database.url(), &bodies).await?);
        }
        ensure!(
            marked(&mut connection).await? == 0,
            "void: the backlog was not left alone"
        );
        // The start-up of what works it off counts against it.
        let from = Instant::now();
        let relay = start(&["serve", "--role", "relay"]).await?;
        await_marked(&mut connection, requests).await?;
        self.relay.push(per_second(from));
        relay.stop().await?;

        let from = Instant::now();
        let worker = start(&["serve", "--role", "worker"]).await?;
        await_stored(&mut connection, requests).await?;
        self.drain.push(per_second(from));
        worker.stop().await?;

        leave(&mut accepted).await?;
        let from = Instant::now();
        let mut relays = Vec::new();
        for _ in 0..RELAYS {
            relays.push(start(&["serve", "--role", "relay"]).await?);
        }
        await_marked(&mut connection, 2 * requests).await?;
        self.relays.push(per_second(from));
        for relay in relays {
            relay.stop().await?;
        }

        leave(&mut accepted).await?;
        let worker = start(&["serve", "--role", "worker"]).await?;
        await_stored(&mut connection, 2 * requests).await?;
        worker.stop().await?;
        let from = Instant::now();
        let both = start(&["serve", "--role", "relay,worker"]).await?;
        await_stored(&mut connection, 3 * requests).await?;
        self.whole.push(per_second(from));
        both.stop().await?;
        check_stored(&mut connection, &accepted).await?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints the rows that are wanted.
    pub fn print(self, wanted: impl Fn(&str) -> bool) {
        let (relay, drain) = (Figures::of(self.relay), Figures::of(self.drain));
        if wanted("R1") {
            let row = |beside| format!("R1 outbox backlog marked/s beside {beside}, RabbitMQ classic, PostgreSQL");
            rate(
                &row("pipelined confirms"),
                &relay,
                &Figures::of(self.confirms),
                Some(0.8),
            );
            if !self.python.is_empty() {
                rate(
                    &row("a Python relay that never sleeps"),
                    &relay,
                    &Figures::of(self.python),
                    None,
                );
            }
            let relays = Figures::of(self.relays);
            let row = format!("R1 with {RELAYS} relays beside 1, marked/s, RabbitMQ classic, PostgreSQL");
            rate(&row, &relays, &relay, Some(1.0));
        }
        if wanted("R2") {
            let lower = if relay.median() <= drain.median() { relay } else { drain };
            let row = "R2 outbox backlog to rows/s beside the slower of its halves, RabbitMQ classic, PostgreSQL";
            rate(row, &Figures::of(self.whole), &lower, Some(0.8));
        }
    }
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
