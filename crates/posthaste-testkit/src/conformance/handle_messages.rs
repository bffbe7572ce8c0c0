//! The engine end to end on a database and a transport.

use std::sync::Arc;

use anyhow::{Result, ensure};
use posthaste::Message;
use posthaste::dead_letter::{self, Selection};
use posthaste::outbox;

use super::suite::{Act, At, LIMIT, SERVICE, Suite, Work, work};
use crate::wait_until;

/// Duplicates, in one batch and later, have one effect.
///
/// # Errors
/// When they have not.
pub async fn duplicates_have_one_effect(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let message = suite.message(&work("a", 1, Act::Succeed))?;
    suite
        .publish(vec![message.clone(), message.clone(), message.clone()])
        .await?;
    let engine = suite.start(false);
    suite.quiet().await?;
    // Its turn comes after the repeat's, and the stop finishes the batch in hand.
    let later = suite.message(&work("a", 2, Act::Succeed))?;
    suite.publish(vec![message, later]).await?;
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    ensure!(
        suite.effects("a").await? == [1, 2],
        "effects {:?}",
        suite.effects("a").await?
    );
    Ok(())
}

/// Whatever a message does to its handler, it ends as its kind has to, the others of its batch are
/// handled, and no failed attempt leaves an effect.
///
/// # Errors
/// When one does not.
pub async fn poison_costs_only_itself(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let acts = [
        Act::AlwaysFail,
        Act::Reject,
        Act::Panic,
        Act::NeverReturn,
        Act::Later,
        Act::FailTwice,
        Act::PanicInRule,
    ];
    let mut works: Vec<Work> = (0..60).map(|n| work("good", n, Act::Succeed)).collect();
    for (n, act) in acts.iter().enumerate() {
        works.insert(10 * n + 5, work(&format!("{act:?}"), 1, *act));
    }
    suite.append(&works).await?;
    let engine = suite.start(false);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    ensure!(
        suite.effects("good").await?.len() == 60,
        "{} good ones handled",
        suite.effects("good").await?.len()
    );
    for (act, effects, cause) in [
        (Act::AlwaysFail, 0, Some((3, "told to fail"))),
        (Act::Reject, 0, Some((1, "not wanted"))),
        (Act::Panic, 0, Some((3, "the handler panicked: told to panic"))),
        (Act::NeverReturn, 0, Some((3, "the handler did not finish within 2s"))),
        (
            Act::PanicInRule,
            0,
            Some((0, "the contract's own code panicked: told to panic in a rule")),
        ),
        (Act::Later, 1, None),
        (Act::FailTwice, 1, None),
    ] {
        let key = format!("{act:?}");
        ensure!(
            suite.effects(&key).await?.len() == effects,
            "{key}: {:?}",
            suite.effects(&key).await?
        );
        let dead = dead_letter::list(&suite.store, &Selection::default(), 100).await?;
        let found = dead.iter().find(|letter| letter.message.key.as_deref() == Some(&key));
        let found = found.map(|letter| (letter.attempts, letter.error.as_str()));
        ensure!(found == cause, "{key}: {found:?}");
    }
    Ok(())
}

/// What is handled outside of a transaction is done once for a message that succeeds, and once for each attempt of one that
/// does not; duplicates are not handed on.
///
/// # Errors
/// When it is not so.
pub async fn acts_outside_are_marked(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let mut works: Vec<Work> = (0..20).map(|n| work("good", n, Act::Succeed)).collect();
    let ends = [
        (Act::FailTwice, 3, None),
        (Act::AlwaysFail, 3, Some("told to fail")),
        (Act::Reject, 1, Some("not wanted")),
        (Act::Panic, 3, Some("the handler panicked: told to panic")),
        (Act::NeverReturn, 3, Some("the handler did not finish within 4s")),
    ];
    works.extend(ends.iter().map(|(act, _, _)| work(&format!("{act:?}"), 1, *act)));
    let messages: Vec<Message> = works.iter().map(|work| suite.message(work)).collect::<Result<_>>()?;
    suite.publish([messages.clone(), messages].concat()).await?;
    let engine = suite.start_outside();
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let mut good = suite.effects("good").await?;
    good.sort_unstable();
    ensure!(good == (0..20).collect::<Vec<i64>>(), "{good:?}");
    let dead = dead_letter::list(&suite.store, &Selection::default(), 100).await?;
    for (act, calls, cause) in ends {
        let key = format!("{act:?}");
        let effects = suite.effects(&key).await?;
        ensure!(effects.len() == calls, "{key}: {effects:?}");
        let found = dead.iter().find(|letter| letter.message.key.as_deref() == Some(&key));
        ensure!(found.map(|letter| letter.error.as_str()) == cause, "{key}: {found:?}");
    }
    Ok(())
}

