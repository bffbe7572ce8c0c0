//! What posthaste's own tests and its users' tests share: real servers, fresh databases, waiting.
//!
//! A development dependency only. A server that is missing is an error that says what to install, never a skip.

mod bare_message;
pub mod conformance;
mod dump_database;
pub mod explorer;
pub mod fault_proxy;
mod running_service;
pub mod servers;
mod wait;

pub use bare_message::bare_message;
pub use dump_database::dump_database;
pub use fault_proxy::{Cut, Direction, Fault, FaultProxy};
pub use running_service::{Reply, RunningService};
pub use servers::test_database::TestDatabase;
pub use wait::wait_until;
