//! The service's handlers, crashed at every step.

use anyhow::{Result, ensure};
use contracts::NotificationRequested;
use posthaste::{Message, Store, Subscription};
use posthaste_testkit::explorer::{Client, Explorer, Scenario, Transport};
use uuid::Uuid;

const EVENTS: usize = 12;

struct Intake;

impl Scenario for Intake {
    fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
        notifications::subscriptions()
    }

    async fn feed(&self, client: Client) -> Result<()> {
        for n in 0..EVENTS {
            let event = NotificationRequested {
                user_id: Uuid::nil(),
                event_type: "explored".to_owned(),
                message: format!("event {n}"),
                payload: None,
            };
            client.publisher.publish(Message::of(&event)?).await?;
        }
        Ok(())
    }

    async fn check(&self, store: Store) -> Result<()> {
        let rows = store.query("SELECT message FROM processed_events", vec![]).await?;
        ensure!(rows.len() == EVENTS, "{} rows", rows.len());
        Ok(())
    }
}

#[test]
fn every_event_is_one_row_wherever_the_process_dies() -> Result<()> {
    for transport in [Transport::Memory, Transport::Sql] {
        let explorer =
            Explorer::new("notifications", Intake).migrations("notifications", notifications::service().migrations);
        explorer.transport(transport).max_runs(60).run()?.assert_clean();
    }
    Ok(())
}
