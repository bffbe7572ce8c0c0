//! Span and metric names in one place (OpenTelemetry semantic conventions v1.44), and the W3C trace
//! context of the running span.

use std::collections::HashMap;

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Metric names, as Prometheus shows them.
pub mod metric {
    /// Counter: outbox rows by `posthaste_outcome` (`ok`, `failed`, `dead`).
    pub const OUTBOX_PUBLISHED: &str = "posthaste_outbox_published_total";
    /// Histogram, s: from a row's creation to the broker's confirm.
    pub const OUTBOX_LAG: &str = "posthaste_outbox_publish_lag_seconds";
    /// Gauge: pending outbox rows by `posthaste_service`. Counting stops at 100 001.
    pub const OUTBOX_PENDING: &str = "posthaste_outbox_pending";
    /// Gauge, s: age of the oldest pending outbox row.
    pub const OUTBOX_OLDEST: &str = "posthaste_outbox_oldest_age_seconds";
    /// Counter: deliveries by `posthaste_verdict` (`new`, `duplicate`, `rejected`, and `conflict`: an identity
    /// that came again with other bytes).
    pub const INBOX_RECEIVED: &str = "posthaste_inbox_received_total";
    /// Counter: handler attempts by `posthaste_handler` and `posthaste_outcome` (`ok`, `retry`, `dead`).
    pub const ATTEMPTS: &str = "posthaste_handler_attempts_total";
    /// Histogram, s: from a message's making to its handler's commit.
    pub const MESSAGE_LATENCY: &str = "posthaste_message_latency_seconds";
    /// Gauge: dead letters by `messaging_destination_name`; of those of a database the newest 100 001.
    pub const DEAD_LETTERS: &str = "posthaste_dlq_messages";
    /// Counter: replayed dead letters by `posthaste_outcome`.
    pub const REPLAYED: &str = "posthaste_dlq_replayed_total";
    /// Counter: dead letters that were older than they may become.
    pub const DEAD_LETTERS_EXPIRED: &str = "posthaste_dlq_expired_total";
    /// Counter: rows of `sql:` queues that nobody reads that were older than they may become, by
    /// `messaging_destination_name`.
    pub const QUEUE_EXPIRED: &str = "posthaste_queue_expired_total";
    /// Gauge: rows waiting in a `sql:` queue by `messaging_destination_name`. Counting stops at 100 001.
    pub const QUEUE_DEPTH: &str = "posthaste_queue_depth";
    /// Gauge: records of a Kafka partition that are not done yet, by `messaging_destination_name`,
    /// `messaging_consumer_group_name` and `messaging_destination_partition_id`.
    pub const CONSUMER_LAG: &str = "posthaste_consumer_lag";
    /// Gauge 0/1: the subscription of this process reads, by `subscription`.
    pub const CONSUMER_READING: &str = "posthaste_consumer_reading";
    /// Histogram, s: one handler call by `messaging_destination_name`.
    pub const PROCESS: &str = "messaging_process_duration_seconds";
    /// Counter: messages that the broker confirmed.
    pub const SENT: &str = "messaging_client_sent_messages_total";
    /// Counter: messages handed to handlers.
    pub const CONSUMED: &str = "messaging_client_consumed_messages_total";
    /// Histogram, s: one broker operation by `messaging_operation_name` (`send`, `receive`, `settle`).
    pub const BROKER_OPERATION: &str = "messaging_client_operation_duration_seconds";
    /// Histogram, s: one statement or transaction step by `db_operation_name`.
    pub const DB_OPERATION: &str = "db_client_operation_duration_seconds";
    /// Gauge: pooled connections by `db_client_connection_state` (`idle`, `used`).
    pub const POOL_COUNT: &str = "db_client_connections";
    /// Gauge: most connections the pool opens.
    pub const POOL_MAX: &str = "db_client_connection_max";
    /// Histogram, s: waiting for a connection.
    pub const POOL_WAIT: &str = "db_client_connection_wait_time_seconds";
    /// Counter: connections not had in time.
    pub const POOL_TIMEOUTS: &str = "db_client_connection_timeouts_total";
    /// Gauge 0/1: the database answered the last check.
    pub const DB_UP: &str = "posthaste_db_up";
    /// Gauge 0/1: the broker answered the last check; `posthaste_check` tells several of one kind apart.
    pub const BROKER_UP: &str = "posthaste_broker_up";
    /// Histogram, s: one command or query by `posthaste_request` and `error_type`.
    pub const MEDIATOR: &str = "posthaste_mediator_duration_seconds";
    /// Counter: requests with an Idempotency-Key by `posthaste_verdict`.
    pub const IDEMPOTENCY: &str = "posthaste_idempotency_requests_total";
}

/// The `traceparent` of the running span; where no tracer is installed, the one that came with the
/// request or message in hand.
pub fn current_traceparent() -> Option<String> {
    traceparent_of(&Span::current()).or_else(crate::correlation::traceparent)
}

/// The `traceparent` of `span`.
pub fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = Carrier(HashMap::new());
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier.0.remove("traceparent")
}

/// The remote context that a `traceparent` names.
pub fn context_of(traceparent: &str) -> Context {
    let carrier = Carrier(HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]));
    global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &carrier))
}

/// Makes `span` a child of the remote span in `traceparent`.
pub fn continue_trace(span: &Span, traceparent: &str) {
    // Refused only while the span is disabled or already started, when there is nothing to attach.
    drop(span.set_parent(context_of(traceparent)));
}

/// Links `span` to the span in `traceparent`: what a batch of messages shares is no parent.
pub fn link_trace(span: &Span, traceparent: &str) {
    span.add_link(context_of(traceparent).span().span_context().clone());
}

struct Carrier(HashMap<String, String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key.to_owned(), value);
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
