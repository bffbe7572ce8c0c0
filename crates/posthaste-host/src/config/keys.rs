//! Every key that posthaste knows: the one list that the configuration, its checks and its
//! documentation are made from.

use super::account_keys::ACCOUNT_KEYS;
use super::token_keys::TOKEN_KEYS;

/// What a value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false` (also `1`/`0`, `yes`/`no`, `on`/`off`).
    Bool,
    /// A TCP port, 0 for any free one.
    Port,
    /// An IP address, or `localhost`.
    Address,
    /// One of these words, in either case.
    Word(&'static [&'static str]),
    /// A number from 0 to 1.
    Ratio,
    /// Whole milliseconds.
    Millis,
    /// A whole number.
    Number,
    /// `RUST_LOG` directives.
    Directives,
    /// A database URL.
    DatabaseUrl,
    /// A transport URL.
    BrokerUrl,
    /// `redis://` or `rediss://`.
    RedisUrl,
    /// `http://` or `https://`.
    HttpUrl,
    /// The same without query and fragment: paths are added to it.
    BaseUrl,
    /// `smtp://` or `smtps://`.
    SmtpUrl,
}

/// A key and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name of the environment variable; in `posthaste.toml` in either case.
    pub name: &'static str,
    /// What holds when it is set nowhere; `None` where that is "unset" or depends on other keys.
    pub default: Option<&'static str>,
    /// What it does, in a few words.
    pub meaning: &'static str,
    /// What a value has to look like.
    pub kind: Kind,
    /// Its value is never shown whole, and `<NAME>_FILE` names a file with it.
    pub secret: bool,
}

pub(super) const fn key(name: &'static str, default: Option<&'static str>, kind: Kind, meaning: &'static str) -> Key {
    Key {
        name,
        default,
        meaning,
        kind,
        secret: false,
    }
}

pub(super) const fn secret(
    name: &'static str,
    default: Option<&'static str>,
    kind: Kind,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        default,
        meaning,
        kind,
        secret: true,
    }
}

/// Levels, most severe first, with the names other ecosystems use for them.
pub(crate) const LEVELS: &[&str] = &[
    "off", "error", "warn", "info", "debug", "trace", "critical", "fatal", "warning",
];

