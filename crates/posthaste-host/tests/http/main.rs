//! The host's HTTP over real sockets.

mod answers;
mod client;
mod connections;
mod idempotency;
mod observations;
mod pages;
