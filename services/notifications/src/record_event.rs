//! From the queue into the table: a whole batch in one statement.

use contracts::NotificationRequested;
use posthaste::{Cx, HandleBatch, Handled, Message, Received};
use uuid::Uuid;

use crate::processed_events_repository::{self, NewEvent};

pub(crate) struct RecordEvent;

/// An event of this service's own route is found under the id that the client got. The identity of others' is theirs on
/// this queue only, and the table holds the events of several.
fn row_id(message: &Message) -> Uuid {
    if message.source == crate::NAME {
        message.id.0
    } else {
        message.id.in_table(&message.topic)
    }
}

impl HandleBatch<NotificationRequested> for RecordEvent {
    async fn handle_batch(&self, events: Vec<Received<NotificationRequested>>, cx: &mut Cx<'_>) -> Handled {
        let rows = events.into_iter().map(|Received { event, message }| NewEvent {
            id: row_id(&message),
            user_id: event.user_id,
            event_type: event.event_type,
            message: event.message,
            payload: event.payload,
            created_at: message.time,
        });
        processed_events_repository::insert(cx.tx(), rows.collect()).await?;
        Ok(())
    }
}
