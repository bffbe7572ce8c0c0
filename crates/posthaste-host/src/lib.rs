//! A process around services on posthaste.

pub mod http;
