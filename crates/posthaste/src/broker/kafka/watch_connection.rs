//! What librdkafka says about its connections: one warning at the start of an outage, one line at its
//! end, the rest for whoever debugs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::broker::BrokerError;

/// Whether the cluster answered last; shared by all clients of one URL.
#[derive(Default)]
pub(super) struct Connection {
    away: AtomicBool,
}

impl Connection {
    /// No broker of the cluster answers, as far as is known.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// None answers, for this reason.
    pub fn lost(&self, reason: &str) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason, "Kafka does not answer; it is tried again until it does");
        }
    }

    /// One does.
    pub fn answers(&self) {
        if self.is_away() && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka answers again");
        }
    }
}

/// What a client of the cluster reports to.
#[derive(Clone)]
pub(super) struct Context(pub Arc<Connection>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&self.0, &error, reason);
    }

    fn stats(&self, _statistics: Statistics) {}
}

/// Lines about failed connections repeat at every attempt; the outage has its own warning.
pub(super) fn log_line(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(fac, message, "librdkafka");
        }
        RDKafkaLogLevel::Error if fac != "FAIL" && is_news(fac) => tracing::warn!(fac, message, "librdkafka"),
        RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning
        | RDKafkaLogLevel::Notice
        | RDKafkaLogLevel::Info
        | RDKafkaLogLevel::Debug => tracing::debug!(fac, message, "librdkafka"),
    }
}

/// What is tried again ten times a second is said once in this time.
const SAID_AGAIN: Duration = Duration::from_secs(60);

fn is_news(fac: &str) -> bool {
    static SAID: LazyLock<Mutex<BTreeMap<String, Instant>>> = LazyLock::new(Mutex::default);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    // librdkafka has a few dozen of these names.
    let before = said.insert(fac.to_owned(), now);
    match before.filter(|before| now.duration_since(*before) < SAID_AGAIN) {
        Some(before) => {
            said.insert(fac.to_owned(), before);
            false
        }
        None => true,
    }
}

/// Whether `code` says that a topic cannot be read although the cluster answers. Its consumer says so.
pub(super) fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InconsistentGroupProtocol
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::InvalidGroupId
            | RDKafkaErrorCode::GroupMaxSizeReached
            // A batch in a form that this client does not know, or a broken one.
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::UnsupportedCompressionType
    )
}

/// An error that belongs to no call.
pub(super) fn report(connection: &Connection, error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => connection.lost(reason),
        Some(RDKafkaErrorCode::Fatal) => tracing::error!(reason, "a Kafka client failed for good; it is made anew"),
        Some(
            // One broker of several, or what is repeated until it works.
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic,
        ) => tracing::debug!(reason, "Kafka"),
        Some(code) if is_unreadable(code) => tracing::debug!(reason, "Kafka"),
        _ => tracing::warn!(reason, "Kafka"),
    }
}

/// `error` as the transport's.
pub(super) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> BrokerError {
    BrokerError::Unavailable(Arc::new(error))
}
