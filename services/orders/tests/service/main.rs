//! The service as its users meet it: HTTP, queues, a real database.

mod outcomes;
mod place_and_read_orders;
mod process_queue;
mod run_two_replicas;
mod something_is_away;
