//! What every store and transport has to do, as functions that tests call once per implementation.

pub mod carry_messages;
pub mod handle_messages;
pub mod identify_messages;
pub mod keep_rows;
mod suite;

pub use suite::At;