/// Bytes that are no JSON or not the contract's are dead at the first attempt as they came, with a
/// cause that does not repeat them; a message that has expired is dead with that cause. Attributes of a
/// foreign producer that fit no column cost nothing.
///
/// # Errors
/// When they are not.
pub async fn undecodable_is_dead_as_it_came(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let mut messages = Vec::new();
    for body in [&b"\xff\x00 no json"[..], br#"{"key":"a","n":"secret","act":"Succeed"}"#] {
        let mut message = suite.message(&work("x", 1, Act::Succeed))?;
        message.body = body.to_vec();
        message.event_type = "é".repeat(255);
        messages.push(message);
    }
    let mut late = suite.message(&work("late", 1, Act::Succeed))?;
    late.expires_at = Some(posthaste::message::now() - chrono::Duration::seconds(1));
    late.correlation_id = Some("not acceptable: ä".repeat(12));
    messages.push(late);
    suite.publish(messages).await?;
    let engine = suite.start(true);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let dead = dead_letter::list(&suite.store, &Selection::default(), 100).await?;
    let find = |text: &str| dead.iter().find(|letter| letter.error.contains(text));
    ensure!(dead.len() == 3, "{dead:?}");
    ensure!(
        find("expected value").is_some_and(|letter| letter.message.body == b"\xff\x00 no json" && letter.attempts == 0),
        "{dead:?}"
    );
    ensure!(
        find("invalid type").is_some_and(|letter| !letter.error.contains("secret")),
        "{dead:?}"
    );
    ensure!(find("expired").is_some(), "{dead:?}");
    let late = Selection {
        ids: find("expired").map(|letter| letter.message.id).into_iter().collect(),
        ..Selection::default()
    };
    let engine = suite.start(true);
    ensure!(dead_letter::replay(&suite.store, &late).await? == 1, "not replayed");
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    ensure!(
        suite.effects("late").await? == [1],
        "replayed, it is handled however late"
    );
    Ok(())
}

/// A row that a stranger wrote into the queue table without id, key or headers is handled, or dead as it
/// came (`sql:` only).
///
/// # Errors
/// When it is neither.
pub async fn rows_written_by_hand(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let insert = "INSERT INTO queue_messages (topic, body) VALUES ($1, $2)";
    for body in [&b"\xff\x00 no json"[..], br#"{"key":"hand","n":1,"act":"Succeed"}"#] {
        let values = vec![suite.topic.as_str().into(), body.to_vec().into()];
        suite.store.execute(insert, values).await?;
    }
    let engine = suite.start(false);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let dead = dead_letter::list(&suite.store, &Selection::default(), 100).await?;
    ensure!(
        dead.len() == 1 && dead[0].message.body == b"\xff\x00 no json",
        "{dead:?}"
    );
    ensure!(
        suite.effects("hand").await? == [1],
        "{:?}",
        suite.effects("hand").await?
    );
    Ok(())
}

/// A failed message of an ordered subscription holds back its key, in order, and no other.
///
/// # Errors
/// When order is lost or another key waits.
pub async fn order_per_key_through_retries(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let mut works = Vec::new();
    for n in 0..30 {
        works.push(work("slow", n, if n % 7 == 3 { Act::FailTwice } else { Act::Succeed }));
        works.push(work("free", n, Act::Succeed));
    }
    suite.append(&works).await?;
    let engine = suite.start(true);
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let expected: Vec<i64> = (0..30).collect();
    for key in ["slow", "free"] {
        ensure!(
            suite.effects(key).await? == expected,
            "{key}: {:?}",
            suite.effects(key).await?
        );
    }
    Ok(())
}

