use posthaste::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::amount::Amount;
use crate::object::object_only;
use crate::text::{BrokenRule, check_items, check_line};

/// Somebody wants something: an order to process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct OrderCreated {
    /// Which order, 1–255 characters.
    pub order_id: String,
    /// Whose order, 1–255 characters, as the producer names users.
    pub user_id: String,
    /// What it costs.
    pub total_amount: Amount,
    /// The producer's name for this order; what comes again under it is the same order. 1–255 characters.
    pub idempotency_key: String,
    /// What was ordered: any array, as its JSON text.
    pub items: Box<RawValue>,
}

object_only!(OrderCreated);

impl OrderCreated {
    /// Most characters of the ids, the user and the key.
    pub const CHARACTERS: usize = 255;

    /// The rule of the ids, the user and the key.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check_name(name: &str) -> Result<(), BrokenRule> {
        check_line(name, Self::CHARACTERS)
    }

    /// The rule of the items.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check_items(items: &RawValue) -> Result<(), BrokenRule> {
        match serde_json::from_str::<Value>(items.get()) {
            Ok(Value::Array(items)) => check_items(&items),
            Ok(_) => Err(BrokenRule::new("must be an array")),
            Err(_) => Err(BrokenRule::new("must be an array of values that JSON readers take")),
        }
    }
}

impl Event for OrderCreated {
    const TYPE: &'static str = "OrderCreated";
    const TOPIC: &'static str = "order_created_queue";
    const AGGREGATE: Option<&'static str> = Some("Order");

    fn key(&self) -> Option<String> {
        Some(self.order_id.clone())
    }

    /// An order that breaks a rule must not use the key up: it comes again corrected.
    fn dedup_key(&self) -> Option<String> {
        self.validate().ok().map(|()| self.idempotency_key.clone())
    }

    fn validate(&self) -> Result<(), String> {
        for (member, name) in [
            ("orderId", &self.order_id),
            ("userId", &self.user_id),
            ("idempotencyKey", &self.idempotency_key),
        ] {
            Self::check_name(name).map_err(|rule| rule.of(member))?;
        }
        Self::check_items(&self.items).map_err(|rule| rule.of("items"))
    }
}

#[cfg(test)]
mod tests {
    use posthaste::Message;
    use serde_json::json;

    use super::*;

    const SAMPLE: &str = r#"{"orderId":"order-101","userId":"user-456","totalAmount":99.99,"idempotencyKey":"unique-key-001","items":[]}"#;

    fn with(member: &str, value: Option<Value>) -> Result<OrderCreated, String> {
        let mut body: Value = serde_json::from_str(SAMPLE).map_err(|error| error.to_string())?;
        match value {
            Some(value) => body[member] = value,
            None => drop(body.as_object_mut().map(|object| object.remove(member))),
        }
        let event: OrderCreated = serde_json::from_str(&body.to_string()).map_err(|error| error.to_string())?;
        event.validate().map(|()| event)
    }

    #[test]
    fn the_sample_comes_back_as_it_went() {
        let event: OrderCreated = serde_json::from_str(SAMPLE).expect("decodes");
        assert_eq!(event.validate(), Ok(()));
        assert_eq!(serde_json::to_string(&event).expect("JSON"), SAMPLE);
        let message = Message::of(&event).expect("JSON");
        assert_eq!(message.subject.as_deref(), Some("Order/order-101"));
    }

    #[test]
    fn items_keep_every_character() {
        let body = SAMPLE.replace("[]", r#"[{"z":1.10,"a":[12345678901234567890.123456789, null]}, "x"]"#);
        let event: OrderCreated = serde_json::from_str(&body).expect("decodes");
        assert_eq!(event.validate(), Ok(()));
        assert_eq!(serde_json::to_string(&event).expect("JSON"), body);
    }

    #[test]
    fn all_five_members_have_to_be_there_and_right() {
        for member in ["orderId", "userId", "totalAmount", "idempotencyKey", "items"] {
            assert!(with(member, None).is_err(), "without {member}");
            assert!(with(member, Some(Value::Null)).is_err(), "null {member}");
        }
        for member in ["orderId", "userId", "idempotencyKey"] {
            assert!(with(member, Some(json!("é".repeat(255)))).is_ok());
            for bad in [
                json!(""),
                json!("é".repeat(256)),
                json!(7),
                json!("a\0b"),
                json!("a\nb"),
            ] {
                assert!(with(member, Some(bad.clone())).is_err(), "{member} {bad}");
            }
        }
        for bad in [json!({}), json!("[]"), json!(["a\0"]), json!([{"\u{1}": 1}])] {
            assert!(with("items", Some(bad.clone())).is_err(), "items {bad}");
        }
        for bad in [json!("1.005"), json!(0), json!(-1), json!(100_000_000), json!([])] {
            assert!(with("totalAmount", Some(bad.clone())).is_err(), "totalAmount {bad}");
        }
    }

    #[test]
    fn an_order_that_breaks_a_rule_leaves_its_key_to_the_corrected_one() {
        let good: OrderCreated = serde_json::from_str(SAMPLE).expect("decodes");
        assert_eq!(good.dedup_key().as_deref(), Some("unique-key-001"));
        let mut bad = good;
        bad.user_id.clear();
        assert_eq!(bad.dedup_key(), None);
    }
}
