//! What a transport has to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::TimeZone;
use posthaste::{Cx, Event, Handle, Handled, Message, MessageId, Publisher, Subscription};
use tokio::sync::mpsc;

use super::suite::{Act, At, LIMIT, SERVICE, Suite, Work, work};
use crate::wait_until;

/// Hands on what it gets and, if told so, never comes back.
struct Witness {
    seen: mpsc::UnboundedSender<Message>,
    stay: bool,
}

impl Handle<Work> for Witness {
    async fn handle(&self, _work: Work, cx: &mut Cx<'_>) -> Handled {
        // A test that has ended no longer looks.
        drop(self.seen.send(cx.message().clone()));
        if self.stay {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

fn witness(suite: &Suite, stay: bool) -> (Subscription, mpsc::UnboundedReceiver<Message>) {
    let (seen, arrivals) = mpsc::unbounded_channel();
    let mut subscription = Subscription::new::<Work, _>("suite.witness", &suite.topic, Witness { seen, stay });
    subscription.deadline = LIMIT;
    (subscription, arrivals)
}

async fn next(arrivals: &mut mpsc::UnboundedReceiver<Message>) -> Result<Message> {
    let arrived = tokio::time::timeout(LIMIT, arrivals.recv()).await;
    arrived.context("nothing arrived")?.context("the handler is gone")
}

/// Every attribute, header and byte arrives as it was sent; so does a message that has only an id and
/// a body, and a large one.
///
/// # Errors
/// When something differs.
pub async fn attributes_survive(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let mut full = suite.message(&work("ключ/1", 1, Act::Succeed))?;
    full.source = "somewhere".to_owned();
    full.subject = Some("a subject, ünïcode".to_owned());
    full.time = chrono::Utc
        .timestamp_micros(1_700_000_000_123_456)
        .single()
        .context("a time")?;
    full.correlation_id = Some("correlation-1".to_owned());
    full.causation_id = Some(MessageId::new().to_string());
    full.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    full.expires_at = chrono::Utc.timestamp_micros(4_000_000_000_654_321).single();
    full.headers = BTreeMap::from([
        ("x-one".to_owned(), "1".to_owned()),
        ("x-two".to_owned(), "zwei ü".to_owned()),
    ]);
    let mut bare = suite.message(&work("bare", 2, Act::Succeed))?;
    bare.key = None;
    bare.ordered = false;
    let mut large = suite.message(&work(&"k".repeat(900_000), 3, Act::Succeed))?;
    large.key = Some("large".to_owned());
    let mut sent = vec![full, bare, large];
    suite.publish(sent.clone()).await?;
    // Where order is asked for, the key of its body is its own.
    sent[1].key = Some("bare".to_owned());
    let (subscription, mut arrivals) = witness(&suite, false);
    let mut subscription = subscription;
    subscription.ordered = Work::ORDERED;
    // Its time is a fixed one.
    subscription.take_old = true;
    let engine = suite.start_with(subscription);
    let mut received = BTreeMap::new();
    while received.len() < sent.len() {
        let message = next(&mut arrivals).await?;
        received.insert(message.id, message);
    }
    engine.stop(LIMIT).await;
    for message in &sent {
        let arrived = received.get(&message.id).context("its id has changed")?;
        ensure!(
            without_body(arrived) == without_body(message) && arrived.body == message.body,
            "sent {:?}, got {:?}",
            without_body(message),
            without_body(arrived)
        );
    }
    Ok(())
}

/// The order flag tells a publisher which queue to use; it need not travel.
fn without_body(message: &Message) -> Message {
    Message {
        body: Vec::new(),
        ordered: false,
        ..message.clone()
    }
}

/// Many tasks that publish at a time each get a confirmation, and each message has its effect.
///
/// # Errors
/// When one has not.
pub async fn single_publishes_are_confirmed(at: &At) -> Result<()> {
    let suite = Arc::new(Suite::open(at).await?);
    let publisher = Publisher::new(SERVICE, suite.store.clone(), suite.broker.clone());
    // Where the topic has to be made first the first confirmation may be late.
    suite
        .publish(vec![suite.message(&work("first", 0, Act::Succeed))?])
        .await?;
    let engine = suite.start(false);
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..300 {
        let message = suite.message(&work("many", n, Act::Succeed))?;
        let publisher = publisher.clone();
        publishing.spawn(async move { publisher.publish(message).await });
    }
    while let Some(published) = publishing.join_next().await {
        let via = published??;
        ensure!(via == posthaste::publish::Via::Broker, "went to the outbox");
    }
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let mut effects = suite.effects("many").await?;
    effects.sort_unstable();
    ensure!(effects == (0..300).collect::<Vec<_>>(), "{effects:?}");
    Ok(())
}

/// What a reader that vanished in the middle of its work held comes again to the next one.
///
/// # Errors
/// When it is lost or has two effects.
pub async fn unsettled_deliveries_come_again(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let messages: Vec<Message> = (0..40)
        .map(|n| suite.message(&work("kept", n, Act::Succeed)))
        .collect::<Result<_>>()?;
    suite.publish(messages).await?;
    let vanishing = Suite::open(at).await?;
    let (mut subscription, mut arrivals) = witness(&vanishing, true);
    subscription.ordered = true;
    let engine = vanishing.start_with(subscription);
    next(&mut arrivals).await?;
    drop(engine);
    drop(vanishing);
    let engine = suite.start(true);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let effects = suite.effects("kept").await?;
    ensure!(effects == (0..40).collect::<Vec<_>>(), "{effects:?}");
    Ok(())
}

/// A reader that stops in good order in the middle of a load hands over to another: nothing is lost or
/// doubled, and order per key holds.
///
/// # Errors
/// When one of them does not hold.
pub async fn readers_hand_over(at: &At) -> Result<()> {
    let leaving = Suite::open(at).await?;
    let staying = Suite::open(at).await?;
    let first = leaving.start(true);
    let works = |from: i64| -> Vec<Work> {
        (from..from + 300)
            .map(|n| work(&format!("h{}", n % 8), n, Act::Succeed))
            .collect()
    };
    staying.append(&works(0)).await?;
    wait_until("the first effects", LIMIT, || async {
        (!leaving.effects("h0").await.ok()?.is_empty()).then_some(())
    })
    .await?;
    let second = staying.start(true);
    staying.append(&works(300)).await?;
    first.stop(Duration::from_secs(10)).await;
    staying.append(&works(600)).await?;
    staying.quiet().await?;
    second.stop(LIMIT).await;
    for key in 0..8 {
        let effects = staying.effects(&format!("h{key}")).await?;
        let expected: Vec<i64> = (0..900).filter(|n| n % 8 == key).collect();
        ensure!(effects == expected, "h{key}: {effects:?}");
    }
    Ok(())
}
