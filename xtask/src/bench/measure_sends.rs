//! The row A3: `POST /api/v1/messages/send`, which commits to the outbox, beside commits of one such row each.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::TestDatabase;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::measure_flows::{CONNECTIONS, await_count};
use super::print_figures::{Figures, rate};
use super::{check_ids, send_load};
use crate::run_binary::Running;

/// Where messages are sent.
pub const PATH: &str = "/api/v1/messages/send";

/// Answers and commits per second.
#[derive(Default)]
pub struct Sends {
    alone: Vec<f64>,
    whole: Vec<f64>,
    commits: Vec<f64>,
}

impl Sends {
    /// `requests` to the role `api`, as many commits beside it, then as many requests to the whole process.
    pub async fn repeat(&mut self, binary: &Path, folder: &Path, requests: usize) -> Result<()> {
        let database = TestDatabase::postgres().await?;
        let url = database.url();
        let first = Running::start(binary, &["serve", "--migrate"], url, folder).await?;
        first.stop().await?;
        let mut connection = PgConnection::connect(url).await?;
        let mut accepted = BTreeSet::new();

        let bodies = messages(requests, &mut accepted);
        let api = Running::start(binary, &["serve", "--role", "api"], url, folder).await?;
        self.alone
            .push(send_load::post(api.port, PATH, &bodies, CONNECTIONS).await?);
        api.stop().await?;
        self.commits.push(commit_rows(url, requests).await?);

        let bodies = messages(requests, &mut accepted);
        let server = Running::start(binary, &["serve"], url, folder).await?;
        await_stored(&mut connection, requests).await?;
        self.whole
            .push(send_load::post(server.port, PATH, &bodies, CONNECTIONS).await?);
        await_stored(&mut connection, accepted.len()).await?;
        server.stop().await?;
        check_stored(&mut connection, &accepted).await?;
        connection.close().await?;
        database.finish().await
    }

    /// Prints both rows.
    pub fn print(self) {
        let commits = Figures::of(self.commits);
        for (which, ours) in [("role api", self.alone), ("whole process", self.whole)] {
            let row = format!("A3 sent/s beside commits of one row, {which}, PostgreSQL");
            rate(&row, &Figures::of(ours), &commits, Some(0.9));
        }
    }
}

/// Messages of a hundred senders; each one's text is an id of ours.
pub fn messages(count: usize, accepted: &mut BTreeSet<Uuid>) -> Vec<String> {
    let made = (0..count).map(|number| {
        let id = Uuid::now_v7();
        accepted.insert(id);
        format!(r#"{{"content":"{id}","sender":"sender-{}"}}"#, number % 100)
    });
    made.collect()
}

/// Compares the texts of the stored messages with the ids that were `accepted`.
pub async fn check_stored(connection: &mut PgConnection, accepted: &BTreeSet<Uuid>) -> Result<()> {
    let stored: Vec<String> = sqlx::query_scalar("SELECT content FROM messages")
        .fetch_all(connection)
        .await?;
    let stored = stored.iter().map(|content| Uuid::parse_str(content));
    check_ids::check(accepted, &stored.collect::<Result<Vec<_>, _>>()?)
}

/// Waits until `expected` messages are stored.
pub async fn await_stored(connection: &mut PgConnection, expected: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let stored = sqlx::query_scalar("SELECT COUNT(*) FROM messages").fetch_one(&mut *connection);
        if await_count(stored.await?, expected, start).await? {
            return Ok(());
        }
    }
}

/// Commits of one row of an outbox that holds one, in as many connections as the requests come over; per second.
async fn commit_rows(url: &str, count: usize) -> Result<f64> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(PgConnection::connect(url).await?);
    }
    let first = connections.first_mut().context("no connection")?;
    first
        .execute("DROP TABLE IF EXISTS raw_outbox; CREATE TABLE raw_outbox (LIKE outbox_messages INCLUDING ALL)")
        .await?;
    let model: Model = sqlx::query_as(
        "SELECT service, topic, event_type, partition_no, message_key, headers, body, correlation_id
         FROM outbox_messages LIMIT 1",
    )
    .fetch_one(first)
    .await?;
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let share = count / CONNECTIONS + usize::from(number < count % CONNECTIONS);
        writers.spawn(insert_each(connection, model.clone(), share));
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer panicked")??;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let mut connection = PgConnection::connect(url).await?;
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM raw_outbox")
        .fetch_one(&mut connection)
        .await?;
    ensure!(rows == count as i64, "void: {rows} of {count} rows are in the table");
    Ok(rate)
}

/// What the product wrote, to be written again: service, topic, type, partition, key, headers, body, correlation.
type Model = (
    String,
    String,
    String,
    i32,
    Option<String>,
    String,
    Vec<u8>,
    Option<String>,
);

async fn insert_each(mut connection: PgConnection, model: Model, count: usize) -> Result<()> {
    let (service, topic, event_type, partition, key, headers, body, correlation) = &model;
    for _ in 0..count {
        sqlx::query(
            "INSERT INTO raw_outbox (event_id, service, topic, event_type, partition_no, message_key, headers, body,
             correlation_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(Uuid::now_v7())
        .bind(service)
        .bind(topic)
        .bind(event_type)
        .bind(partition)
        .bind(key)
        .bind(headers)
        .bind(body)
        .bind(correlation)
        .execute(&mut connection)
        .await?;
    }
    connection.close().await?;
    Ok(())
}
