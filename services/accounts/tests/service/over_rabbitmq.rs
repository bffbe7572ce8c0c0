//! Sign-ups over a real RabbitMQ: with the database away, with nobody reading, with the server gone for a while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use posthaste::dead_letter::{self, Selection};
use posthaste_testkit::servers::{PostgresUrl, PrivatePostgres, PrivateRabbitmq};
use posthaste_testkit::{TestDatabase, wait_until};
use serde_json::Value;

use crate::mailbox::Accounts;
use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(180);
const QUEUE: &str = "user_onboarding_queue";

async fn channel(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn is_shown(accounts: &Accounts, id: &str) -> Result<Value> {
    let path = format!("/users/{id}");
    wait_until(&path, LIMIT, || async {
        let reply = accounts.service.get(&path).await.ok()?;
        (reply.status == 200).then_some(reply.body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_away_sign_ups_are_taken_and_settled_later() -> Result<()> {
    let server = PrivatePostgres::launch(24_100).await?;
    let rabbitmq = PrivateRabbitmq::launch(24_120).await?;
    let stage = Stage::of(TestDatabase::on(PostgresUrl::parse(server.url())?).await?);
    let url = rabbitmq.url();
    let accounts = Accounts::start_with(&stage, &[("BROKER_URL", &url)]).await?;
    assert_eq!(accounts.sign_up("before@example.com").await?.status, 201);
    accounts.mail_to("before@example.com", 1).await?;
    // Confirmed: without that, a sign-up more than a minute later would take the password away.
    let confirm = "UPDATE users SET verification_state = 'VERIFIED' WHERE email = 'before@example.com'";
    assert_eq!(accounts.service.store().execute(confirm, vec![]).await?, 1);
    server.kill9().await?;
    let mut ids = Vec::new();
    for email in ["ann@example.com", "ANN@example.com", "before@example.com"] {
        let reply = accounts.sign_up(email).await?;
        ensure!(reply.status == 201, "{reply:?}");
        ids.push(reply.body["user_id"].as_str().context("an id")?.to_owned());
    }
    // A repeat with the same key is the same user although nothing could be stored of the first request.
    let key = [("Idempotency-Key", "k")];
    let body = crate::mailbox::signup("key@example.com");
    let first = accounts.service.post_with("/signup", &body, &key).await?;
    let again = accounts.service.post_with("/signup", &body, &key).await?;
    assert_eq!((first.status, &first.text), (201, &again.text));
    let refused = accounts.service.get(&format!("/users/{}", ids[0])).await?;
    assert_eq!(refused.status, 503, "away is not unknown: {refused:?}");
    server.start().await?;

    is_shown(&accounts, first.body["user_id"].as_str().context("an id")?).await?;
    accounts.mail_to("key@example.com", 1).await?;
    // One of the two has the address; its owner is told of the other one.
    accounts.mail_to("ann@example.com", 2).await?;
    accounts.mail_to("before@example.com", 2).await?;
    accounts.settled().await?;
    let service = &accounts.service;
    assert_eq!(service.count("users").await?, 3);
    assert_eq!(service.count("users WHERE email = 'ann@example.com'").await?, 1);
    assert_eq!(service.count("users WHERE password_hash LIKE '$argon2id$%'").await?, 3);
    assert_eq!(service.count("inbox_messages WHERE status = 'dead'").await?, 0);
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_in_time_is_a_dead_letter_and_can_be_replayed() -> Result<()> {
    let rabbitmq = PrivateRabbitmq::launch(24_140).await?;
    let (stage, url) = (Stage::of(TestDatabase::postgres().await?), rabbitmq.url());
    let accounts = Accounts::start_with(&stage, &[("BROKER_URL", &url)]).await?;
    accounts.sign_up("ann@example.com").await?;
    accounts.mail_to("ann@example.com", 1).await?;
    let mail = accounts.mail;
    accounts.service.stop().await?;

    // Declared as promised: the same declaration is accepted, another one is not.
    let (_connection, own) = channel(&url).await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(3_600_000));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    let routing_key = AMQPValue::LongString("user_onboarding_queue_dlq".into());
    arguments.insert("x-dead-letter-routing-key".into(), routing_key);
    own.queue_declare(QUEUE.into(), options, arguments).await?;
    own.queue_declare("user_onboarding_queue_dlq".into(), options, FieldTable::default())
        .await?;

    let body = br#"{"user_id":"01a1fe2f-4398-7518-bd75-79dc635da6ab","email":"late@example.com","first_name":"La",
        "last_name":"Te","requested_at":"2026-11-21T00:00:00Z"}"#;
    // An hour is too long for a test: this one message may lie there for a millisecond.
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_expiration("1".into());
    let sent = own.basic_publish(
        "".into(),
        QUEUE.into(),
        BasicPublishOptions::default(),
        body,
        properties,
    );
    ensure!(sent.await?.await?.is_ack());
    wait_until("the message to be moved", LIMIT, || async {
        let passive = QueueDeclareOptions {
            passive: true,
            ..options
        };
        let moved = own.queue_declare("user_onboarding_queue_dlq".into(), passive, FieldTable::default());
        (moved.await.ok()?.message_count() == 1).then_some(())
    })
    .await?;

    let accounts = Accounts::start_in(mail, &stage, &[("BROKER_URL", &url)]).await?;
    accounts.count_is("inbox_messages WHERE status = 'dead'", 1).await?;
    let letters = dead_letter::list(accounts.service.store(), &Selection::default(), 10).await?;
    let letter = letters.first().context("a dead letter")?;
    assert_eq!(
        (letter.subscription.as_str(), letter.message.topic.as_str()),
        ("accounts.onboard_user", QUEUE)
    );
    assert_eq!(letter.message.body, body);
    assert!(letter.error.contains("in time"), "{}", letter.error);
    assert_eq!(accounts.service.count("users").await?, 1);
    ensure!(dead_letter::replay(accounts.service.store(), &Selection::default()).await? == 1);
    is_shown(&accounts, "01a1fe2f-4398-7518-bd75-79dc635da6ab").await?;
    accounts.mail_to("late@example.com", 1).await?;
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_outlives_its_broker() -> Result<()> {
    let rabbitmq = PrivateRabbitmq::launch(24_160).await?;
    let (stage, url) = (Stage::of(TestDatabase::sqlite()?), rabbitmq.url());
    let accounts = Accounts::start_with(&stage, &[("BROKER_URL", &url)]).await?;
    accounts.sign_up("before@example.com").await?;
    accounts.mail_to("before@example.com", 1).await?;
    rabbitmq.kill9().await?;
    let reply = accounts.sign_up("ann@example.com").await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    is_shown(&accounts, reply.body["user_id"].as_str().context("an id")?).await?;
    rabbitmq.start().await?;
    accounts.mail_to("ann@example.com", 1).await?;
    assert_eq!(accounts.service.count("inbox_messages WHERE status = 'dead'").await?, 0);
    accounts.stop().await
}
