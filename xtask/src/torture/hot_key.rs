//! One sender sends more than can be handled row by row, and the worker is killed in the middle of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use contracts::{MessageSent, SentMessage};
use posthaste::message::now;
use posthaste::{Message, MessageId, outbox};
use posthaste_testkit::wait_until;

use super::figure::Figure;
use super::place::Place;

const TRANSPORT: &str = "sql:";
/// Between two transactions that append.
const PAUSE: Duration = Duration::from_millis(50);
/// Before the kill, and after it.
const BEFORE: Duration = Duration::from_secs(8);
const AFTER: Duration = Duration::from_secs(40);
/// After the restart the rate is back within this.
const BACK: f64 = 30.0;
/// A rate is that of this long.
const WINDOW: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);
const CALIBRATION: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(180);

const STORED: &str = "SELECT COUNT(*) AS n FROM messages";

/// Measures the return of the rate, and checks that nothing is lost, doubled or out of order.
///
/// # Errors
/// When that check fails or the machine is too busy to send so much.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let single = single_rows(place).await.context("the rate row by row")?;
    let rate = (2.0 * single).ceil();
    let relay = place.serve(&["messages", "--role", "relay"], None).await?;
    let worker = place.serve(&["messages", "--role", "worker"], None).await?;
    let (sent, watched) = tokio::join!(append(place, rate), async {
        tokio::time::sleep(BEFORE).await;
        let before = place.number(STORED).await?;
        ensure!(before > 0, "void: nothing was stored before the kill");
        worker.kill().await?;
        let killed = Instant::now();
        let worker = place.serve(&["messages", "--role", "worker"], None).await?;
        let back = wait_for_rate(place, killed, 0.95 * rate).await?;
        anyhow::Ok((worker, killed, back))
    });
    let sent = sent?;
    let (worker, killed, back) = watched?;
    wait_until("all messages to be stored", LIMIT, || async {
        (place.number(STORED).await.ok()? == sent as i64).then_some(())
    })
    .await?;
    let caught_up = killed.elapsed().as_secs_f64();
    check_order(place, sent).await?;
    worker.stop().await?;
    relay.stop().await?;
    Ok(vec![
        Figure::seen(TRANSPORT, "rows handled one by one", single, "rows/s"),
        Figure::seen(TRANSPORT, "messages of the one key", rate, "messages/s"),
        Figure::below(
            TRANSPORT,
            "from the kill until rows are stored as fast as they arrive",
            back,
            BACK,
            "s",
        ),
        Figure::seen(TRANSPORT, "from the kill until all is stored", caught_up, "s"),
    ])
}

/// How many rows per second can be handled one by one: a commit for the attempt and one for the effect.
async fn single_rows(place: &Place) -> Result<f64> {
    let store = place.store();
    store
        .execute("CREATE TABLE torture_rows (n INTEGER NOT NULL)", Vec::new())
        .await?;
    let start = Instant::now();
    let mut rows = 0;
    while start.elapsed() < CALIBRATION {
        for _ in 0..2 {
            let tx = store.begin().await?;
            tx.execute("INSERT INTO torture_rows (n) VALUES (1)", Vec::new())
                .await?;
            tx.commit().await?;
        }
        rows += 1;
    }
    Ok(f64::from(rows) / start.elapsed().as_secs_f64())
}

/// Appends messages of one sender to the outbox, `rate` of them per second, in many small transactions; how many.
async fn append(place: &Place, rate: f64) -> Result<usize> {
    let (start, span) = (Instant::now(), BEFORE + AFTER);
    let all = (rate * span.as_secs_f64()) as usize;
    let mut sent = 0;
    while sent < all {
        tokio::time::sleep(PAUSE).await;
        let due = ((rate * start.elapsed().as_secs_f64()) as usize).min(all);
        let messages = (sent..due).map(|number| Ok((message(number)?, None)));
        let messages = messages.collect::<Result<Vec<_>>>()?;
        let mut tx = place.store().begin().await?;
        outbox::append_all(&mut tx, "messages", messages).await?;
        tx.commit().await?;
        sent = due;
    }
    let late = start.elapsed().saturating_sub(span);
    ensure!(late < span / 20, "void: the last message was {late:?} late");
    Ok(sent)
}

fn message(number: usize) -> Result<Message> {
    let id = MessageId::new();
    let sent = SentMessage {
        message_id: id.0,
        content: number.to_string(),
        sender: "hot".to_owned(),
        timestamp: now(),
        metadata: None,
    };
    let mut message = Message::of(&MessageSent::new(id, sent, None, "messages"))?;
    message.id = id;
    Ok(message)
}

/// Seconds from `killed` until rows are stored at `rate`, or the limit when they are not.
async fn wait_for_rate(place: &Place, killed: Instant, rate: f64) -> Result<f64> {
    let mut looks = VecDeque::from([(Instant::now(), place.number(STORED).await?)]);
    while killed.elapsed() < AFTER {
        tokio::time::sleep(LOOK).await;
        let (now, stored) = (Instant::now(), place.number(STORED).await?);
        looks.push_back((now, stored));
        while looks.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            looks.pop_front();
        }
        let Some((at, before)) = looks.front().copied().filter(|(at, _)| now - *at >= WINDOW) else {
            continue;
        };
        if (stored - before) as f64 / (now - at).as_secs_f64() >= rate {
            return Ok((now - killed).as_secs_f64());
        }
    }
    Ok(AFTER.as_secs_f64())
}

/// Each message is stored once, and all in their order.
async fn check_order(place: &Place, sent: usize) -> Result<()> {
    // Ids of rows grow with time; those of one batch in its order.
    let rows = place
        .store()
        .query("SELECT content FROM messages ORDER BY id", Vec::new())
        .await?;
    ensure!(rows.len() == sent, "{} rows of {sent} messages", rows.len());
    for (expected, row) in rows.iter().enumerate() {
        let number: usize = row.get::<String>("content")?.parse()?;
        ensure!(number == expected, "message {number} came in the place of {expected}");
    }
    Ok(())
}
