//! What each metric is, for `# HELP`.

use metrics::{describe_counter, describe_gauge, describe_histogram};
use posthaste::telemetry::metric;

use super::traces::LOST;
use crate::http::{ACTIVE_REQUESTS, REQUEST_DURATION};

const COUNTERS: &[(&str, &str)] = &[
    (
        metric::OUTBOX_PUBLISHED,
        "Outbox rows that the transport took or refused.",
    ),
    (
        metric::INBOX_RECEIVED,
        "Messages that came, by what they were found to be.",
    ),
    (metric::ATTEMPTS, "Attempts of handlers, by how they ended."),
    (metric::REPLAYED, "Dead letters that were put back."),
    (metric::SENT, "Messages that the transport confirmed."),
    (metric::CONSUMED, "Messages handed to handlers."),
    (
        metric::POOL_TIMEOUTS,
        "Connections to a database that were not had in time.",
    ),
    (metric::IDEMPOTENCY, "Requests with an Idempotency-Key."),
    (LOST, "Spans that the collector did not take."),
];

const GAUGES: &[(&str, &str)] = &[
    (metric::OUTBOX_PENDING, "Outbox rows that wait to be published."),
    (
        metric::OUTBOX_OLDEST,
        "Age of the oldest outbox row that waits, in seconds.",
    ),
    (metric::DEAD_LETTERS, "Dead letters."),
    (metric::QUEUE_DEPTH, "Messages that wait in a queue in a database."),
    (
        metric::CONSUMER_LAG,
        "Records of a Kafka partition that are not done yet.",
    ),
    (
        metric::CONSUMER_READING,
        "Whether a subscription of this process reads.",
    ),
    (metric::POOL_COUNT, "Pooled connections to a database, by state."),
    (metric::POOL_MAX, "Most connections to a database that a pool opens."),
    (metric::DB_UP, "Whether the database answered the last check."),
    (metric::BROKER_UP, "Whether the broker answered the last check."),
    (ACTIVE_REQUESTS, "HTTP requests in hand."),
    ("posthaste_build_info", "Always 1; its labels say what runs."),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    (
        metric::OUTBOX_LAG,
        "From an outbox row to the transport's confirmation, in seconds.",
    ),
    (
        metric::MESSAGE_LATENCY,
        "From the making of a message to its handler's commit, in seconds.",
    ),
    (metric::PROCESS, "One call of a handler, in seconds."),
    (metric::BROKER_OPERATION, "One operation of a broker, in seconds."),
    (
        metric::DB_OPERATION,
        "One statement or step of a transaction, in seconds.",
    ),
    (metric::POOL_WAIT, "Waiting for a pooled connection, in seconds."),
    (metric::MEDIATOR, "One command or query, in seconds."),
    (REQUEST_DURATION, "HTTP requests, in seconds."),
];

/// Tells the recorder of this process.
pub(super) fn describe_all() {
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
}