const SAMPLERS: &[&str] = &[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The keys in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("PORT", Some("8000"), Kind::Port, "port of the one HTTP listener"),
    key(
        "BIND_ADDRESS",
        Some("127.0.0.1"),
        Kind::Address,
        "address of the one HTTP listener",
    ),
    key(
        "OPS_PORT",
        None,
        Kind::Port,
        "port of a listener on 127.0.0.1 for /metrics, which is then on no other one and asks for no token",
    ),
    key(
        "HTTP_CONNECTIONS_PER_ADDRESS",
        Some("128"),
        Kind::Number,
        "open connections of one address but this machine's and TRUSTED_PROXIES'; for more the longest idle one is closed; 0: any number",
    ),
    key(
        "ALLOWED_HOSTS",
        None,
        Kind::Text,
        "names under which a process answers that asks for no token, separated by commas, beside localhost and PUBLIC_URL",
    ),
    secret(
        "DATABASE_URL",
        Some("sqlite:data/posthaste.db"),
        Kind::DatabaseUrl,
        "sqlite:PATH, postgres://… or mysql://…; one per service with <SERVICE>_DATABASE_URL",
    ),
    key(
        "DB_HOST",
        None,
        Kind::Text,
        "builds DATABASE_URL where that is unset, with the DB_ keys below",
    ),
    key("DB_PORT", None, Kind::Port, "5432, or 3306 for MySQL"),
    key("DB_NAME", None, Kind::Text, "the database's name"),
    key("DB_USER", None, Kind::Text, "who connects"),
    secret("DB_PASSWORD", None, Kind::Text, "the password"),
    key(
        "DB_KIND",
        None,
        Kind::Word(&["postgres", "mysql"]),
        "postgres; mysql where DB_PORT is 3306",
    ),
    secret(
        "BROKER_URL",
        Some("sql:"),
        Kind::BrokerUrl,
        "sql: (queues in the service's own database), amqp://USER:PASSWORD@HOST (RabbitMQ; ?queue_type=quorum), \
         kafka://HOST:9092,HOST2:9092 (?partitions=3 of topics it creates) or \
         memory: (tests); one per service with <SERVICE>_BROKER_URL",
    ),
    secret("AMQP_URL", None, Kind::BrokerUrl, "another name for BROKER_URL"),
    secret("RABBITMQ_URL", None, Kind::BrokerUrl, "another name for BROKER_URL"),
    key(
        "MQ_HOST",
        None,
        Kind::Text,
        "builds an amqp:// BROKER_URL where that is unset, with the MQ_ keys below",
    ),
    key("MQ_PORT", None, Kind::Port, "5672"),
    key("MQ_USER", None, Kind::Text, "who connects"),
    secret("MQ_PASSWORD", None, Kind::Text, "the password"),
    key("RABBITMQ_HOST", None, Kind::Text, "as MQ_HOST"),
    key("RABBITMQ_PORT", None, Kind::Port, "as MQ_PORT"),
    key("RABBITMQ_USER", None, Kind::Text, "as MQ_USER"),
    key("RABBITMQ_USERNAME", None, Kind::Text, "as MQ_USER"),
    secret("RABBITMQ_PASSWORD", None, Kind::Text, "as MQ_PASSWORD"),
    key(
        "KAFKA_BOOTSTRAP_SERVERS",
        None,
        Kind::Text,
        "builds a kafka:// BROKER_URL where that is unset: host:9092,host2:9092",
    ),
    secret(
        "REDIS_URL",
        None,
        Kind::RedisUrl,
        "token denylist cache and shared rate limits; without it the SQL store serves",
    ),
    key(
        "INCOMING_ORDER_QUEUE",
        Some("order_created_queue"),
        Kind::Text,
        "orders: the queue it reads",
    ),
    key(
        "OUTGOING_PROCESSED_QUEUE",
        Some("order_processed_queue"),
        Kind::Text,
        "orders: where results go",
    ),
    key(
        "OUTGOING_FAILED_QUEUE",
        Some("order_failed_queue"),
        Kind::Text,
        "orders: where failures go",
    ),
    key(
        "DLQ_QUEUE",
        Some("order_dlq"),
        Kind::Text,
        "orders: copies of its dead letters",
    ),
    key(
        "KAFKA_CONSUMER_GROUP",
        Some("user-management-api-group"),
        Kind::Text,
        "messages: its consumer group",
    ),
    key(
        "KAFKA_ENABLE_OUTBOX",
        Some("true"),
        Kind::Bool,
        "messages: off publishes directly; after an outage a sender's messages may change places",
    ),
    key(
        "KAFKA_ENABLE_INBOX",
        Some("true"),
        Kind::Bool,
        "messages: off does not recognise duplicates",
    ),
    key(
        "KAFKA_TIMES_WITHOUT_ZONE",
        Some("false"),
        Kind::Bool,
        "messages: on writes times without a zone (UTC), for consumers that take no other",
    ),
    key(
        "INBOX_DAYS",
        Some("15"),
        Kind::Number,
        "how long a message is recognised as handled; at least as long as the broker may redeliver it",
    ),
    key(
        "OUTBOX_DAYS",
        Some("7"),
        Kind::Number,
        "how long published outbox rows are kept",
    ),
    key(
        "DEAD_LETTER_DAYS",
        Some("0"),
        Kind::Number,
        "how long dead letters are kept; 0: until they are replayed or discarded",
    ),
    key(
        "UNREAD_QUEUE_DAYS",
        Some("7"),
        Kind::Number,
        "how long messages stay in sql: queues that no service of the database has ever read; 0: for ever",
    ),
    key(
        "POSTHASTE_AUTH",
        None,
        Kind::Word(&["open", "enforced"]),
        "open on a loopback BIND_ADDRESS, enforced elsewhere",
    ),
    key(
        "APP_NAME",
        None,
        Kind::Text,
        "the name in answers and telemetry; the service's own where it runs alone",
    ),
    key(
        "DEBUG",
        Some("false"),
        Kind::Bool,
        "true makes LOG_LEVEL debug where that is unset",
    ),
    key(
        "LOG_LEVEL",
        Some("info"),
        Kind::Word(LEVELS),
        "the least severe level that is logged",
    ),
    key(
        "RUST_LOG",
        None,
        Kind::Directives,
        "directives by target; wins over LOG_LEVEL",
    ),
    key(
        "LOG_FORMAT",
        None,
        Kind::Word(&["text", "json"]),
        "text on a terminal, else json",
    ),
    key("LOGGING_ENABLED", Some("true"), Kind::Bool, "off writes no log lines"),
    key(
        "LOG_REDACTION_ENABLED",
        Some("true"),
        Kind::Bool,
        "off shows secrets and addresses in log lines",
    ),
    key(
        "METRICS_ENABLED",
        Some("true"),
        Kind::Bool,
        "off collects no metrics and has no /metrics",
    ),
    key(
        "TRACING_ENABLED",
        Some("true"),
        Kind::Bool,
        "off sends no traces even where an endpoint is set",
    ),
    key(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        Kind::HttpUrl,
        "the collector (OTLP over http/protobuf); without it nothing is sent",
    ),
    key(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        None,
        Kind::HttpUrl,
        "as above for traces, the whole URL",
    ),
    key(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        None,
        Kind::Word(&["http/protobuf"]),
        "the one protocol of this build",
    ),
    key(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        None,
        Kind::Word(&["http/protobuf"]),
        "as above for traces",
    ),
    key(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        None,
        Kind::Word(&["gzip", "none"]),
        "gzip sends less and computes more",
    ),
    key(
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        None,
        Kind::Word(&["gzip", "none"]),
        "as above for traces",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_HEADERS",
        None,
        Kind::Text,
        "name=value,… sent to the collector",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        None,
        Kind::Text,
        "as above for traces",
    ),
    key(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        None,
        Kind::Millis,
        "10000 ms for one export",
    ),
    key(
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        None,
        Kind::Millis,
        "as above for traces",
    ),
    key(
        "OTEL_SERVICE_NAME",
        None,
        Kind::Text,
        "service.name in traces; that of OTEL_RESOURCE_ATTRIBUTES where unset, else APP_NAME",
    ),
    key(
        "OTEL_RESOURCE_ATTRIBUTES",
        None,
        Kind::Text,
        "name=value,… on every span, percent-encoded",
    ),
    key(
        "OTEL_TRACES_EXPORTER",
        None,
        Kind::Word(&["otlp", "none"]),
        "none sends no traces",
    ),
    key(
        "OTEL_TRACES_SAMPLER",
        None,
        Kind::Word(SAMPLERS),
        "parentbased_always_on",
    ),
    key(
        "OTEL_TRACES_SAMPLER_ARG",
        None,
        Kind::Ratio,
        "the part of traces that a ratio sampler keeps",
    ),
    key("OTEL_SDK_DISABLED", Some("false"), Kind::Bool, "true sends no traces"),
];

