//! What a service and its neighbours agree on: the shape of an event.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A typed event; its JSON is the body on the wire.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// CloudEvents `type`.
    const TYPE: &'static str;

    /// The queue or topic it is published to unless the caller names another.
    const TOPIC: &'static str;

    /// Whether consumers may ask for order per key. A transport whose queues have no partitions of their own
    /// (RabbitMQ) then spreads the keys over partition queues; a foreign client reads those instead of one queue.
    const ORDERED: bool = false;

    /// What its key identifies, for example `Order`. The message's CloudEvents `subject` is then `Order/KEY`, and the
    /// outbox row shows both parts as `aggregate_type` and `aggregate_id`.
    const AGGREGATE: Option<&'static str> = None;

    /// Messages of one key keep their order; `None` where order means nothing.
    fn key(&self) -> Option<String> {
        None
    }

    /// The producer's own id inside the body. It identifies a message that came without CloudEvents `source` and `id`, for
    /// example one typed into a broker's own UI; it goes before an id of the transport's alone.
    fn dedup_key(&self) -> Option<String> {
        None
    }

    /// Rules that the types do not say. A message that breaks one goes to the dead letters at once.
    ///
    /// # Errors
    /// The broken rule, for the dead letter's cause.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Headers that travel beside the CloudEvents attributes.
    fn headers(&self, _headers: &mut BTreeMap<String, String>) {}
}
