//! A process that runs services: configuration, HTTP, telemetry, health, start and stop.

pub mod auth;
mod await_schema;
mod build_services;
mod check_services;
pub mod cli;
pub mod config;
mod health;
pub mod http;
mod keyset_cursor;
mod open_services;
mod print_banner;
mod redact;
pub mod redis_cache;
mod run_chores;
mod run_services;
mod serve_process;
pub mod service;
mod system_routes;
pub mod telemetry;
mod verify_schema;

pub use check_services::ReadyCheck;
pub use config::{Config, ConfigError, ConfigErrors, RoleSet, Settings, Sources};
pub use keyset_cursor::{CursorId, KeysetCursor};
pub use open_services::OpenError;
pub use run_chores::{Chore, ChoreStep};
pub use run_services::{Host, RunningHost, StartError};
pub use service::{Service, ServiceCommand, ServiceContext, ServiceParts};
