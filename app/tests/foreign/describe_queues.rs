//! The queues that others may put something on, and what a body on each looks like.

use anyhow::{Context, Result};
use posthaste::store::Row;
use uuid::Uuid;

/// The time in the bodies of [`QUEUES`].
pub const TIME: &str = "2026-11-21T10:30:00+02:00";

/// A queue that a service reads, and where its messages end.
pub struct Queue {
    pub topic: &'static str,
    pub subscription: &'static str,
    /// Where dead letters are copied to.
    pub copies: Option<&'static str>,
    /// The members that have to be there.
    pub members: &'static [&'static str],
    /// The body named `name` with `free` where the contract takes anything.
    body: fn(&str, &str) -> String,
    /// Any JSON value as what the contract takes there; `None`: it takes nothing but its members.
    pub free: Option<fn(&str) -> String>,
    rows: &'static str,
    name_in: fn(&Row) -> Result<String>,
}

impl Queue {
    /// A body that keeps to the contract.
    pub fn good(&self, name: &str) -> String {
        self.with(name, "1")
    }

    /// The same with `value` where the contract takes anything.
    pub fn with(&self, name: &str, value: &str) -> String {
        let free = self.free.map(|free| free(value)).unwrap_or_default();
        (self.body)(name, &free)
    }

    /// A body with `free` itself in that place.
    pub fn with_instead(&self, name: &str, free: &str) -> String {
        (self.body)(name, free)
    }

    /// Whose rows they are, once for each row.
    pub async fn names(&self, store: &posthaste::Store) -> Result<Vec<String>> {
        let rows = store.query(self.rows, vec![]).await?;
        rows.iter().map(self.name_in).collect()
    }
}

fn own(row: &Row) -> Result<String> {
    Ok(row.get("name")?)
}

fn in_sentence(row: &Row) -> Result<String> {
    let sentence: String = row.get("name")?;
    let name = sentence.split(' ').nth(1).context("no name in the sentence")?;
    Ok(name.to_owned())
}

/// All of them.
pub const QUEUES: [Queue; 6] = [
    Queue {
        topic: "order_created_queue",
        subscription: "orders.process_order",
        copies: Some("order_dlq"),
        members: &["orderId", "userId", "totalAmount", "idempotencyKey", "items"],
        body: |name, free| {
            format!(
                r#"{{"orderId":"{name}","userId":"user-456","totalAmount":99.99,"idempotencyKey":"{name}","items":{free}}}"#
            )
        },
        free: Some(|value| format!("[{value}]")),
        rows: "SELECT order_id AS name FROM orders",
        name_in: own,
    },
    Queue {
        topic: "notification_events",
        subscription: "notifications.record_event",
        copies: None,
        members: &["user_id", "event_type", "message"],
        body: |name, free| {
            let user = Uuid::nil();
            format!(r#"{{"user_id":"{user}","event_type":"by hand","message":"{name}","payload":{free}}}"#)
        },
        free: Some(|value| format!(r#"{{"a":{value}}}"#)),
        rows: "SELECT message AS name FROM processed_events WHERE event_type = 'by hand'",
        name_in: own,
    },
    Queue {
        topic: "user.registered",
        subscription: "notifications.record.user.registered",
        copies: None,
        members: &["user_id"],
        body: |name, _free| format!(r#"{{"user_id":"{name}","email":"ann@example.com"}}"#),
        free: None,
        rows: "SELECT user_id AS name FROM processed_events WHERE event_type = 'user.registered'",
        name_in: |row| Ok(row.uuid("name")?.to_string()),
    },
    Queue {
        topic: "order.processed",
        subscription: "notifications.record.order.processed",
        copies: None,
        members: &["orderId", "status", "processingTimestamp"],
        body: |name, _free| format!(r#"{{"orderId":"{name}","status":"BY HAND","processingTimestamp":"{TIME}"}}"#),
        free: None,
        // What orders itself tells is there, too.
        rows: "SELECT message AS name FROM processed_events WHERE event_type = 'order.processed' AND user_id = '00000000-0000-0000-0000-000000000000'",
        name_in: in_sentence,
    },
    Queue {
        topic: "order.failed",
        subscription: "notifications.record.order.failed",
        copies: None,
        members: &["orderId", "reason", "errorDetails"],
        body: |name, free| format!(r#"{{"orderId":"{name}","reason":"BY_HAND","errorDetails":{free}}}"#),
        free: Some(|value| format!("[{value}]")),
        rows: "SELECT message AS name FROM processed_events WHERE event_type = 'order.failed' AND message LIKE '%BY_HAND'",
        name_in: in_sentence,
    },
    Queue {
        topic: "integration-events.message_sent",
        subscription: "user-management-api-group",
        copies: Some("integration-events.message_sent.dlq"),
        members: &["event_id", "event_type", "occurred_at", "payload"],
        body: |name, free| {
            let id = Uuid::new_v5(&Uuid::nil(), name.as_bytes());
            format!(
                r#"{{"event_id":"{name}","event_type":"MessageSentIntegrationEvent","occurred_at":"{TIME}","payload":{{"message_id":"{id}","content":"{name}","sender":"ann","timestamp":"{TIME}","metadata":{free}}}}}"#
            )
        },
        free: Some(|value| format!(r#"{{"a":{value}}}"#)),
        rows: "SELECT content AS name FROM messages",
        name_in: own,
    },
];
