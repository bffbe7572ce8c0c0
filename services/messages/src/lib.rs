//! Sends messages to the transport through the outbox, consumes them through the inbox into
//! `messages`.

mod messages_repository;
mod read_messages;
mod send_message;
mod store_message;

use axum::Extension;
use axum::extract::FromRef;
use contracts::MessageSent;
use posthaste::store::{Migration, Sql};
use posthaste::{Event, Subscription};
use posthaste_host::auth::Guard;
use posthaste_host::http::BodyLimit;
use posthaste_host::{ConfigError, Service, ServiceContext, ServiceParts};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use store_message::StoreMessage;

/// The service, for a host to run.
pub fn service() -> Service {
    Service {
        version: env!("CARGO_PKG_VERSION"),
        license: Some(env!("CARGO_PKG_LICENSE")),
        ..Service::new("messages", build).with(MIGRATIONS)
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "messages",
    up: Sql {
        postgres: include_str!("../migrations/0001_messages.postgres.up.sql"),
        sqlite: include_str!("../migrations/0001_messages.sqlite.up.sql"),
        mysql: include_str!("../migrations/0001_messages.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0001_messages.postgres.down.sql"),
        sqlite: include_str!("../migrations/0001_messages.sqlite.down.sql"),
        mysql: include_str!("../migrations/0001_messages.mysql.down.sql"),
    },
}];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Messages {
    context: ServiceContext,
    /// `KAFKA_ENABLE_OUTBOX`: off publishes directly, with the outbox only to fall back on.
    outbox: bool,
    /// `KAFKA_TIMES_WITHOUT_ZONE`: times of published events have no zone.
    without_zones: bool,
}

impl FromRef<Messages> for Guard {
    fn from_ref(messages: &Messages) -> Self {
        messages.context.guard()
    }
}

fn build(context: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let outbox = context.settings.is_on("KAFKA_ENABLE_OUTBOX", true)?;
    let group = context.settings.get("KAFKA_CONSUMER_GROUP").unwrap_or_default();
    // It is a column of the inbox.
    if !(1..=128).contains(&group.chars().count()) {
        let reason = format!("KAFKA_CONSUMER_GROUP={group}: must have 1 to 128 characters");
        return Err(ConfigError::refused(reason));
    }
    let messages = Messages {
        context: context.clone(),
        outbox,
        without_zones: context.settings.is_on("KAFKA_TIMES_WITHOUT_ZONE", false)?,
    };
    let mut stored = stored(&group);
    stored.deduplicate = context.settings.is_on("KAFKA_ENABLE_INBOX", true)?;
    Ok(ServiceParts::new(routes(messages), vec![stored]))
}

fn routes(messages: Messages) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(send_message::send_message))
        .routes(routes!(read_messages::list_messages))
        .routes(routes!(read_messages::list_messages_of_sender))
        .routes(routes!(read_messages::read_message))
        .layer(Extension(BodyLimit(send_message::BODY_BYTES)))
        .with_state(messages)
}

/// The service's one subscription, also for the crash explorer. A consumer group is one reader of
/// everything: its name is the inbox's.
pub fn stored(group: &str) -> Subscription {
    let mut subscription = Subscription::batch::<MessageSent, _>(group, MessageSent::TOPIC, StoreMessage);
    subscription.ordered = true;
    subscription.group = Some(group.to_owned());
    subscription.dead_letter_queue = Some(format!("{}.dlq", MessageSent::TOPIC));
    subscription
}
