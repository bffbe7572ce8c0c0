//! What counts as the same message, and what becomes of another one with its identity.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::Message;
use posthaste::dead_letter::{self, Selection};

use super::suite::{Act, At, LIMIT, Suite, Work, work};
use crate::wait_until;

/// `work` as a message with the identity of `first`.
fn under(suite: &Suite, first: &Message, work: &Work) -> Result<Message> {
    let mut message = Message::of(work)?;
    message.topic.clone_from(&suite.topic);
    message.source.clone_from(&first.source);
    message.id = first.id;
    Ok(message)
}

async fn bodies_of_dead(suite: &Suite) -> Result<Vec<Vec<u8>>> {
    let letters = dead_letter::list(&suite.store, &Selection::default(), 100).await?;
    let mut bodies: Vec<Vec<u8>> = letters.into_iter().map(|letter| letter.message.body).collect();
    bodies.sort_unstable();
    Ok(bodies)
}

/// Publishes `message` and then one that is only there to be waited for.
async fn publish_and_wait(suite: &Suite, messages: Vec<Message>, n: i64) -> Result<()> {
    suite.publish_until_confirmed(messages).await?;
    // On a transport with several queues it may be faster: each key has been used up to here.
    for key in ["corrected", "refused"] {
        let last = work(&format!("after {key}"), n, Act::Succeed);
        let mut last = suite.message(&last)?;
        last.key = Some(key.to_owned());
        suite.publish(vec![last]).await?;
    }
    suite.quiet().await
}

/// The correction of a dead letter is handled, whether its handler or its contract refused it; the dead letter stays. What
/// comes after a message that was handled is left out, whatever its bytes.
///
/// # Errors
/// When one is lost, or has a second effect.
pub async fn other_bytes_are_no_repeat(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let engine = suite.start(true);
    let rejected = suite.message(&work("corrected", 0, Act::Reject))?;
    let corrected = under(&suite, &rejected, &work("corrected", 1, Act::Succeed))?;
    let late = under(&suite, &rejected, &work("corrected", 2, Act::Succeed))?;
    let mut broken = suite.message(&work("refused", 0, Act::Succeed))?;
    broken.body = br#"{"key":"refused","n":"none","act":"Succeed"}"#.to_vec();
    let mut still_broken = broken.clone();
    still_broken.body = br#"{"key":"refused","n":null,"act":"Succeed"}"#.to_vec();
    let mended = under(&suite, &broken, &work("refused", 1, Act::Succeed))?;
    publish_and_wait(&suite, vec![rejected.clone(), broken.clone()], 1).await?;
    publish_and_wait(&suite, vec![corrected.clone(), still_broken.clone()], 2).await?;
    publish_and_wait(&suite, vec![mended.clone()], 3).await?;
    // All of them once more, and one that differs again: nothing of it is new.
    let again = vec![
        rejected.clone(),
        broken.clone(),
        late,
        corrected,
        still_broken.clone(),
        mended,
    ];
    publish_and_wait(&suite, again, 4).await?;
    engine.stop(LIMIT).await;
    for key in ["corrected", "refused"] {
        let effects = suite.effects(key).await?;
        ensure!(effects == [1], "{key}: {effects:?}");
    }
    let mut expected = vec![rejected.body, broken.body, still_broken.body];
    expected.sort_unstable();
    let dead = bodies_of_dead(&suite).await?;
    ensure!(
        dead == expected,
        "{:?}",
        dead.iter()
            .map(|body| String::from_utf8_lossy(body))
            .collect::<Vec<_>>()
    );
    Ok(())
}

