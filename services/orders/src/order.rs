//! What an order is, and the rules that need no database.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use contracts::{Amount, OrderCreated};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

/// How far an order has come. Only processed ones have a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Status {
    /// Taken, not processed yet.
    Pending,
    /// Stored, its outcome published.
    Processed,
    /// Refused.
    Failed,
}

impl Status {
    const ALL: [Self; 3] = [Self::Pending, Self::Processed, Self::Failed];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Processed => "PROCESSED",
            Self::Failed => "FAILED",
        })
    }
}

impl FromStr for Status {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let found = Self::ALL.into_iter().find(|status| status.to_string() == text);
        found.ok_or("must be PENDING, PROCESSED or FAILED")
    }
}

/// An order as it is stored and answered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    /// Which order.
    #[schema(example = "order-101")]
    pub order_id: String,
    /// Whose order.
    #[schema(example = "user-456")]
    pub user_id: String,
    /// What it costs, with its exact digits.
    #[schema(value_type = f64, example = 99.99)]
    pub total_amount: Amount,
    /// What was ordered.
    #[schema(value_type = Vec<serde_json::Value>, example = json!([]))]
    pub items: Box<RawValue>,
    /// `PROCESSED`.
    #[schema(example = "PROCESSED")]
    pub status: String,
    /// The client's name for it.
    #[schema(example = "unique-key-001")]
    pub idempotency_key: String,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Why it failed.
    pub failure_reason: Option<String>,
}

/// Why an order failed, as `order_failed_queue` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The message breaks the contract.
    ValidationError,
    /// The order id belongs to an order with another key, or the key to an order of another user.
    OrderIdConflict,
    /// The message was given up.
    ProcessingError,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ValidationError => "VALIDATION_ERROR",
            Self::OrderIdConflict => "ORDER_ID_CONFLICT",
            Self::ProcessingError => "PROCESSING_ERROR",
        })
    }
}

/// What became of an order whose key nobody had used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has its row.
    Processed,
    /// Its id is another order's, which stays as it is.
    Refused(Reason),
    /// Its key has a row that nobody claimed it for, for example one put in by hand: nothing is told.
    Known,
}

/// The outcome of `order` after its row was inserted unless the id or the key existed; `holder` is the key of
/// the row with its id.
pub(crate) fn outcome(order: &OrderCreated, holder: Option<&str>) -> Outcome {
    match holder {
        Some(key) if key == order.idempotency_key => Outcome::Processed,
        Some(_other) => Outcome::Refused(Reason::OrderIdConflict),
        None => Outcome::Known,
    }
}

/// An order id and the idempotency key that it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub order_id: String,
    pub idempotency_key: String,
}

/// A pair that was used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub pair: Pair,
    /// Whose order it is; `None` where there is only the key.
    pub user_id: Option<String>,
}

/// Why `new` of the user `user_id` cannot be taken beside the `known` pairs; a repeat of the user's own can.
pub(crate) fn refusal(new: &Pair, user_id: &str, known: &[Known]) -> Option<&'static str> {
    known.iter().find_map(|known| {
        let same_id = known.pair.order_id == new.order_id;
        let same_key = known.pair.idempotency_key == new.idempotency_key;
        let anothers = known.user_id.as_ref().is_some_and(|owner| owner != user_id);
        match (same_id, same_key) {
            (true, false) => Some("There is another order with this orderId."),
            (false, true) => Some("This idempotencyKey belongs to another order."),
            (true, true) if anothers => Some("The order with this orderId and idempotencyKey is another user's."),
            (true, true) | (false, false) => None,
        }
    })
}

const ORDERS: Uuid = Uuid::from_u128(0x8d1c_4a90_7e25_4f3b_b6c8_19d2_e05f_73a6);

/// The id of an order that came without one. It follows from the key, so that every repeat names the same
/// order even where nothing remembers the first request.
pub(crate) fn id_for_key(key: &str) -> String {
    Uuid::new_v5(&ORDERS, key.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order_id: &str, key: &str) -> OrderCreated {
        let items = RawValue::from_string("[]".to_owned()).expect("JSON");
        OrderCreated {
            order_id: order_id.to_owned(),
            user_id: "user-456".to_owned(),
            total_amount: Amount::MAX,
            idempotency_key: key.to_owned(),
            items,
        }
    }

    fn pair(order_id: &str, key: &str) -> Pair {
        Pair {
            order_id: order_id.to_owned(),
            idempotency_key: key.to_owned(),
        }
    }

    #[test]
    fn the_row_with_the_id_tells_who_came_first() {
        assert_eq!(outcome(&order("a", "1"), Some("1")), Outcome::Processed);
        assert_eq!(
            outcome(&order("a", "1"), Some("2")),
            Outcome::Refused(Reason::OrderIdConflict)
        );
        assert_eq!(outcome(&order("a", "1"), None), Outcome::Known);
    }

    #[test]
    fn an_id_and_a_key_belong_together_for_ever() {
        let known = [pair("a", "1"), pair("b", "2")].map(|pair| Known { pair, user_id: None });
        let refusal = |new: Pair| refusal(&new, "user-456", &known);
        assert_eq!(refusal(pair("a", "1")), None, "a repeat");
        assert_eq!(refusal(pair("c", "3")), None);
        assert!(refusal(pair("a", "3")).is_some_and(|text| text.contains("orderId")));
        assert!(refusal(pair("c", "2")).is_some_and(|text| text.contains("idempotencyKey")));
        assert!(refusal(pair("a", "2")).is_some(), "each of another order");
    }

    #[test]
    fn a_repeat_of_another_users_order_is_refused() {
        let known = [Known {
            pair: pair("a", "1"),
            user_id: Some("user-456".to_owned()),
        }];
        assert_eq!(refusal(&pair("a", "1"), "user-456", &known), None);
        assert!(refusal(&pair("a", "1"), "user-7", &known).is_some_and(|text| text.contains("another user")));
    }

    #[test]
    fn a_repeat_without_an_id_names_the_same_order() {
        assert_eq!(id_for_key("k"), id_for_key("k"));
        assert_ne!(id_for_key("k"), id_for_key("K"));
    }

    #[test]
    fn statuses_are_read_as_they_are_written() {
        for status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert!("processed".parse::<Status>().is_err());
    }
}
