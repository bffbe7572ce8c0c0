//! A process around services on posthaste.

pub mod http;
mod keyset_cursor;

pub use keyset_cursor::KeysetCursor;
