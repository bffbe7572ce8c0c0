//! The row R1: an outbox backlog published to RabbitMQ, confirmed and marked, beside a bare client's pipelined confirms.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{Connection, PgConnection};

use super::measure_flows::{CONNECTIONS, await_count};
use super::measure_rabbitmq::FIRST_PORT;
use super::measure_sends::{PATH, await_stored, check_stored, messages};
use super::print_figures::{Figures, rate};
use super::run_binary::Running;
use super::{drive_rabbitmq, send_load};

/// Per second, on classic queues.
#[derive(Default)]
pub struct Relayed {
    relay: Vec<f64>,
    confirms: Vec<f64>,
}

impl Relayed {
    /// `requests` to the role `api`, then the role `relay` until all are marked, then the role `worker` for the check.
    pub async fn repeat(&mut self, binary: &Path, folder: &Path, requests: usize) -> Result<()> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let plain = broker.url();
        let url = format!("{plain}?queue_type=classic");
        let start = async |arguments| Running::start_over(binary, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let mut accepted = BTreeSet::new();
        let bodies = messages(requests, &mut accepted);
        self.confirms
            .push(drive_rabbitmq::drive(&plain, "classic", &bodies).await?.0);

        let api = start(&["serve", "--role", "api"]).await?;
        send_load::post(api.port, PATH, &bodies, CONNECTIONS).await?;
        api.stop().await?;
        ensure!(
            marked(&mut connection).await? == 0,
            "void: the backlog was not left alone"
        );
        // The relay's start-up counts against it.
        let from = Instant::now();
        let relay = start(&["serve", "--role", "relay"]).await?;
        while !await_count(marked(&mut connection).await?, requests, from).await? {}
        self.relay.push(requests as f64 / from.elapsed().as_secs_f64());
        relay.stop().await?;

        let worker = start(&["serve", "--role", "worker"]).await?;
        await_stored(&mut connection, requests).await?;
        worker.stop().await?;
        check_stored(&mut connection, &accepted).await?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints the row.
    pub fn print(self) {
        let row = "R1 outbox backlog marked/s beside pipelined confirms, RabbitMQ classic, PostgreSQL";
        rate(row, &Figures::of(self.relay), &Figures::of(self.confirms), Some(0.8));
    }
}

async fn marked(connection: &mut PgConnection) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM outbox_messages WHERE published_at IS NOT NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}
