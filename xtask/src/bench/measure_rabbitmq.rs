//! The rows A1 (accept over RabbitMQ) and C1 (its backlog to rows), each beside what a bare client reaches on the same server.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;

use super::drive_python::Python;
use super::measure_flows::{CONNECTIONS, await_rows, events};
use super::print_figures::{Figures, rate};
use super::read_rows::Raw;
use super::{check_ids, drive_rabbitmq, send_load};
use crate::run_binary::Running;

/// Where its ports begin.
pub const FIRST_PORT: u16 = 26_900;

/// Per second, on one kind of queue.
#[derive(Default)]
pub struct Flows {
    echo: Vec<f64>,
    confirms: Vec<f64>,
    accept: Vec<f64>,
    consume: Vec<f64>,
    insert: Vec<f64>,
    drain: Vec<f64>,
    python_accept: Vec<f64>,
    python_rows: Vec<f64>,
    python_batches: Vec<f64>,
}

/// Rows per commit of the batched Python consumer.
const BATCH: usize = 100;

impl Flows {
    /// `requests` to the role `api`, then the same events as a backlog to the role `worker`; on a server of its own.
    /// The Python way gets the number that stands beside it.
    pub async fn repeat(
        &mut self,
        binary: &Path,
        folder: &Path,
        kind: &str,
        requests: usize,
        python: Option<(&Python, usize)>,
    ) -> Result<()> {
        let mut accepted = BTreeSet::new();
        let bodies = events(requests, &mut accepted);
        let echo = Running::start(&std::env::current_exe()?, &["bench", "--echo", "PORT"], "", folder).await?;
        self.echo
            .push(send_load::post(echo.port, "/api/events", &bodies, CONNECTIONS).await?);
        drop(echo);

        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let plain = broker.url();
        let url = format!("{plain}?queue_type={kind}");
        let start = async |arguments| Running::start_over(binary, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut raw = Raw::open(database.url()).await?;

        let (confirms, consume) = drive_rabbitmq::drive(&plain, kind, &bodies).await?;
        self.confirms.push(confirms);
        self.consume.push(consume);
        self.insert.push(raw.insert(requests).await?);
        if let Some((python, count)) = python {
            let bodies: Vec<String> = bodies.iter().take(count).cloned().collect();
            self.python_accept.push(python.accept(&plain, &bodies, folder).await?);
            self.python_rows
                .push(python.record(&plain, database.url(), count, 1).await?);
            python.relay(&plain, database.url(), &bodies).await?;
            self.python_batches
                .push(python.record(&plain, database.url(), count, BATCH).await?);
        }

        let api = start(&["serve", "--role", "api"]).await?;
        self.accept
            .push(send_load::post(api.port, "/api/events", &bodies, CONNECTIONS).await?);
        api.stop().await?;
        ensure!(raw.recorded().await? == 0, "void: the backlog was not left alone");
        // The worker's start-up counts against it: it reads as soon as it can.
        let from = Instant::now();
        let worker = start(&["serve", "--role", "worker"]).await?;
        await_rows(&mut raw, requests, from).await?;
        self.drain.push(requests as f64 / from.elapsed().as_secs_f64());
        worker.stop().await?;
        check_ids::check(&accepted, &raw.recorded_ids().await?)?;
        drop(raw);
        database.finish().await
    }

    /// Prints the rows that are wanted.
    pub fn print(self, kind: &str, wanted: impl Fn(&str) -> bool) {
        if wanted("A1") {
            let (accept, echo) = (Figures::of(self.accept), Figures::of(self.echo));
            let confirms = Figures::of(self.confirms);
            let row = |beside| format!("A1 accepted/s beside {beside}, RabbitMQ {kind}");
            rate(&row("echo"), &accept, &echo, None);
            rate(&row("pipelined confirms"), &accept, &confirms, Some(0.7));
            if !self.python_accept.is_empty() {
                let python = Figures::of(self.python_accept);
                rate(&row("FastAPI and pika"), &accept, &python, Some(15.0));
            }
        }
        if wanted("C1") {
            let (drain, consume) = (Figures::of(self.drain), Figures::of(self.consume));
            let insert = Figures::of(self.insert);
            let row = |beside| format!("C1 backlog to rows/s beside {beside}, RabbitMQ {kind}, PostgreSQL");
            // The lower of the two is the limit.
            let target = |limit: &Figures, other: &Figures| (limit.median() <= other.median()).then_some(0.75);
            rate(&row("consume and ack"), &drain, &consume, target(&consume, &insert));
            rate(&row("multi-row insert"), &drain, &insert, target(&insert, &consume));
            if !self.python_rows.is_empty() {
                let rows = Figures::of(self.python_rows);
                rate(&row("pika and psycopg2 row by row"), &drain, &rows, Some(18.0));
                let batches = Figures::of(self.python_batches);
                rate(&row("pika and psycopg2, 100 rows a commit"), &drain, &batches, None);
            }
        }
    }
}
