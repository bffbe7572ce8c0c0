//! `dead-letters`: what a poison message leaves, seen and handled from the command line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use posthaste::{Broker, Message, MessageId, Store, StoreOptions};
use posthaste_testkit::wait_until;

use crate::program::{LIMIT, Program, Ran};

fn poison() -> Message {
    Message {
        id: MessageId::new(),
        source: "a test".to_owned(),
        event_type: "notification.requested".to_owned(),
        topic: "notification_events".to_owned(),
        key: None,
        subject: None,
        time: posthaste::message::now(),
        content_type: "application/json".to_owned(),
        correlation_id: Some("req-9".to_owned()),
        causation_id: None,
        traceparent: None,
        expires_at: None,
        ordered: false,
        headers: BTreeMap::from([
            ("x-api-key".to_owned(), "canary".to_owned()),
            ("x-tenant".to_owned(), "north".to_owned()),
        ]),
        body: b"no JSON, password=canary".to_vec(),
    }
}

/// Runs the program until the message is dead.
async fn add_dead_letter(program: &Program, message: Message) -> Result<()> {
    let migrated = program.run(&["migrate", "up"], &[]).await?;
    ensure!(migrated.code == 0, "{migrated:?}");
    let url = format!("sqlite:{}", program.folder().join("data/posthaste.db").display());
    let store = Store::open(&url, StoreOptions::default())?;
    let broker = Broker::open("sql:", &store)?;
    for published in broker.publish(vec![message]).await {
        published?;
    }
    let mut child = program.command(&["--port", "0"], &[]).spawn()?;
    wait_until("the message to be dead", LIMIT, || async {
        let sql = "SELECT message_id FROM inbox_messages WHERE status = 'dead'";
        let rows = store.query(sql, vec![]).await.ok()?;
        (!rows.is_empty()).then_some(())
    })
    .await?;
    child.kill().await.context("kill")?;
    store.close().await;
    Ok(())
}

