//! Takes events over HTTP, publishes them, records them in `processed_events`; records what the other
//! services tell about users, too.

mod processed_events_repository;
mod publish_event;
mod read_events;
mod record_event;
mod record_foreign_events;

use axum::Extension;
use contracts::{
    NotificationRequested, OrderFailed, OrderProcessed, UserCreated, UserDeleted, UserRegistered, UserUpdated,
};
use posthaste::store::{Migration, Sql};
use posthaste::{Event, Subscription};
use posthaste_host::http::BodyLimit;
use posthaste_host::{ConfigError, Service, ServiceContext, ServiceParts};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use record_event::RecordEvent;
use record_foreign_events::{RecordForeignEvents, Recorded};

/// Its name, and the source of the events that it publishes.
const NAME: &str = "notifications";

/// The service, for a host to run.
pub fn service() -> Service {
    Service {
        version: env!("CARGO_PKG_VERSION"),
        license: Some(env!("CARGO_PKG_LICENSE")),
        area: "events",
        ..Service::new(NAME, build).with(MIGRATIONS)
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "processed_events",
    up: Sql {
        postgres: include_str!("../migrations/0001_processed_events.postgres.up.sql"),
        sqlite: include_str!("../migrations/0001_processed_events.sqlite.up.sql"),
        mysql: include_str!("../migrations/0001_processed_events.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0001_processed_events.postgres.down.sql"),
        sqlite: include_str!("../migrations/0001_processed_events.sqlite.down.sql"),
        mysql: include_str!("../migrations/0001_processed_events.mysql.down.sql"),
    },
}];

fn build(context: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    Ok(ServiceParts::new(routes(context), subscriptions()))
}

fn routes(context: &ServiceContext) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(publish_event::publish_event, read_events::list_events))
        .routes(routes!(read_events::read_event))
        .layer(Extension(BodyLimit(publish_event::BODY_BYTES)))
        .with_state(context.clone())
}

/// What the service subscribes to, also for the crash explorer. The names carry the service's, because
/// services on one SQLite file share the inbox.
pub fn subscriptions() -> Vec<Subscription> {
    let events = Subscription::batch::<NotificationRequested, _>(
        "notifications.record_event",
        NotificationRequested::TOPIC,
        RecordEvent,
    );
    vec![
        events,
        recorded::<UserRegistered>(),
        recorded::<UserCreated>(),
        recorded::<UserUpdated>(),
        recorded::<UserDeleted>(),
        recorded::<OrderProcessed>(),
        recorded::<OrderFailed>(),
    ]
}

/// Another service's event, on a queue of the same name.
fn recorded<E: Recorded>() -> Subscription {
    Subscription::batch::<E, _>(
        &format!("notifications.record.{}", E::TOPIC),
        E::TOPIC,
        RecordForeignEvents,
    )
}
