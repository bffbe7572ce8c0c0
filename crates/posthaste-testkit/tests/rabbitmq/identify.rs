//! What counts as the same message when other clients publish it.

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use posthaste_testkit::{TestDatabase, servers};

use crate::foreign_client::Client;
use crate::log::{self, lines_with};
use crate::shop::{LIMIT, Shop, topic};

fn event(id: &str, source: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [("cloudEvents_id", id), ("cloudEvents_source", source)] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    BasicProperties::default().with_headers(headers)
}

fn id(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

/// Sends each of `messages` (properties, body) and ensures that the effects are `expected`.
async fn effects_of(keyed: bool, messages: Vec<(BasicProperties, String)>, expected: &[i64]) -> Result<()> {
    effects_on(&topic(), keyed, messages, expected).await
}

async fn effects_on(
    topic: &str,
    keyed: bool,
    messages: Vec<(BasicProperties, String)>,
    expected: &[i64],
) -> Result<()> {
    let (database, url) = (TestDatabase::sqlite()?, servers::rabbitmq()?);
    let shop = Shop::open(&database, &url, topic).await?;
    let client = Client::connect(&url).await?;
    client.declare(topic, FieldTable::default()).await?;
    for (properties, body) in messages {
        client.publish(topic, body.as_bytes(), properties).await?;
    }
    let last = r#"{"n":1000,"key":"last"}"#;
    client
        .publish(topic, last.as_bytes(), BasicProperties::default())
        .await?;
    let engine = if keyed { shop.keyed_sales() } else { shop.sales() };
    posthaste_testkit::wait_until("the last effect", LIMIT, || async {
        shop.effects("").await.ok()?.contains(&1000).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let mut effects = shop.effects("").await?;
    effects.sort_unstable();
    ensure!(effects == [expected, &[1000]].concat(), "{effects:?}");
    Ok(())
}

fn sale(n: i64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn keyed(n: i64, key: &str) -> String {
    format!(r#"{{"n":{n},"key":"{key}"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_and_id_are_the_identity_of_an_event() -> Result<()> {
    let messages = vec![
        (event("1", "/a"), sale(1)),
        (event("1", "/b"), sale(2)),
        (event("2", "/a"), sale(3)),
        // Repeats, one with other bytes.
        (event("1", "/a"), sale(1)),
        (event("1", "/b"), sale(99)),
        // The transport's id does not count beside it.
        (event("1", "/a").with_message_id("other".into()), sale(1)),
    ];
    effects_of(false, messages, &[1, 2, 3]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_alone_counts_together_with_the_bytes() -> Result<()> {
    let unique = "0d9a1b7c-0000-4000-8000-000000000001";
    let nil = "00000000-0000-0000-0000-000000000000";
    let messages = vec![
        (id("1"), sale(1)),
        (id("1"), sale(2)),
        (id("1"), sale(1)),
        (id("2"), sale(1)),
        (id(unique), sale(3)),
        (id(unique), sale(4)),
        (id(nil), sale(5)),
        (id(nil), sale(6)),
    ];
    effects_of(false, messages, &[1, 1, 2, 3, 4, 5, 6]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_s_own_key_goes_before_an_id() -> Result<()> {
    let messages = vec![
        (id("1"), keyed(1, "a")),
        (id("1"), keyed(2, "b")),
        (id("2"), keyed(3, "a")),
        (BasicProperties::default(), keyed(1, "a")),
        // An event has an identity of its own.
        (event("9", "/a"), keyed(4, "a")),
    ];
    effects_of(true, messages, &[1, 2, 4]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_may_be_corrected_under_its_id() -> Result<()> {
    let messages = vec![
        (id("fix"), r#"{"n":"one"}"#.to_owned()),
        (id("fix"), sale(1)),
        (event("fix", "/a"), r#"{"n":"two"}"#.to_owned()),
        (event("fix", "/a"), sale(2)),
    ];
    effects_of(false, messages, &[1, 2]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn structured_events_are_read() -> Result<()> {
    let structured = || BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let event = |source: &str, n: i64| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"{source}","type":"sale","data":{{"n":{n}}}}}"#)
    };
    let messages = vec![
        (structured(), event("/a", 1)),
        (structured(), event("/b", 2)),
        (structured(), event("/a", 1)),
        // The same event in binary mode.
        (self::event("1", "/b"), sale(2)),
    ];
    effects_of(false, messages, &[1, 2]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_said_once() -> Result<()> {
    log::start();
    let topic = topic();
    let none = BasicProperties::default;
    let messages = vec![
        (none(), sale(1)),
        (none(), sale(1)),
        (none(), sale(1)),
        (event("1", "/a"), sale(2)),
        (event("1", "/a"), sale(3)),
        (event("1", "/a"), sale(4)),
        (event("1", "/b"), sale(5)),
        (event("1", "/b"), sale(6)),
    ];
    effects_on(&topic, false, messages, &[1, 2, 5]).await?;
    for (rule, source, count) in [("bytes", "", 1), ("source_and_id", "/a", 1), ("source_and_id", "/b", 1)] {
        let (rule, source) = (format!("rule=\"{rule}\""), format!("source=\"{source}\""));
        let mut parts = vec!["WARN", topic.as_str(), rule.as_str()];
        if source.len() > "source=\"\"".len() {
            parts.push(&source);
        }
        let lines = lines_with(&parts);
        ensure!(lines.len() == count, "{parts:?}: {lines:?}");
    }
    Ok(())
}