/// The records of `action`: actor, count, state, reason.
async fn recorded(program: &Program, action: &str) -> Result<Vec<String>> {
    let url = format!("sqlite:{}", program.folder().join("data/posthaste.db").display());
    let store = Store::open(&url, StoreOptions::default())?;
    let sql = "SELECT actor, done, total, state, reason FROM ops_actions WHERE action = $1 ORDER BY at";
    let rows = store.query(sql, vec![action.into()]).await?;
    let records = rows.iter().map(|row| {
        let (done, total): (i64, i64) = (row.get("done")?, row.get("total")?);
        let (actor, state): (String, String) = (row.get("actor")?, row.get("state")?);
        let reason: Option<String> = row.get("reason")?;
        Ok(format!("{actor} {done}/{total} {state} {}", reason.unwrap_or_default()))
    });
    let records = records.collect();
    store.close().await;
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_listed_shown_replayed_and_discarded() -> Result<()> {
    let program = Program::new()?;
    let empty = program.run(&["dead-letters", "list"], &[]).await?;
    ensure!(
        empty.code == 0 && empty.stderr.contains("no database there"),
        "{empty:?}"
    );
    let status = program.run(&["migrate", "status"], &[]).await?;
    ensure!(
        status.code == 0 && status.stdout.contains("no database there"),
        "{status:?}"
    );
    let nothing = program.run(&["dead-letters", "replay", "--all"], &[]).await?;
    ensure!(nothing.code == 3, "{nothing:?}");
    ensure!(
        !program.folder().join("data").exists(),
        "a command that reads made the database"
    );

    let message = poison();
    let id = message.id.to_string();
    add_dead_letter(&program, message).await?;
    let listed = program.run(&["dead-letters", "list"], &[]).await?;
    ensure!(listed.code == 0 && listed.stdout.contains(&id), "{listed:?}");
    let listed = program.run(&["dead-letters", "list", "--json"], &[]).await?;
    let line: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    ensure!(line["id"] == id.as_str() && line["correlation_id"] == "req-9", "{line}");
    let shown = program.run(&["dead-letters", "show", &id], &[]).await?;
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout)?;
    ensure!(shown["body"] == "no JSON, password=***", "{shown}");
    let headers = serde_json::json!({"x-api-key": "***", "x-tenant": "north"});
    ensure!(shown["headers"] == headers, "{shown}");

    let shown = program.run(&["dead-letters", "show", &id, "--json"], &[]).await?;
    ensure!(shown.stdout.lines().count() == 1, "{shown:?}");
    let before = line["before"].as_str().context("no place")?;
    let older = program
        .run(&["dead-letters", "list", "--json", "--before", before], &[])
        .await?;
    ensure!(older.code == 0 && older.stdout.is_empty(), "{older:?}");
    let unread = program
        .run(&["dead-letters", "list", "--before", "yesterday"], &[])
        .await?;
    ensure!(unread.code == 2, "{unread:?}");

    let nobody = program.run(&["dead-letters", "replay"], &[]).await?;
    ensure!(nobody.code == 2 && nobody.stderr.contains("--all"), "{nobody:?}");
    // Of another service than the one whose letter it is.
    let other = program
        .run(&["dead-letters", "replay", &id, "--service", "orders"], &[])
        .await?;
    ensure!(other.code == 3, "{other:?}");
    let replay = [
        "dead-letters",
        "replay",
        &id,
        "--service",
        "notifications",
        "--reason",
        "mended",
    ];
    let replayed = program.run(&replay, &[("USER", "ann")]).await?;
    ensure!(replayed.code == 0 && replayed.stdout == "replayed 1\n", "{replayed:?}");
    // On record, once; what came to nothing is not.
    let records = recorded(&program, "dead_letters.replay").await?;
    ensure!(records == ["ann 1/1 done mended"], "{records:?}");
    let gone = program.run(&["dead-letters", "show", &id], &[]).await?;
    ensure!(gone.code == 3, "{gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_one_is_gone() -> Result<()> {
    let program = Program::new()?;
    add_dead_letter(&program, poison()).await?;
    let all = ["dead-letters", "discard", "--all"];
    let unasked = program.run(&all, &[]).await?;
    ensure!(unasked.code == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
    let others = program
        .run(
            &["dead-letters", "discard", "--all", "--yes", "--service", "orders"],
            &[],
        )
        .await?;
    ensure!(others.code == 3, "{others:?}");
    let discarded = program
        .run(&["dead-letters", "discard", "--all", "--yes", "--json"], &[])
        .await?;
    let line: serde_json::Value = serde_json::from_str(&discarded.stdout)?;
    ensure!(discarded.code == 0 && line["done"] == 1, "{discarded:?}");
    let listed = program.run(&["dead-letters", "list"], &[]).await?;
    ensure!(
        listed.code == 0 && listed.stdout.contains("no dead letters"),
        "{listed:?}"
    );
    let again = program.run(&["dead-letters", "discard", "--all", "--yes"], &[]).await?;
    ensure!(again.code == 3, "{again:?}");
    let records = recorded(&program, "dead_letters.discard").await?;
    ensure!(records == ["command line 1/1 done "], "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_hides_no_other_one() -> Result<()> {
    let program = Program::new()?;
    let message = poison();
    let id = message.id.to_string();
    add_dead_letter(&program, message).await?;
    // The first service's database cannot be made: its folder is a file.
    std::fs::write(program.folder().join("taken"), "")?;
    let away = [("ACCOUNTS_DATABASE_URL", "sqlite:taken/a.db")];
    let said = |ran: &Ran, out: &str| ran.code == 1 && ran.stdout.contains(out) && ran.stderr.contains("taken");
    // One that was named and is not there is reported, and is no failure.
    let bare = [("ACCOUNTS_DATABASE_URL", "sqlite:bare.db")];
    let listed = program.run(&["dead-letters", "list"], &bare).await?;
    let reported = listed.stderr.contains("bare.db: no database there");
    ensure!(
        listed.code == 0 && listed.stdout.contains(&id) && reported,
        "{listed:?}"
    );
    ensure!(!program.folder().join("bare.db").exists(), "it was made");
    let unreachable = [("ACCOUNTS_DATABASE_URL", "postgres://nobody@127.0.0.1:9/none")];
    let listed = program.run(&["dead-letters", "list"], &unreachable).await?;
    ensure!(listed.code == 69 && listed.stdout.contains(&id), "{listed:?}");
    for (arguments, out) in [
        (&["dead-letters", "list"][..], id.as_str()),
        (&["dead-letters", "show", &id], "req-9"),
        (&["dead-letters", "replay", &id], "replayed 1\n"),
    ] {
        let ran = program.run(arguments, &away).await?;
        ensure!(said(&ran, out), "{arguments:?}: {ran:?}");
    }
    let nothing = program
        .run(&["dead-letters", "discard", "--all", "--yes"], &away)
        .await?;
    ensure!(said(&nothing, ""), "{nothing:?}");
    Ok(())
}

#[tokio::test]
async fn only_the_database_of_the_chosen_service_is_opened() -> Result<()> {
    let program = Program::new()?;
    let orders = [("ORDERS_DATABASE_URL", "sqlite:orders.db")];
    ensure!(program.run(&["migrate", "up"], &orders).await?.code == 0);
    std::fs::remove_dir_all(program.folder().join("data"))?;
    let listed = program
        .run(&["dead-letters", "list", "--service", "orders"], &orders)
        .await?;
    ensure!(listed.code == 0 && listed.stdout.contains("orders.db"), "{listed:?}");
    ensure!(!program.folder().join("data").exists(), "the others' database was made");
    Ok(())
}

/// A database on which the service that keeps accounts has no tables, and the default one does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_a_database_of_its_own_is_enough() -> Result<()> {
    let program = Program::new()?;
    let message = poison();
    let id = message.id.to_string();
    let own = [("NOTIFICATIONS_DATABASE_URL", "sqlite:own.db")];
    ensure!(program.run(&["migrate", "up", "notifications"], &own).await?.code == 0);
    put(&program, "own.db", message).await?;
    for arguments in [
        &["dead-letters", "list"][..],
        &["dead-letters", "show", &id],
        &["dead-letters", "replay", &id],
    ] {
        let ran = program.run(arguments, &own).await?;
        ensure!(ran.code == 0 && ran.stderr.is_empty(), "{arguments:?}: {ran:?}");
    }
    ensure!(!program.folder().join("data").exists(), "the default database was made");
    // The same where all services are on one database, and one of them has tables.
    let general = [("DATABASE_URL", "sqlite:own.db")];
    let listed = program.run(&["dead-letters", "list"], &general).await?;
    ensure!(listed.code == 0, "{listed:?}");
    put(&program, "own.db", poison()).await?;
    let discarded = program
        .run(&["dead-letters", "discard", "--all", "--yes"], &general)
        .await?;
    ensure!(
        discarded.code == 0 && discarded.stdout == "discarded 1\n",
        "{discarded:?}"
    );
    Ok(())
}

/// Writes `message` as a dead letter of notifications.
async fn put(program: &Program, file: &str, message: Message) -> Result<()> {
    let store = Store::open(
        &format!("sqlite:{}", program.folder().join(file).display()),
        StoreOptions::default(),
    )?;
    let sql = "INSERT INTO inbox_messages (subscription, message_id, event_type, status, received_at, topic, headers, body, \
        attempts, parked_seq, last_failed_at, error) \
        VALUES ('notifications.record_event', $1, $2, 'dead', {now}, $3, '{}', $4, 1, 1, {now}, 'a cause')";
    let id = store.dialect().uuid(message.id.0);
    let values = vec![id, message.event_type.into(), message.topic.into(), message.body.into()];
    store.execute(sql, values).await?;
    store.close().await;
    Ok(())
}