/// Hundreds of messages behind one that fails, of a key too long for an index, are handled in order soon
/// after it; another key does not wait for them. A failed one keeps its place though it is tried last.
///
/// # Errors
/// When order is lost, or it takes too long.
pub async fn a_long_queue_behind_one_key_drains(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    // Of no repeats, so that it cannot be compressed either.
    let mut state = 1u64;
    let long: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 40) as u8 % 26)
    })
    .take(9_000)
    .collect();
    let mut first = suite.message(&work("hot", 0, Act::FailTwice))?;
    first.key = Some(long.clone());
    let engine = suite.start(true);
    suite.publish(vec![first]).await?;
    let mut behind = Vec::new();
    for n in 1..400 {
        let mut message = suite.message(&work(
            "hot",
            n,
            if n % 150 == 7 { Act::FailTwice } else { Act::Succeed },
        ))?;
        message.key = Some(long.clone());
        behind.push(message);
    }
    // A transport may send messages of one key one by one.
    for some in behind.chunks(50) {
        suite.publish(some.to_vec()).await?;
    }
    suite.append(&[work("other", 1, Act::FailTwice)]).await?;
    suite.quiet().await?;
    engine.stop(LIMIT).await;
    let effects = suite.effects("hot").await?;
    ensure!(effects == (0..400).collect::<Vec<_>>(), "{effects:?}");
    ensure!(suite.effects("other").await? == [1], "the other key");
    Ok(())
}

/// A dead letter can be replayed under its id, replayed edited under a new one, and discarded.
///
/// # Errors
/// When it cannot.
pub async fn dead_letters_replay_and_discard(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let sent = suite.append(&[work("x", 1, Act::AlwaysFail)]).await?;
    let engine = suite.start(false);
    suite.quiet().await?;
    let all = Selection::default();
    ensure!(dead_letter::replay(&suite.store, &all).await? == 1, "nothing replayed");
    suite.quiet().await?;
    let dead = dead_letter::list(&suite.store, &all, 10).await?;
    ensure!(
        dead.len() == 1 && dead[0].message.id == sent[0].id && dead[0].attempts == 3,
        "{dead:?}"
    );
    let body = serde_json::to_vec(&work("x", 2, Act::Succeed))?;
    let id = dead_letter::replay_edited(&suite.store, &dead[0], body).await?;
    ensure!(id != sent[0].id, "an edited replay needs an id of its own");
    suite.quiet().await?;
    ensure!(suite.effects("x").await? == [2], "{:?}", suite.effects("x").await?);
    ensure!(
        dead_letter::discard(&suite.store, &all).await? == 1,
        "nothing discarded"
    );
    ensure!(
        dead_letter::list(&suite.store, &all, 10).await?.is_empty(),
        "still there"
    );
    engine.stop(LIMIT).await;
    Ok(())
}

/// A scheduled message is not handed out before its time, and is then.
///
/// # Errors
/// When it is early or never comes.
pub async fn scheduled_messages_wait(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let due = posthaste::message::now() + chrono::Duration::milliseconds(1500);
    let mut tx = suite.store.begin().await?;
    outbox::append_at(&mut tx, SERVICE, suite.message(&work("timed", 1, Act::Succeed))?, due).await?;
    tx.commit().await?;
    let engine = suite.start(false);
    wait_until("the scheduled message", LIMIT, || async {
        (suite.effects("timed").await.ok()?.len() == 1).then_some(())
    })
    .await?;
    let late = posthaste::message::now() - due;
    ensure!(late >= chrono::Duration::zero(), "{late} early");
    ensure!(late < chrono::Duration::seconds(60), "{late} late");
    engine.stop(LIMIT).await;
    Ok(())
}

/// Three engines with stores of their own share the work; two of them vanish without a word.
///
/// # Errors
/// When an effect is lost or doubled, or order per key is.
pub async fn survivors_take_over(at: &At) -> Result<()> {
    let suite = Suite::open(at).await?;
    let survivor = suite.start(true);
    let mut others = Vec::new();
    for _ in 0..2 {
        let other = Arc::new(Suite::open(at).await?);
        let engine = other.start(true);
        others.push((other, engine));
    }
    let works = |from: i64| {
        (from..from + 200)
            .map(|n| work(&format!("k{}", n % 10), n, Act::Succeed))
            .collect::<Vec<_>>()
    };
    suite.append(&works(0)).await?;
    suite.quiet().await?;
    suite.append(&works(200)).await?;
    drop(others);
    suite.append(&works(400)).await?;
    suite.quiet().await?;
    survivor.stop(LIMIT).await;
    for key in 0..10 {
        let effects = suite.effects(&format!("k{key}")).await?;
        let expected: Vec<i64> = (0..600).filter(|n| n % 10 == key).collect();
        ensure!(effects == expected, "k{key}: {effects:?}");
    }
    Ok(())
}
