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
async fn bury(program: &Program, message: Message) -> Result<()> {
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

/// What the record of the accounts service says of `action` at the command line.
async fn audited(program: &Program, action: &str) -> Result<Vec<String>> {
    let url = format!("sqlite:{}", program.folder().join("data/posthaste.db").display());
    let store = Store::open(&url, StoreOptions::default())?;
    let sql = "SELECT detail FROM audit_events WHERE action = $1 AND actor = 'command line'";
    let rows = store.query(sql, vec![action.into()]).await?;
    let details = rows.iter().map(|row| Ok(row.get("detail")?)).collect();
    store.close().await;
    details
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_listed_shown_replayed_and_discarded() -> Result<()> {
    let program = Program::new()?;
    let empty = program.run(&["dead-letters", "list"], &[]).await?;
    ensure!(empty.code == 1 && empty.stderr.contains("migrate"), "{empty:?}");

    let message = poison();
    let id = message.id.to_string();
    bury(&program, message).await?;
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

    let nobody = program.run(&["dead-letters", "replay"], &[]).await?;
    ensure!(nobody.code == 1 && nobody.stderr.contains("--all"), "{nobody:?}");
    let replayed = program.run(&["dead-letters", "replay", &id], &[]).await?;
    ensure!(replayed.code == 0 && replayed.stdout == "replayed 1\n", "{replayed:?}");
    // On record, once and with what it was; what came to nothing is not.
    let told = audited(&program, "dead_letters.replay").await?;
    ensure!(told == [format!("1 of any subscription {id}")], "{told:?}");
    let gone = program.run(&["dead-letters", "show", &id], &[]).await?;
    ensure!(gone.code == 1, "{gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_one_is_gone() -> Result<()> {
    let program = Program::new()?;
    bury(&program, poison()).await?;
    // Of any service on that database, so the one that keeps a record has it.
    let discarded = program
        .run(&["dead-letters", "discard", "--all", "--service", "orders"], &[])
        .await?;
    ensure!(
        discarded.code == 0 && discarded.stdout == "discarded 1\n",
        "{discarded:?}"
    );
    let listed = program.run(&["dead-letters", "list"], &[]).await?;
    ensure!(
        listed.code == 0 && listed.stdout.contains("no dead letters"),
        "{listed:?}"
    );
    let again = program.run(&["dead-letters", "discard", "--all"], &[]).await?;
    ensure!(again.code == 1, "{again:?}");
    let told = audited(&program, "dead_letters.discard").await?;
    ensure!(told == ["1 of any subscription"], "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_hides_no_other_one() -> Result<()> {
    let program = Program::new()?;
    let message = poison();
    let id = message.id.to_string();
    bury(&program, message).await?;
    // The first service's database cannot be made: its folder is a file.
    std::fs::write(program.folder().join("taken"), "")?;
    let away = [("ACCOUNTS_DATABASE_URL", "sqlite:taken/a.db")];
    let said = |ran: &Ran, out: &str| ran.code == 1 && ran.stdout.contains(out) && ran.stderr.contains("taken");
    let bare = [("ACCOUNTS_DATABASE_URL", "sqlite:bare.db")];
    let listed = program.run(&["dead-letters", "list"], &bare).await?;
    let told = listed.stderr.contains("bare.db") && listed.stderr.contains("migrate");
    ensure!(listed.code == 1 && listed.stdout.contains(&id) && told, "{listed:?}");
    for (arguments, out) in [
        (&["dead-letters", "list"][..], id.as_str()),
        (&["dead-letters", "show", &id], "req-9"),
        (&["dead-letters", "replay", &id], "replayed 1\n"),
    ] {
        let ran = program.run(arguments, &away).await?;
        ensure!(said(&ran, out), "{arguments:?}: {ran:?}");
    }
    let nothing = program.run(&["dead-letters", "discard", "--all"], &away).await?;
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
