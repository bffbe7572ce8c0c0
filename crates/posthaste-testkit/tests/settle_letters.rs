//! Dead letters in numbers: found by index, listed and settled in pages, with a record of each action.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use posthaste::dead_letter::{self, Act, Operator, Owner, Place, Selection};
use posthaste::store::Dialect;
use posthaste::telemetry::metric;
use posthaste::{
    Broker, CORE_MIGRATIONS, Engine, EngineConfig, MessageId, Roles, Store, StoreOptions, Tuning, backlog,
};
use posthaste_testkit::{TestDatabase, on_each_database, wait_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// So many dead letters, of two subscriptions, and twice as many marks.
const DEAD: u64 = 3000;

/// A database with dead letters. Ten of them died at a time, so that a page ends within such a group.
async fn filled(database: &TestDatabase) -> Result<Store> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let dialect = store.dialect();
    let (numbers, id, time, body) = match dialect {
        Dialect::Postgres => (
            "WITH n AS (SELECT generate_series(1, 9000) AS i)",
            "CAST(lpad(to_hex(i), 8, '0') || '-0000-7000-8000-000000000000' AS uuid)",
            "now() - (9000 - i / 10) * interval '1 second'",
            "CAST('{}' AS bytea)",
        ),
        Dialect::Sqlite => (
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)",
            "printf('%08x-0000-7000-8000-000000000000', i)",
            "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', printf('-%d seconds', 9000 - i / 10))",
            "CAST('{}' AS BLOB)",
        ),
        Dialect::Mysql => (
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)",
            "CONCAT(LPAD(LOWER(HEX(i)), 8, '0'), '-0000-7000-8000-000000000000')",
            "UTC_TIMESTAMP(6) - INTERVAL (9000 - i DIV 10) SECOND",
            "'{}'",
        ),
    };
    let select = format!(
        "SELECT CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END, {id}, 'a', \
            CASE WHEN i % 3 = 0 THEN 'dead' ELSE 'processed' END, {time}, CASE WHEN i % 3 <> 0 THEN {time} END, 't', \
            CASE WHEN i % 3 = 0 THEN '{{}}' END, CASE WHEN i % 3 = 0 THEN {body} END, 1, \
            CASE WHEN i % 3 = 0 THEN {time} END, 'cause', i FROM n"
    );
    let into = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, processed_at, topic, \
        headers, body, attempts, last_failed_at, error, parked_seq)";
    let sql = match dialect {
        Dialect::Mysql => format!("{into} {numbers} {select}"),
        _ => format!("{numbers} {into} {select}"),
    };
    if dialect == Dialect::Mysql {
        // MySQL stops a recursion after 1000 steps, unless it is told otherwise.
        let tx = store.begin().await?;
        tx.execute(
            "SET SESSION /*M! max_recursive_iterations = 20000 */ /*!80000 cte_max_recursion_depth = 20000 */",
            vec![],
        )
        .await?;
        tx.execute(&sql, vec![]).await?;
        tx.commit().await?;
        store.query("ANALYZE TABLE inbox_messages", vec![]).await?;
    } else {
        store.execute(&sql, vec![]).await?;
        if dialect == Dialect::Postgres {
            store.execute("ANALYZE inbox_messages", vec![]).await?;
        }
    }
    Ok(store)
}

async fn statuses(store: &Store) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT status, COUNT(*) AS number FROM inbox_messages GROUP BY status ORDER BY status";
    let rows = store.query(sql, vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("status")?, row.get("number")?)))
        .collect()
}

/// Action, actor, total, done, failed, state, reason of each record.
async fn records(store: &Store) -> Result<Vec<String>> {
    let sql = "SELECT action, actor, total, done, failed, state, reason FROM ops_actions ORDER BY at, id";
    let rows = store.query(sql, vec![]).await?;
    rows.iter()
        .map(|row| {
            let text = |column: &str| row.get::<Option<String>>(column).map(Option::unwrap_or_default);
            let number = |column: &str| row.get::<i64>(column);
            Ok(format!(
                "{} {} {}/{}/{} {} {}",
                text("action")?,
                text("actor")?,
                number("done")?,
                number("failed")?,
                number("total")?,
                text("state")?,
                text("reason")?,
            ))
        })
        .collect()
}

