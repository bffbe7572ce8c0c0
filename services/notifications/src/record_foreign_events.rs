//! Events of the other services, recorded as events of the user they are about, so that one sign-up
//! is visible from end to end.

use contracts::{
    Details, OrderFailed, OrderProcessed, USER_ID_HEADER, UserCreated, UserDeleted, UserRegistered, UserUpdated,
};
use posthaste::{Cx, Event, HandleBatch, Handled, Message, Received};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::processed_events_repository::{self, NewEvent};

/// An event of another service that says whom it is about and what to tell.
pub(crate) trait Recorded: Event {
    /// Whom `message` is about.
    fn user(&self, message: &Message) -> Uuid;
    /// One sentence.
    fn sentence(&self) -> String;
    /// Whether what was told of the user before is to be forgotten.
    const FORGETS: bool = false;
}

/// The namespace of users that other services name by no UUID.
const USERS: Uuid = Uuid::from_u128(0x2b0d_7c3e_94f1_4d52_8a3c_51e9_0f6d_b7a4);

/// The user of an order. Orders name users as they like: a UUID is taken as it is, another name maps
/// to one UUID of its own, and without any the nil UUID collects what is nobody's.
fn user_of_order(message: &Message) -> Uuid {
    match message.headers.get(USER_ID_HEADER) {
        Some(name) => name.parse().unwrap_or_else(|_| Uuid::new_v5(&USERS, name.as_bytes())),
        None => Uuid::nil(),
    }
}

impl Recorded for UserRegistered {
    fn user(&self, _message: &Message) -> Uuid {
        self.user_id
    }

    fn sentence(&self) -> String {
        "User registered".to_owned()
    }
}

impl Recorded for UserCreated {
    fn user(&self, _message: &Message) -> Uuid {
        self.user_id
    }

    fn sentence(&self) -> String {
        "User created".to_owned()
    }
}

impl Recorded for UserUpdated {
    fn user(&self, _message: &Message) -> Uuid {
        self.user_id
    }

    fn sentence(&self) -> String {
        "User updated".to_owned()
    }
}

impl Recorded for UserDeleted {
    const FORGETS: bool = true;

    fn user(&self, _message: &Message) -> Uuid {
        self.user_id
    }

    fn sentence(&self) -> String {
        "User deleted".to_owned()
    }
}

impl Recorded for OrderProcessed {
    fn user(&self, message: &Message) -> Uuid {
        user_of_order(message)
    }

    fn sentence(&self) -> String {
        format!("Order {} processed", self.order_id)
    }
}

impl Recorded for OrderFailed {
    fn user(&self, message: &Message) -> Uuid {
        user_of_order(message)
    }

    fn sentence(&self) -> String {
        format!("Order {} failed: {}", self.order_id, self.reason)
    }
}

/// The body is kept as the payload, with the order's own name for the user where there is one.
fn payload<E: Recorded>(event: &E, message: &Message) -> Result<Details, serde_json::Error> {
    let mut payload: Map<String, Value> = serde_json::from_value(serde_json::to_value(event)?)?;
    if let Some(name) = message.headers.get(USER_ID_HEADER) {
        // Text from a header is not yet known to fit into a JSON column.
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        payload.insert("userId".to_owned(), Value::String(name));
    }
    Details::try_from(&payload)
}

pub(crate) struct RecordForeignEvents;

impl<E: Recorded> HandleBatch<E> for RecordForeignEvents {
    async fn handle_batch(&self, events: Vec<Received<E>>, cx: &mut Cx<'_>) -> Handled {
        let mut rows = Vec::with_capacity(events.len());
        for Received { event, message } in events {
            rows.push(NewEvent {
                id: message.id.in_table(&message.topic),
                user_id: event.user(&message),
                event_type: E::TOPIC.to_owned(),
                message: event.sentence(),
                payload: Some(payload(&event, &message)?),
                created_at: message.time,
            });
        }
        if E::FORGETS {
            let gone = rows.iter().map(|row| row.user_id).collect();
            processed_events_repository::forget_details(cx.tx(), gone).await?;
        }
        processed_events_repository::insert(cx.tx(), rows).await?;
        Ok(())
    }
}
