//! The service's handlers, crashed at every step.

use std::collections::BTreeMap;

use accounts::Mailer;
use anyhow::{Result, ensure};
use posthaste::{Message, MessageId, RetryPolicy, Store, Subscription, message};
use posthaste_testkit::explorer::{Client, Explorer, Scenario, Transport};
use tempfile::TempDir;

/// User and address of what is sent: fresh ones, repeats under other message ids, addresses that are taken.
const SENT: &[(u8, &str)] = &[
    (0, "a@example.com"),
    (1, "b@example.com"),
    (0, "a@example.com"),
    (2, "c@example.com"),
    (2, "c@example.com"),
    (3, "d@example.com"),
    (4, "d@example.com"),
];

struct SignUps {
    mail: TempDir,
}

fn message(body: String) -> Message {
    Message {
        id: MessageId::new(),
        source: "elsewhere".to_owned(),
        event_type: "user.onboarding.requested".to_owned(),
        topic: "user_onboarding_queue".to_owned(),
        key: None,
        subject: None,
        time: message::now(),
        content_type: "application/json".to_owned(),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        expires_at: None,
        ordered: false,
        headers: BTreeMap::new(),
        body: body.into_bytes(),
    }
}

impl Scenario for SignUps {
    fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
        match Mailer::into_files(self.mail.path()) {
            Ok(mailer) => accounts::subscriptions(mailer, RetryPolicy::default()),
            Err(_never) => Vec::new(),
        }
    }

    async fn feed(&self, client: Client) -> Result<()> {
        for (id, email) in SENT {
            let body = format!(
                r#"{{"user_id":"00000000-0000-4000-8000-0000000000{id:02}","email":"{email}","first_name":"A","last_name":"B",
                "password_hash":"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","requested_at":"2026-11-21T00:00:00Z"}}"#
            );
            client.publisher.publish(message(body)).await?;
        }
        client.publisher.publish(message("no sign-up".to_owned())).await?;
        Ok(())
    }

    async fn check(&self, store: Store) -> Result<()> {
        let sql = "SELECT topic, COUNT(*) AS number FROM outbox_messages GROUP BY topic ORDER BY topic";
        let mut told = BTreeMap::new();
        for row in store.query(sql, vec![]).await? {
            told.insert(row.get::<String>("topic")?, row.get::<i64>("number")?);
        }
        let wanted = [("user.registered", 4), ("user_mail_queue", 5)];
        let wanted = wanted.map(|(topic, number)| (topic.to_owned(), number));
        ensure!(told == BTreeMap::from(wanted), "{told:?}");
        let sql = "SELECT id FROM users WHERE onboarded_at IS NOT NULL AND verification_hash IS NOT NULL";
        let users = store.query(sql, vec![]).await?.len();
        ensure!(users == 4, "{users} users");
        Ok(())
    }
}

#[test]
fn every_address_is_one_user_who_is_told_once_wherever_the_process_dies() -> Result<()> {
    for transport in [Transport::Memory, Transport::Sql] {
        let mail = tempfile::tempdir()?;
        let explorer = Explorer::new("accounts", SignUps { mail });
        let explorer = explorer.migrations("accounts", accounts::service().migrations);
        let report = explorer.transport(transport).max_runs(60).run()?;
        report.assert_clean();
        ensure!(report.hits.contains_key("retrier.acted"), "no mail was sent: {report}");
    }
    Ok(())
}
