//! A process that runs services: configuration, HTTP, telemetry, health, start and stop.

pub mod config;
pub mod http;
mod redact;
pub mod service;
pub mod telemetry;

pub use config::{Config, ConfigError, ConfigErrors, Settings, Sources};
pub use service::{Service, ServiceContext, ServiceParts};
