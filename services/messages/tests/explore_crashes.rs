//! The service's handler, crashed at every step.

use anyhow::{Result, ensure};
use contracts::{MessageSent, SentMessage};
use posthaste::{Message, MessageId, Store, Subscription, outbox};
use posthaste_testkit::explorer::{Client, Explorer, Scenario, Transport};
use uuid::Uuid;

const SENT: usize = 12;

struct Chat;

impl Scenario for Chat {
    fn subscriptions(&self, _client: &Client) -> Vec<Subscription> {
        vec![messages::stored("messages.explored")]
    }

    async fn feed(&self, client: Client) -> Result<()> {
        let mut tx = client.store.begin().await?;
        for n in 0..SENT {
            let id = MessageId::new();
            let sent = SentMessage {
                message_id: Uuid::now_v7(),
                content: format!("message {n}"),
                sender: format!("sender {}", n % 3),
                timestamp: posthaste::message::now(),
                metadata: None,
            };
            let mut message = Message::of(&MessageSent::new(id, sent, None, "messages"))?;
            message.id = id;
            outbox::append(&mut tx, "messages", message).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn check(&self, store: Store) -> Result<()> {
        let rows = store
            .query("SELECT sender, content FROM messages ORDER BY created_at, id", vec![])
            .await?;
        ensure!(rows.len() == SENT, "{} rows", rows.len());
        Ok(())
    }
}

#[test]
fn every_message_is_one_row_wherever_the_process_dies() -> Result<()> {
    for transport in [Transport::Memory, Transport::Sql] {
        let explorer = Explorer::new("messages", Chat).migrations("messages", messages::service().migrations);
        explorer.transport(transport).max_runs(60).run()?.assert_clean();
    }
    Ok(())
}
