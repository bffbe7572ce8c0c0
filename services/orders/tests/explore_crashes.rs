//! The service's handler, crashed at every step.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use orders::Queues;
use posthaste::{Message, MessageId, Store, Subscription, message};
use posthaste_testkit::explorer::{Client, Explorer, Scenario, Transport};

/// Key and order id of what is sent: fresh ones, repeats under other message ids, used order ids.
const SENT: &[(&str, &str)] = &[
    ("k0", "o0"),
    ("k1", "o1"),
    ("k0", "o0"),
    ("k2", "o0"),
    ("k3", "o3"),
    ("k2", "o0"),
    ("k1", "o9"),
    ("k4", "o4"),
];

struct Intake;

fn queues() -> Queues {
    Queues {
        incoming: "in".to_owned(),
        processed: "processed".to_owned(),
        failed: "failed".to_owned(),
        dead: "dead".to_owned(),
    }
}

fn message(body: Vec<u8>) -> Message {
    Message {
        id: MessageId::new(),
        source: "elsewhere".to_owned(),
        event_type: "OrderCreated".to_owned(),
        topic: "in".to_owned(),
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
        body,
    }
}

impl Scenario for Intake {
    fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
        vec![orders::processing(&queues())]
    }

    async fn feed(&self, client: Client) -> Result<()> {
        for (key, id) in SENT {
            let body = format!(
                r#"{{"orderId":"{id}","userId":"u","totalAmount":"10.50","idempotencyKey":"{key}","items":[]}}"#
            );
            client.publisher.publish(message(body.into_bytes())).await?;
        }
        client.publisher.publish(message(b"no order".to_vec())).await?;
        Ok(())
    }

    async fn check(&self, store: Store) -> Result<()> {
        let sql =
            "SELECT topic, COUNT(*) AS number FROM outbox_messages WHERE topic <> 'in' GROUP BY topic ORDER BY topic";
        let mut told = BTreeMap::new();
        for row in store.query(sql, vec![]).await? {
            told.insert(row.get::<String>("topic")?, row.get::<i64>("number")?);
        }
        let rows = store.query("SELECT order_id FROM orders", vec![]).await?;
        // Whichever of k1's two orders came first.
        ensure!(rows.len() == 4, "{} orders", rows.len());
        let wanted = [
            ("dead", 1),
            ("failed", 2),
            ("order.failed", 2),
            ("order.processed", 4),
            ("processed", 4),
        ];
        let wanted = wanted.map(|(topic, number)| (topic.to_owned(), number));
        ensure!(told == BTreeMap::from(wanted), "{told:?}");
        Ok(())
    }
}

#[test]
fn every_order_has_one_row_and_one_outcome_wherever_the_process_dies() -> Result<()> {
    for transport in [Transport::Memory, Transport::Sql] {
        let explorer = Explorer::new("orders", Intake).migrations("orders", orders::service().migrations);
        explorer.transport(transport).max_runs(60).run()?.assert_clean();
    }
    Ok(())
}