/// `<SERVICE>_DATABASE_URL` for a service.
const SERVICE_DATABASE: Key = secret("_DATABASE_URL", None, Kind::DatabaseUrl, "the database of this service");
/// `<SERVICE>_BROKER_URL` for a service.
const SERVICE_BROKER: Key = secret("_BROKER_URL", None, Kind::BrokerUrl, "the transport of this service");

/// A key under its full name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The full name, the service's included.
    pub name: String,
    /// The rest; its `name` is only the suffix for a service's key.
    pub key: Key,
}

/// The keys that do not belong to one service, in the order in which they are shown.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(ACCOUNT_KEYS).chain(TOKEN_KEYS)
}

/// All keys, those of `services` included.
pub fn known(services: &[&str]) -> Vec<Named> {
    let general = all().map(|key| Named {
        name: key.name.to_owned(),
        key: *key,
    });
    let own = services.iter().flat_map(|service| {
        [SERVICE_DATABASE, SERVICE_BROKER].map(|key| Named {
            name: format!("{}{}", prefix(service), key.name),
            key,
        })
    });
    general.chain(own).collect()
}

/// `orders` → `ORDERS`, `order-intake` → `ORDER_INTAKE`.
pub(crate) fn prefix(service: &str) -> String {
    service.to_ascii_uppercase().replace('-', "_")
}
