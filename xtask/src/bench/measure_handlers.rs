//! The row C1b: a RabbitMQ backlog to rows by a handler of one message at a time, `examples/hello`, beside the Python way.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::check_ids;
use super::drive_python::Python;
use super::drive_rabbitmq::Queue;
use super::measure_flows::{await_count, events};
use super::measure_rabbitmq::FIRST_PORT;
use super::print_figures::{Figures, rate};
use crate::run_binary::Running;

const QUEUE: &str = "greetings";

/// Per second, on classic queues.
#[derive(Default)]
pub struct Handled {
    ours: Vec<f64>,
    python: Vec<f64>,
}

impl Handled {
    /// A backlog of `requests` to the role `worker` of `hello`. The Python way gets the number that stands beside it.
    pub async fn repeat(
        &mut self,
        hello: &Path,
        folder: &Path,
        requests: usize,
        (python, count): (&Python, usize),
    ) -> Result<()> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let url = broker.url();
        let start = async |arguments| Running::start_over(hello, arguments, database.url(), Some(&url), folder).await;
        start(&["serve", "--migrate"]).await?.stop().await?;
        let mut connection = PgConnection::connect(database.url()).await?;

        let bodies = events(count, &mut BTreeSet::new());
        let columns = "CREATE TABLE raw_rows (id TEXT PRIMARY KEY, user_id TEXT, event_type TEXT, message TEXT, \
            payload TEXT, status TEXT, created_at TIMESTAMPTZ, processed_at TIMESTAMPTZ)";
        sqlx::query(columns).execute(&mut connection).await?;
        python.relay(&url, database.url(), &bodies).await?;
        self.python.push(python.record(&url, database.url(), count, 1).await?);

        let accepted: BTreeSet<Uuid> = (0..requests).map(|_| Uuid::now_v7()).collect();
        let queue = Queue::open(&url, QUEUE).await?;
        queue.fill(accepted.iter().map(|id| format!("\"{id}\""))).await?;
        // The worker's start-up counts against it: it reads as soon as it can.
        let from = Instant::now();
        let worker = start(&["serve", "--role", "worker"]).await?;
        let greeted = "SELECT COUNT(*) FROM greetings";
        loop {
            let count = sqlx::query_scalar(greeted).fetch_one(&mut connection).await?;
            if await_count(count, requests, from).await? {
                break;
            }
        }
        self.ours.push(requests as f64 / from.elapsed().as_secs_f64());
        worker.stop().await?;
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM greetings")
            .fetch_all(&mut connection)
            .await?;
        let names = names.iter().map(|name| Uuid::parse_str(name));
        check_ids::check(&accepted, &names.collect::<Result<Vec<_>, _>>()?)?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints the row.
    pub fn print(self) {
        let row = "C1b backlog to rows/s, one message a call, beside pika and psycopg2 row by row, RabbitMQ classic, PostgreSQL";
        rate(row, &Figures::of(self.ours), &Figures::of(self.python), Some(4.0));
    }
}
