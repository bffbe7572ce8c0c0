//! The rows G1 (rates with a large backlog) and G2 (with many finished rows, and under an old snapshot), on PostgreSQL.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::PrivateRabbitmq;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::sleep;
use uuid::Uuid;

use super::drive_rabbitmq::Queue;
use super::measure_flows::{CONNECTIONS, await_rows, body, events};
use super::measure_rabbitmq::FIRST_PORT;
use super::print_figures::{Figures, rate};
use super::read_rows::Raw;
use super::send_load;
use crate::run_binary::Running;

const ORDERS: &str = "order_created_queue";
const EVENTS: &str = "notification_events";
const LATE: Duration = Duration::from_secs(120);

/// How much of everything.
pub struct Sizes {
    small: usize,
    large: usize,
    finished: usize,
    measured: usize,
}

impl Sizes {
    /// A tenth of it for a quick run.
    pub fn of(quick: bool) -> Self {
        let part = if quick { 10 } else { 1 };
        Self {
            small: 100_000 / part,
            large: 1_000_000 / part,
            finished: 10_000_000 / part,
            measured: 50_000 / part,
        }
    }
}

/// A database and a broker with nothing in them but one order on its way.
struct Place<'a> {
    binary: &'a Path,
    folder: &'a Path,
    broker: PrivateRabbitmq,
    database: TestDatabase,
    connection: PgConnection,
    orders: Queue,
}

impl<'a> Place<'a> {
    async fn make(binary: &'a Path, folder: &'a Path) -> Result<Self> {
        let broker = PrivateRabbitmq::launch(FIRST_PORT).await?;
        let database = TestDatabase::postgres().await?;
        let url = broker.url();
        let all = Running::start_over(binary, &["serve", "--migrate"], database.url(), Some(&url), folder).await?;
        let id = Uuid::now_v7();
        let order = format!(
            r#"{{"orderId":"{id}","userId":"user-456","totalAmount":"99.99","idempotencyKey":"{id}","items":[]}}"#
        );
        send_load::post(all.port, "/api/v1/orders", &[order], 1).await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let start = Instant::now();
        let stored = "SELECT COUNT(*) FROM orders";
        while sqlx::query_scalar::<_, i64>(stored).fetch_one(&mut connection).await? == 0 {
            ensure!(start.elapsed() < LATE, "void: the first order is not stored");
            sleep(Duration::from_millis(10)).await;
        }
        all.stop().await?;
        Ok(Self {
            binary,
            folder,
            orders: Queue::open(&url, ORDERS).await?,
            broker,
            database,
            connection,
        })
    }

    async fn start(&self, arguments: &[&str], broker: Option<&str>) -> Result<Running> {
        Running::start_over(self.binary, arguments, self.database.url(), broker, self.folder).await
    }

    /// Copies the order's message into the outbox until `count` are pending.
    async fn fill_outbox(&mut self, count: usize) -> Result<()> {
        let sql = "INSERT INTO outbox_messages (event_id, service, topic, event_type, aggregate_type, aggregate_id, \
                partition_no, message_key, headers, body, correlation_id) \
            SELECT gen_random_uuid(), service, topic, event_type, aggregate_type, aggregate_id, \
                n % 16, message_key || n, headers, body, correlation_id \
            FROM generate_series(1, $2::bigint - (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending')) AS n, \
                (SELECT * FROM outbox_messages WHERE topic = $1 AND status = 'published' LIMIT 1) AS model";
        sqlx::query(sql)
            .bind(ORDERS)
            .bind(count as i64)
            .execute(&mut self.connection)
            .await?;
        self.connection.execute("ANALYZE outbox_messages").await?;
        Ok(())
    }

    /// Orders per second that a relay publishes of what is pending, its start included, until `count` are there.
    async fn relay(&mut self, count: usize) -> Result<f64> {
        self.orders.purge().await?;
        let from = Instant::now();
        let url = self.broker.url();
        let relay = self.start(&["serve", "orders", "--role", "relay"], Some(&url)).await?;
        while self.orders.depth().await? < count {
            ensure!(from.elapsed() < LATE, "void: the relay is late");
            sleep(Duration::from_millis(10)).await;
        }
        let rate = count as f64 / from.elapsed().as_secs_f64();
        relay.stop().await?;
        Ok(rate)
    }

    /// Events per second that a worker records of a backlog of `count` in the database's own queue.
    async fn drain(&self, count: usize) -> Result<f64> {
        let bodies = events(count, &mut std::collections::BTreeSet::new());
        let mut raw = Raw::open(self.database.url()).await?;
        let before = usize::try_from(raw.recorded().await?)?;
        let api = self.start(&["serve", "notifications", "--role", "api"], None).await?;
        send_load::post(api.port, "/api/events", &bodies, CONNECTIONS).await?;
        api.stop().await?;
        let from = Instant::now();
        let worker = self
            .start(&["serve", "notifications", "--role", "worker"], None)
            .await?;
        await_rows(&mut raw, before + count, from).await?;
        let rate = count as f64 / from.elapsed().as_secs_f64();
        worker.stop().await?;
        Ok(rate)
    }