async fn they_are_found_by_index(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    let all = dead_letter::list(&store, &Selection::default(), 3).await?;
    let one = Selection {
        ids: vec![all[1].message.id],
        ..Selection::default()
    };
    let of_one = Selection::of_subscription("even");
    for (what, selection) in [
        ("an id", &one),
        ("all", &Selection::default()),
        ("a subscription", &of_one),
    ] {
        for step in dead_letter::explain(&store, selection).await? {
            let indexed = match store.dialect() {
                Dialect::Postgres => !step.contains("Seq Scan") && !step.contains("Sort"),
                Dialect::Sqlite => !step.contains("SCAN inbox") && !step.contains("TEMP B-TREE"),
                Dialect::Mysql => {
                    let words: Vec<&str> = step.split(' ').collect();
                    let found = matches!(words[0], "ref" | "range" | "const" | "eq_ref")
                        && matches!(words[1], "PRIMARY" | "inbox_dead");
                    // What a look by a whole primary key says where the other subscription has no such row.
                    let by_key = step.contains("noticed after reading const tables");
                    by_key || found && !step.contains("filesort")
                }
            };
            // A list of values has a step of its own on SQLite.
            ensure!(indexed || step.contains("json_each"), "{what}: {step}");
        }
        let keyed = dead_letter::explain(&store, selection).await?.join("\n");
        let by_id = !selection.ids.is_empty();
        let named = match store.dialect() {
            Dialect::Postgres if by_id => "inbox_messages_pkey",
            Dialect::Sqlite | Dialect::Mysql if by_id => "PRIMARY",
            _ => "inbox_dead",
        };
        ensure!(keyed.contains(named), "{what}: {keyed}");
    }
    store.close().await;
    database.finish().await
}

async fn they_are_listed_page_by_page(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    let mut seen = HashSet::new();
    let mut before: Option<Place> = None;
    loop {
        let page = dead_letter::page(&store, &Selection::default(), before.as_ref(), 7 * 64).await?;
        let Some(last) = page.last() else { break };
        ensure!(
            page.is_sorted_by_key(|letter| std::cmp::Reverse((letter.last_failed_at, letter.id))),
            "not newest first"
        );
        before = Some(Place::of(last));
        for letter in &page {
            ensure!(seen.insert(letter.id), "{} is listed twice", letter.id);
        }
    }
    ensure!(seen.len() as u64 == DEAD, "{} of {DEAD} are listed", seen.len());
    let newest = dead_letter::page(&store, &Selection::default(), None, 1).await?;
    let older = Place::before(newest[0].last_failed_at);
    let older = dead_letter::page(&store, &Selection::default(), Some(&older), 1).await?;
    ensure!(
        older[0].last_failed_at < newest[0].last_failed_at,
        "not before the time"
    );
    store.close().await;
    database.finish().await
}

async fn they_are_replayed_in_pages_on_record(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    let operator = Operator {
        actor: "ann".to_owned(),
        address: None,
        reason: Some("mended".to_owned()),
    };
    let half = Selection::of_subscription("even");
    let mut pages = Vec::new();
    let never = CancellationToken::new();
    let done = dead_letter::settle(&store, Act::Replay, &half, &operator, &never, |progress| {
        pages.push(progress.done)
    })
    .await?;
    ensure!((done.done, done.total) == (DEAD / 2, DEAD / 2), "{done:?}");
    ensure!(pages == [500, 1000, 1500], "{pages:?}");
    let waiting = statuses(&store)
        .await?
        .into_iter()
        .find(|(status, _)| status != "dead" && status != "processed");
    ensure!(
        waiting.context("none waits")?.1 == 1500,
        "{:?}",
        statuses(&store).await?
    );
    let left = dead_letter::list(&store, &Selection::default(), 2000).await?;
    ensure!(
        left.len() == 1500 && left.iter().all(|letter| letter.subscription == "odd"),
        "the other subscription's, too"
    );

    // Stopped after the second page: what is done is done, and the record says how far it came.
    let stop = CancellationToken::new();
    let all = Selection::default();
    let done = dead_letter::settle(&store, Act::Discard, &all, &operator, &stop, |progress| {
        if progress.done == 1000 {
            stop.cancel();
        }
    });
    let done = done.await?;
    ensure!((done.done, done.total) == (1000, 1500), "{done:?}");
    ensure!(dead_letter::count(&store, &Selection::default()).await? == 500);
    let told = records(&store).await?;
    let expected = [
        "dead_letters.replay ann 1500/0/1500 done mended",
        "dead_letters.discard ann 1000/0/1500 stopped mended",
    ];
    ensure!(told == expected, "{told:?}");

    // What matches nothing is no action.
    let nobody = Selection {
        ids: vec![MessageId(Uuid::nil())],
        ..Selection::default()
    };
    ensure!(dead_letter::replay(&store, &nobody).await? == 0);
    ensure!(records(&store).await?.len() == 2);
    store.close().await;
    database.finish().await
}

