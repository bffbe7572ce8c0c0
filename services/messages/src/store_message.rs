//! From the topic into the table: a whole batch in one statement, in the order the messages came.

use contracts::MessageSent;
use posthaste::{Cx, HandleBatch, Handled, Received};

use crate::messages_repository;

pub(crate) struct StoreMessage;

impl HandleBatch<MessageSent> for StoreMessage {
    async fn handle_batch(&self, events: Vec<Received<MessageSent>>, cx: &mut Cx<'_>) -> Handled {
        let messages = events.into_iter().map(|received| received.event.payload).collect();
        messages_repository::insert(cx.tx(), messages).await?;
        Ok(())
    }
}
