//! From the queue into the table: a whole batch in one statement.

use contracts::NotificationRequested;
use posthaste::{Cx, HandleBatch, Handled, Received};

use crate::processed_events_repository::{self, NewEvent};

pub(crate) struct RecordEvent;

impl HandleBatch<NotificationRequested> for RecordEvent {
    async fn handle_batch(&self, events: Vec<Received<NotificationRequested>>, cx: &mut Cx<'_>) -> Handled {
        let rows = events.into_iter().map(|Received { event, message }| NewEvent {
            id: message.id.0,
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