/// Another message with the identity of one that is being retried waits among the dead letters; a repeat of that one does
/// not.
///
/// # Errors
/// When it is lost or handled.
pub async fn a_retried_message_keeps_its_identity(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let mut subscription = suite.subscription(false);
    subscription.retry.first_delay = Duration::from_secs(3600);
    subscription.retry.max_delay = Duration::from_secs(3600);
    subscription.retry.immediate = 0;
    let copies = format!("{}.dead", suite.topic);
    subscription.dead_letter_queue = Some(copies.clone());
    let told = format!("{}.told", suite.topic);
    let telling = told.clone();
    subscription.on_dead = Some(Arc::new(move |letter, _error| {
        let mut message = letter.clone();
        message.topic.clone_from(&telling);
        Ok(vec![message])
    }));
    let engine = suite.start_with(subscription);
    let failing = suite.message(&work("a", 0, Act::AlwaysFail))?;
    let other = under(&suite, &failing, &work("a", 1, Act::Succeed))?;
    let publish = async |messages: Vec<Message>| suite.publish_until_confirmed(messages).await;
    publish(vec![failing.clone()]).await?;
    let sql = "SELECT COUNT(*) AS n FROM inbox_messages WHERE first_failed_at IS NOT NULL AND status <> 'dead'";
    wait_until("a failed attempt", LIMIT, || async {
        let failed: i64 = suite.store.query(sql, vec![]).await.ok()?[0].get("n").ok()?;
        (failed == 1).then_some(())
    })
    .await?;
    publish(vec![failing, other.clone(), other.clone()]).await?;
    publish(vec![suite.message(&work("b", 1, Act::Succeed))?]).await?;
    wait_until("a dead letter and a later effect", LIMIT, || async {
        let dead = bodies_of_dead(&suite).await.ok()?.len();
        (dead > 0 && suite.effects("b").await.ok()? == [1]).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    ensure!(suite.effects("a").await?.is_empty(), "{:?}", suite.effects("a").await?);
    let dead = bodies_of_dead(&suite).await?;
    ensure!(dead == [other.body], "{} dead letters", dead.len());
    for topic in [copies, told] {
        let sql = "SELECT COUNT(*) AS n FROM outbox_messages WHERE topic = $1";
        let rows = suite.store.query(sql, vec![topic.as_str().into()]).await?;
        let count: i64 = rows[0].get("n")?;
        ensure!(count == 1, "{count} messages for {topic}");
    }
    Ok(())
}

/// A dead letter that was discarded keeps no correction out, and comes to life by no repeat of itself.
///
/// # Errors
/// When the correction is lost, or the discarded one is handled.
pub async fn a_discarded_message_may_be_corrected(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let engine = suite.start(true);
    let rejected = suite.message(&work("corrected", 0, Act::Reject))?;
    publish_and_wait(&suite, vec![rejected.clone()], 1).await?;
    ensure!(dead_letter::discard(&suite.store, &Selection::default()).await? == 1);
    let corrected = under(&suite, &rejected, &work("corrected", 1, Act::Succeed))?;
    publish_and_wait(&suite, vec![rejected.clone(), corrected], 2).await?;
    publish_and_wait(&suite, vec![rejected], 3).await?;
    engine.stop(LIMIT).await;
    let effects = suite.effects("corrected").await?;
    ensure!(effects == [1], "{effects:?}");
    ensure!(bodies_of_dead(&suite).await?.is_empty());
    Ok(())
}

/// A row with a `message_id` and nothing else is known by that and its bytes; a row with headers is one of ours.
///
/// # Errors
/// When one is lost or has two effects.
pub async fn rows_written_by_hand_are_told_apart(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let id = uuid::Uuid::from_u128(1);
    let body = |n: i64| format!(r#"{{"key":"hand","n":{n},"act":"Succeed"}}"#).into_bytes();
    let insert = "INSERT INTO queue_messages (topic, message_id, body) VALUES ($1, $2, $3)";
    for n in [1, 2, 2, 1, 3] {
        let values = vec![
            suite.topic.as_str().into(),
            suite.store.dialect().uuid(id),
            body(n).into(),
        ];
        suite.store.execute(insert, values).await?;
    }
    let engine = suite.start(false);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let mut effects = suite.effects("hand").await?;
    effects.sort_unstable();
    ensure!(effects == [1, 2, 3], "{effects:?}");
    Ok(())
}
