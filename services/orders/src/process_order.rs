//! From the queue into the table, and the outcome into the outbox: a whole batch in one transaction.

use std::sync::Arc;

use contracts::{OrderCreated, OrderFailed, OrderProcessed};
use posthaste::handle::OnDead;
use posthaste::message::now;
use posthaste::{Cx, Event, HandleBatch, Handled, Message, Received};
use serde_json::Value;

use crate::Queues;
use crate::order::{Outcome, Reason, Status, outcome};
use crate::orders_repository;

pub(crate) struct ProcessOrder {
    pub queues: Queues,
}

impl HandleBatch<OrderCreated> for ProcessOrder {
    async fn handle_batch(&self, orders: Vec<Received<OrderCreated>>, cx: &mut Cx<'_>) -> Handled {
        let claimed = orders_repository::claim_keys(cx.tx(), &orders).await?;
        let (new, repeats): (Vec<_>, Vec<_>) = orders
            .iter()
            .partition(|received| claimed.contains(&received.message.id.0));
        let holders = orders_repository::insert(cx.tx(), &new).await?;
        for Received { event: order, message } in new {
            let holder = holders.get(&order.order_id).map(String::as_str);
            let told = match outcome(order, holder) {
                Outcome::Processed => both(&processed(order), &self.queues.processed)?,
                Outcome::Refused(reason) => {
                    let details = "there is another order with this orderId and another idempotencyKey";
                    both(&refused(order, reason, details), &self.queues.failed)?
                }
                Outcome::Known => continue,
            };
            for one in told {
                cx.send_for(message, one)?;
            }
        }
        // A repeat says nothing new, but another user's order would be lost without a word.
        let owners = orders_repository::owners(cx.tx(), &repeats).await?;
        for Received { event: order, message } in repeats {
            let owner = owners.get(&order.idempotency_key);
            if owner.is_none_or(|owner| *owner == order.user_id) {
                continue;
            }
            let details = "the order with this idempotencyKey is another user's";
            for one in both(&refused(order, Reason::OrderIdConflict, details), &self.queues.failed)? {
                cx.send_for(message, one)?;
            }
        }
        Ok(())
    }
}

/// `event` on `queue` for the outside world, and on its own topic for the services of this system: a queue
/// has one reader.
fn both<E: Event>(event: &E, queue: &str) -> Result<Vec<Message>, serde_json::Error> {
    let own = Message::of(event)?;
    let mut outside = own.clone();
    outside.topic = queue.to_owned();
    Ok(if queue == E::TOPIC {
        vec![outside]
    } else {
        vec![outside, own]
    })
}

fn processed(order: &OrderCreated) -> OrderProcessed {
    OrderProcessed {
        order_id: order.order_id.clone(),
        status: Status::Processed.to_string(),
        processing_timestamp: now(),
        user_id: Some(order.user_id.clone()),
    }
}

fn refused(order: &OrderCreated, reason: Reason, details: &str) -> OrderFailed {
    failed(&order.order_id, reason, details, Some(&order.user_id))
}

fn failed(order_id: &str, reason: Reason, details: &str, user_id: Option<&str>) -> OrderFailed {
    OrderFailed {
        order_id: order_id.to_owned(),
        reason: reason.to_string(),
        error_details: Some(Value::from(details)),
        user_id: user_id.map(str::to_owned),
    }
}

/// Tells of messages that were given up: those that are no order, and those whose order could not be stored.
pub(crate) fn tell_failure(queues: &Queues) -> OnDead {
    let queue = queues.failed.clone();
    Arc::new(move |message, cause| both(&failure_of(&message.body, cause), &queue))
}

fn failure_of(body: &[u8], cause: &str) -> OrderFailed {
    let order = serde_json::from_slice::<OrderCreated>(body).ok();
    if let Some(order) = order.filter(|order| order.validate().is_ok()) {
        // The cause may hold a database's text; the dead letter has it.
        let details = "the order could not be processed; its message is kept";
        return failed(&order.order_id, Reason::ProcessingError, details, Some(&order.user_id));
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = |member: &str| {
        let text = body.get(member).and_then(Value::as_str);
        text.filter(|text| OrderCreated::check_name(text).is_ok())
    };
    let details: String = cause.chars().filter(|c| !c.is_control()).take(1000).collect();
    let order_id = name("orderId").unwrap_or("UNKNOWN");
    failed(order_id, Reason::ValidationError, &details, name("userId"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> (String, String, Option<String>) {
        let failure = failure_of(body.as_bytes(), "the cause\0");
        assert_eq!(failure.validate(), Ok(()));
        (failure.order_id, failure.reason, failure.user_id)
    }

    #[test]
    fn a_failure_names_what_can_be_read() {
        let unknown = || ("UNKNOWN".to_owned(), "VALIDATION_ERROR".to_owned(), None);
        for body in [
            "",
            "no JSON",
            "[1]",
            "{}",
            r#"{"orderId":7}"#,
            r#"{"orderId":"a\nb"}"#,
            r#"{"orderId":""}"#,
        ] {
            assert_eq!(told(body), unknown(), "{body}");
        }
        let named = told(r#"{"orderId":"order-1","userId":"user-1","totalAmount":-1}"#);
        assert_eq!(named.0, "order-1");
        assert_eq!(named.1, "VALIDATION_ERROR");
        assert_eq!(named.2.as_deref(), Some("user-1"));
    }

    #[test]
    fn a_good_order_that_was_given_up_is_no_validation_error() {
        let body = r#"{"orderId":"o","userId":"u","totalAmount":1,"idempotencyKey":"k","items":[]}"#;
        assert_eq!(told(body).1, "PROCESSING_ERROR");
    }

    #[test]
    fn outcomes_go_outside_and_to_their_own_topic_but_never_twice_to_one() {
        let event = failed("o", Reason::ValidationError, "d", None);
        let topics = |queue: &str| -> Vec<String> {
            let messages = both(&event, queue).expect("JSON");
            messages.into_iter().map(|message| message.topic).collect()
        };
        assert_eq!(topics("order_failed_queue"), ["order_failed_queue", "order.failed"]);
        assert_eq!(topics("order.failed"), ["order.failed"]);
    }
}
