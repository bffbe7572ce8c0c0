//! How an order ended. The bodies are the ones of the outside world and name no user; the user
//! travels in the header [`USER_ID_HEADER`], as the order named it. The topics are those of this
//! system; a copy for the outside world goes to the queues that orders is configured with.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use posthaste::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::object::{nullable, object_only};
use crate::text::{check_json, check_line, check_text};
use crate::time::any_zone;

/// The header with the order's `userId`.
pub const USER_ID_HEADER: &str = "user_id";

/// An order was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct OrderProcessed {
    /// Which order.
    pub order_id: String,
    /// Always `PROCESSED`.
    pub status: String,
    /// When it was processed.
    #[serde(deserialize_with = "any_zone")]
    pub processing_timestamp: DateTime<Utc>,
    /// Whose order; a header, no member of the body. Unset after decoding.
    #[serde(skip)]
    pub user_id: Option<String>,
}

object_only!(OrderProcessed);

/// An order was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct OrderFailed {
    /// Which order, or `UNKNOWN`.
    pub order_id: String,
    /// `VALIDATION_ERROR`, `ORDER_ID_CONFLICT` or `PROCESSING_ERROR`.
    pub reason: String,
    /// What exactly, in any JSON.
    #[serde(deserialize_with = "nullable")]
    pub error_details: Option<Value>,
    /// Whose order; a header, no member of the body. Unset after decoding.
    #[serde(skip)]
    pub user_id: Option<String>,
}

object_only!(OrderFailed);

fn put_user(user_id: Option<&String>, headers: &mut BTreeMap<String, String>) {
    if let Some(id) = user_id {
        headers.insert(USER_ID_HEADER.to_owned(), id.clone());
    }
}

impl Event for OrderProcessed {
    const TYPE: &'static str = "OrderProcessed";
    const TOPIC: &'static str = "order.processed";
    const AGGREGATE: Option<&'static str> = Some("Order");

    fn key(&self) -> Option<String> {
        Some(self.order_id.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_line(&self.order_id, 255).map_err(|rule| rule.of("orderId"))?;
        check_line(&self.status, 50).map_err(|rule| rule.of("status"))
    }

    fn headers(&self, headers: &mut BTreeMap<String, String>) {
        put_user(self.user_id.as_ref(), headers);
    }
}

impl Event for OrderFailed {
    const TYPE: &'static str = "OrderFailed";
    const TOPIC: &'static str = "order.failed";
    const AGGREGATE: Option<&'static str> = Some("Order");

    fn key(&self) -> Option<String> {
        Some(self.order_id.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_line(&self.order_id, 255).map_err(|rule| rule.of("orderId"))?;
        check_line(&self.reason, 100).map_err(|rule| rule.of("reason"))?;
        let checked = match &self.error_details {
            Some(Value::String(text)) if !text.is_empty() => check_text(text, 32_768),
            Some(details) => check_json(&[("errorDetails".to_owned(), details.clone())].into_iter().collect()),
            None => Ok(()),
        };
        checked.map_err(|rule| rule.of("errorDetails"))
    }

    fn headers(&self, headers: &mut BTreeMap<String, String>) {
        put_user(self.user_id.as_ref(), headers);
    }
}

#[cfg(test)]
mod tests {
    use posthaste::message::Message;
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_those_of_the_outside_world_and_the_user_is_a_header() {
        let failed = OrderFailed {
            order_id: "order-101".to_owned(),
            reason: "VALIDATION_ERROR".to_owned(),
            error_details: Some(json!("totalAmount must be positive")),
            user_id: Some("user-456".to_owned()),
        };
        let message = Message::of(&failed).expect("JSON");
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        let expected = json!({"orderId": "order-101", "reason": "VALIDATION_ERROR", "errorDetails": "totalAmount must be positive"});
        assert_eq!(body, expected);
        assert_eq!(message.headers["user_id"], "user-456");

        let processed: OrderProcessed = serde_json::from_value(
            json!({"orderId": "order-101", "status": "PROCESSED", "processingTimestamp": "2026-11-21T10:00:00Z"}),
        )
        .expect("decodes");
        assert_eq!(processed.validate(), Ok(()));
        assert_eq!(processed.user_id, None);
    }
}
