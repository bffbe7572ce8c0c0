//! Event-driven services that lose nothing and do nothing twice.
//!
//! A message is a row that commits with the business rows it belongs to ([`outbox`]). A relay carries
//! it to the transport ([`broker`]). A consumer turns a delivery into one transaction: inbox mark,
//! effect and new messages. What fails is due again later; what gave up stays as a
//! [`dead_letter`].
//!
//! ```no_run
//! # use posthaste::{Cx, Event, Handle, Handled, Subscription};
//! # use serde::{Deserialize, Serialize};
//! #[derive(Serialize, Deserialize)]
//! struct OrderPlaced { order_id: String }
//! impl Event for OrderPlaced {
//!     const TYPE: &'static str = "order.placed";
//!     const TOPIC: &'static str = "orders";
//! }
//!
//! struct Ship;
//! impl Handle<OrderPlaced> for Ship {
//!     async fn handle(&self, order: OrderPlaced, cx: &mut Cx<'_>) -> Handled {
//!         let sql = "INSERT INTO shipments (order_id) VALUES ($1)";
//!         cx.tx().execute(sql, vec![order.order_id.into()]).await?; // commits with the inbox mark
//!         Ok(())
//!     }
//! }
//! let subscription = Subscription::new::<OrderPlaced, _>("ship", "orders", Ship);
//! ```

pub mod api_keys;
pub mod backlog;
pub mod broker;
mod consumer;
pub mod contract;
pub mod correlation;
pub mod dead_letter;
pub mod engine;
mod envelope;
pub mod erasure;
pub mod failpoint;
pub mod failure;
mod floor;
mod group_commit;
pub mod handle;
mod handle_outside;
mod held_back;
mod hold_marks;
pub mod idempotency;
mod identity;
mod invoke;
mod lease;
pub mod mediator;
pub mod message;
mod migrations;
pub mod outbox;
pub mod publish;
mod read_time;
mod relay;
mod retention;
mod retrier;
pub mod retry;
mod set_aside;
mod settle_letters;
pub mod status;
pub mod store;
pub mod telemetry;

pub use broker::Broker;
pub use contract::Event;
pub use engine::{Engine, EngineConfig, Roles, Tuning};
pub use failure::{Failure, Handled};
pub use handle::{Cx, Handle, HandleBatch, Received, Subscription, Unread};
pub use handle_outside::{HandleOutside, Outside};
pub use message::{Message, MessageId};
pub use migrations::CORE_MIGRATIONS;
pub use publish::Publisher;
pub use read_time::read_time;
pub use retry::RetryPolicy;
pub use store::{Store, StoreError, StoreOptions, Tx};

/// Partitions of an outbox and of a `sql:` queue; a key always falls into the same one. Fixed: rows
/// carry their partition.
pub const PARTITIONS: u16 = 16;