/// The record commits with what it records, or neither does.
async fn no_page_without_its_record(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    store
        .execute("ALTER TABLE ops_actions RENAME TO hidden", vec![])
        .await?;
    let refused = dead_letter::replay(&store, &Selection::default()).await;
    ensure!(refused.is_err(), "{refused:?}");
    ensure!(
        dead_letter::count(&store, &Selection::default()).await? == DEAD,
        "replayed off the record"
    );
    store.close().await;
    database.finish().await
}

/// Puts `count` rows that can never be sent into the outbox of `service`, and `pending` that wait.
async fn add_unsent(store: &Store, service: &str, count: i64, pending: i64) -> Result<()> {
    let dialect = store.dialect();
    let tx = store.begin().await?;
    for n in 0..count + pending {
        let status = if n < count { "dead" } else { "pending" };
        let sql = "INSERT INTO outbox_messages (event_id, service, topic, event_type, partition_no, headers, body, status, error, failed_at) \
            VALUES ($1, $2, 'huge', 'a', 0, '{}', $3, $4, 'too large', CASE WHEN $5 = 1 THEN {now} END)";
        let values = vec![
            dialect.uuid(Uuid::now_v7()),
            service.into(),
            vec![1u8].into(),
            status.into(),
            i32::from(n < count).into(),
        ];
        tx.execute(sql, values).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn what_could_not_be_sent_is_treated_alike(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    add_unsent(&store, "shop", 600, 0).await?;
    add_unsent(&store, "other", 1, 0).await?;
    let listed = dead_letter::page(&store, &Selection::default(), None, 700).await?;
    ensure!(
        matches!(&listed[0].owner, Owner::Outbox(service) if service == "other"),
        "{:?}",
        listed[0]
    );
    ensure!(
        matches!(&listed[601].owner, Owner::Subscription(_)),
        "{:?}",
        listed[601]
    );
    let shop = Selection {
        subscriptions: Some(Vec::new()),
        outboxes: Some(vec!["shop".to_owned()]),
        ids: Vec::new(),
    };
    ensure!(dead_letter::count(&store, &shop).await? == 600);
    let one = Selection {
        ids: vec![listed[1].id],
        ..Selection::default()
    };
    ensure!(dead_letter::list_unsent(&store, &one, 10).await?[0].error == "too large");
    ensure!(dead_letter::discard(&store, &one).await? == 1, "not found by its id");
    ensure!(
        dead_letter::replay(&store, &shop).await? == 599,
        "not all of the shop's"
    );
    let sql = "SELECT service, status, COUNT(*) AS number FROM outbox_messages GROUP BY service, status ORDER BY service, status";
    let rows = store.query(sql, vec![]).await?;
    let left: Vec<(String, String, i64)> = rows
        .iter()
        .map(|row| Ok((row.get("service")?, row.get("status")?, row.get("number")?)))
        .collect::<Result<_>>()?;
    let expected = [("other", "dead", 1), ("shop", "pending", 599)].map(|(a, b, n)| (a.to_owned(), b.to_owned(), n));
    ensure!(left == expected, "{left:?}");
    ensure!(dead_letter::count(&store, &Selection::default()).await? == DEAD + 1);
    store.close().await;
    database.finish().await
}

/// Each figure has a bound of its own.
async fn counting_for_metrics_is_bounded(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    add_unsent(&store, "shop", 0, 30).await?;
    add_unsent(&store, "attic", 0, 7).await?;
    for (topic, rows) in [("full", 25), ("nearly", 3)] {
        for _ in 0..rows {
            let sql = "INSERT INTO queue_messages (topic, partition_no, body) VALUES ($1, 0, $2)";
            store.execute(sql, vec![topic.into(), vec![1u8].into()]).await?;
        }
    }
    let figures = backlog::count_up_to(&store, 20).await?;
    let of = |gauge: &'static str, name: &str| figures.get(&(gauge, name.to_owned())).copied();
    ensure!(of(metric::OUTBOX_PENDING, "shop") == Some(20.0), "{figures:?}");
    ensure!(of(metric::OUTBOX_PENDING, "attic") == Some(7.0), "{figures:?}");
    ensure!(of(metric::QUEUE_DEPTH, "full") == Some(20.0), "{figures:?}");
    ensure!(of(metric::QUEUE_DEPTH, "nearly") == Some(3.0), "{figures:?}");
    ensure!(of(metric::DEAD_LETTERS, "t") == Some(20.0), "{figures:?}");
    ensure!(
        of(metric::OUTBOX_OLDEST, "attic").is_some_and(|age| (0.0..600.0).contains(&age)),
        "{figures:?}"
    );
    store.close().await;
    database.finish().await
}

/// Dead letters and unread messages go at their ages; what somebody reads stays.
async fn old_ones_go_at_their_age(database: TestDatabase) -> Result<()> {
    let store = filled(&database).await?;
    let broker = Broker::open("sql:", &store)?;
    let old = match store.dialect() {
        Dialect::Postgres => "now() - interval '10 days'",
        Dialect::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-10 days')",
        Dialect::Mysql => "UTC_TIMESTAMP(6) - INTERVAL 10 DAY",
    };
    for (topic, rows) in [("nobody", 1200), ("somebody", 5)] {
        let tx = store.begin().await?;
        for _ in 0..rows {
            let sql = format!(
                "INSERT INTO queue_messages (topic, partition_no, body, enqueued_at) VALUES ($1, 0, $2, {old})"
            );
            tx.execute(&sql, vec![topic.into(), vec![1u8].into()]).await?;
        }
        tx.commit().await?;
    }
    store
        .execute(
            "INSERT INTO queue_messages (topic, partition_no, body) VALUES ('nobody', 0, $1)",
            vec![vec![1u8].into()],
        )
        .await?;
    store
        .execute(
            "INSERT INTO queue_readers (service, queue) VALUES ('somebody', 'somebody')",
            vec![],
        )
        .await?;
    // All readers have had the time to say what they read.
    let long_ago = "UPDATE schema_migrations SET applied_at = '2020-01-01T00:00:00+00:00' WHERE set_name = 'core'";
    store.execute(long_ago, vec![]).await?;
    let engine = Engine::start(EngineConfig {
        service: "shop".to_owned(),
        store: store.clone(),
        broker,
        subscriptions: Vec::new(),
        roles: Roles {
            worker: true,
            relay: false,
        },
        tuning: Tuning {
            keep_dead: Some(Duration::from_secs(8500)),
            clean_every: Duration::from_millis(50),
            ..Tuning::default()
        },
    });
    let left = |topic: &'static str| {
        let store = &store;
        async move {
            let sql = "SELECT COUNT(*) AS number FROM queue_messages WHERE topic = $1";
            store.query(sql, vec![topic.into()]).await.ok()?[0]
                .get::<i64>("number")
                .ok()
        }
    };
    wait_until("one message nobody reads", LIMIT, || async {
        left("nobody").await.filter(|number| *number == 1)
    })
    .await?;
    ensure!(left("somebody").await == Some(5), "of a queue that is read");
    wait_until("the younger dead letters", LIMIT, || async {
        let count = dead_letter::count(&store, &Selection::default()).await.ok()?;
        (count > 0 && count < DEAD / 2 + DEAD / 4).then_some(())
    })
    .await?;
    // Discarded ones are marks: a late repeat is recognised.
    let (_, processed) = statuses(&store)
        .await?
        .into_iter()
        .find(|(status, _)| status == "processed")
        .context("no marks")?;
    ensure!(processed > 6000, "{processed} marks");
    engine.stop(LIMIT).await;
    store.close().await;
    database.finish().await
}

on_each_database! {
    they_are_found_by_index,
    they_are_listed_page_by_page,
    they_are_replayed_in_pages_on_record,
    no_page_without_its_record,
    what_could_not_be_sent_is_treated_alike,
    counting_for_metrics_is_bounded,
    old_ones_go_at_their_age,
}
