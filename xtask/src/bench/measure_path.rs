//! The row R2: an outbox backlog of an ordered topic to its rows over RabbitMQ, beside each of its halves alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{Connection, PgConnection};

use super::measure_flows::CONNECTIONS;
use super::measure_rabbitmq::FIRST_PORT;
use super::measure_relay::await_marked;
use super::measure_sends::{PATH, await_stored, check_stored, messages};
use super::print_figures::{Figures, rate};
use super::send_load;
use crate::run_binary::Running;

/// Per second, on classic queues.
#[derive(Default)]
pub struct Whole {
    relay: Vec<f64>,
    drain: Vec<f64>,
    whole: Vec<f64>,
}

impl Whole {
    /// Two backlogs of `requests`, each left by the role `api`: one for a relay, then a worker; one for both at once.
    pub async fn repeat(&mut self, binary: &Path, folder: &Path, requests: usize) -> Result<()> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let url = format!("{}?queue_type=classic", broker.url());
        let start = async |arguments| Running::start_over(binary, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let mut accepted = BTreeSet::new();
        let leave = async |accepted: &mut BTreeSet<_>| {
            let bodies = messages(requests, accepted);
            let api = start(&["serve", "messages", "--role", "api"]).await?;
            send_load::post(api.port, PATH, &bodies, CONNECTIONS).await?;
            api.stop().await
        };
        let per_second = |from: Instant| requests as f64 / from.elapsed().as_secs_f64();

        // The start-up of what works a backlog off counts against it.
        leave(&mut accepted).await?;
        let from = Instant::now();
        let relay = start(&["serve", "messages", "--role", "relay"]).await?;
        await_marked(&mut connection, requests).await?;
        self.relay.push(per_second(from));
        relay.stop().await?;
        let from = Instant::now();
        let worker = start(&["serve", "messages", "--role", "worker"]).await?;
        await_stored(&mut connection, requests).await?;
        self.drain.push(per_second(from));
        worker.stop().await?;

        leave(&mut accepted).await?;
        let from = Instant::now();
        let both = start(&["serve", "messages", "--role", "relay,worker"]).await?;
        await_stored(&mut connection, 2 * requests).await?;
        self.whole.push(per_second(from));
        both.stop().await?;
        check_stored(&mut connection, &accepted).await?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints the row.
    pub fn print(self) {
        let (relay, drain) = (Figures::of(self.relay), Figures::of(self.drain));
        let (slower, half) = if relay.median() <= drain.median() {
            (relay, "relay")
        } else {
            (drain, "worker")
        };
        let row = format!(
            "R2 outbox backlog to rows/s beside its {half} alone, 100 ordered keys, RabbitMQ classic, PostgreSQL"
        );
        rate(&row, &Figures::of(self.whole), &slower, Some(0.8));
    }
}
