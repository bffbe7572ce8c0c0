//! The events that the services exchange: words they share, not code.
//!
//! A body is decoded with its own struct and then checked with [`posthaste::Event::validate`]; what
//! breaks a rule goes to the dead letters at once.

mod amount;
mod details;
mod message_sent;
mod notification_requested;
mod object;
mod order_created;
mod order_outcome;
mod text;
mod time;
mod user_changes;
mod user_registered;

pub use amount::Amount;
pub use details::Details;
pub use message_sent::{MessageSent, SentMessage};
pub use notification_requested::NotificationRequested;
pub use order_created::OrderCreated;
pub use order_outcome::{OrderFailed, OrderProcessed, USER_ID_HEADER};
pub use text::{BrokenRule, check_line, check_text};
pub use user_changes::{UserCreated, UserDeleted, UserUpdated};
pub use user_registered::UserRegistered;
