//! The process half of the host: configuration, start and stop, health, metrics.

mod configuration;
mod guard_routes;
mod ledger_service;
mod rebind_names;
mod show_troubles;
mod stand_on_several;
mod start_and_stop;
mod use_redis;
mod wait_for_database;