    /// Events per second that a worker records of those in RabbitMQ, until `count` are recorded; all others go.
    async fn consume(&self, queue: &Queue, backlog: usize, count: usize) -> Result<f64> {
        queue.fill((0..backlog).map(|_| body(Uuid::now_v7()))).await?;
        let mut raw = Raw::open(self.database.url()).await?;
        let before = usize::try_from(raw.recorded().await?)?;
        let url = self.broker.url();
        let from = Instant::now();
        let worker = self
            .start(&["serve", "notifications", "--role", "worker"], Some(&url))
            .await?;
        await_rows(&mut raw, before + count, from).await?;
        let rate = count as f64 / from.elapsed().as_secs_f64();
        worker.stop().await?;
        queue.purge().await?;
        Ok(rate)
    }

    async fn finish(self) -> Result<()> {
        self.connection.close().await?;
        self.database.finish().await
    }
}

/// Measures and prints G1.
pub async fn backlog(binary: &Path, folder: &Path, sizes: &Sizes) -> Result<()> {
    let mut place = Place::make(binary, folder).await?;
    let (small, large) = (sizes.small, sizes.large);
    place.fill_outbox(small).await?;
    let few = place.relay(sizes.measured).await?;
    place.fill_outbox(large).await?;
    let many = place.relay(sizes.measured).await?;
    place.orders.purge().await?;
    let row = |what| format!("G1 {what} with a backlog of {large} beside {small}");
    let one = |value| Figures::of(vec![value]);
    rate(&row("R1 published/s"), &one(many), &one(few), Some(0.8));

    let queue = Queue::open(&place.broker.url(), EVENTS).await?;
    let few = place.consume(&queue, small, sizes.measured).await?;
    let many = place.consume(&queue, large, sizes.measured).await?;
    rate(
        &row("C1 recorded/s, RabbitMQ classic, PostgreSQL,"),
        &one(many),
        &one(few),
        Some(0.8),
    );
    place.finish().await
}

/// Measures and prints G2.
pub async fn finished(binary: &Path, folder: &Path, sizes: &Sizes) -> Result<()> {
    let mut place = Place::make(binary, folder).await?;
    let (count, finished) = (sizes.measured, sizes.finished);
    place.fill_outbox(count).await?;
    let empty = place.relay(count).await?;
    let drained = place.drain(count).await?;

    let mut old = PgConnection::connect(place.database.url()).await?;
    // With a number of its own: nobody can know what it may still commit.
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    old.execute("CREATE TABLE held_open (n INTEGER)").await?;
    place.fill_outbox(count).await?;
    let held = place.relay(count).await?;
    let held_drained = place.drain(count).await?;
    old.execute("ROLLBACK").await?;
    old.close().await?;

    for sql in [
        "INSERT INTO outbox_messages (event_id, service, topic, event_type, partition_no, message_key, headers, body, \
            status, published_at) \
        SELECT gen_random_uuid(), service, topic, event_type, n % 16, message_key || n, headers, body, \
            'published', clock_timestamp() \
        FROM generate_series(1, $1) AS n, (SELECT * FROM outbox_messages WHERE status = 'published' LIMIT 1) AS model",
        // Ids that grow, as those of messages do.
        "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, processed_at) \
        SELECT subscription, ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, event_type, 'processed', \
            clock_timestamp(), clock_timestamp() \
        FROM generate_series(1, $1) AS n, (SELECT * FROM inbox_messages WHERE status = 'processed' LIMIT 1) AS model",
    ] {
        let filled = sqlx::query(AssertSqlSafe(sql)).bind(finished as i64);
        let filled = filled.execute(&mut place.connection).await?;
        ensure!(filled.rows_affected() == finished as u64, "void: nothing to copy");
    }
    place.fill_outbox(count).await?;
    place.connection.execute("ANALYZE inbox_messages").await?;
    let full = place.relay(count).await.context("with finished rows")?;

    let one = |value| Figures::of(vec![value]);
    let row = format!("G2 R1 published/s with {finished} finished rows in outbox and inbox beside none");
    rate(&row, &one(full), &one(empty), Some(0.9));
    let row = "G2 R1 published/s while another transaction is held open beside none";
    rate(row, &one(held), &one(empty), Some(0.7));
    let row = "G2 C3 backlog to rows/s, PostgreSQL, while another transaction is held open beside none";
    rate(row, &one(held_drained), &one(drained), Some(0.7));
    place.finish().await
}
