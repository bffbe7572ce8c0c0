//! RabbitMQ as foreign clients, operators and failures use it. What every transport has to do is in the conformance
//! suites.

mod break_server;
mod foreign_client;
mod identify;
mod limit_messages;
mod log;
mod odd_queues;
mod refuse_destination;
mod shop;
mod use_queues;
