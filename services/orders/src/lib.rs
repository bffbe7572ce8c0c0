//! Takes orders over HTTP and from a queue, stores each once, publishes how each ended.

mod order;
mod orders_repository;
mod place_order;
mod process_order;
mod read_orders;

use axum::extract::FromRef;
use contracts::OrderCreated;
use posthaste::Subscription;
use posthaste::store::{Migration, Sql};
use posthaste_host::auth::Guard;
use posthaste_host::{ConfigError, Service, ServiceContext, ServiceParts, Settings};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use process_order::{ProcessOrder, tell_failure};

/// The service, for a host to run.
pub fn service() -> Service {
    Service {
        version: env!("CARGO_PKG_VERSION"),
        license: Some(env!("CARGO_PKG_LICENSE")),
        ..Service::new("orders", build).with(MIGRATIONS)
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "orders",
    up: Sql {
        postgres: include_str!("../migrations/0001_orders.postgres.up.sql"),
        sqlite: include_str!("../migrations/0001_orders.sqlite.up.sql"),
        mysql: include_str!("../migrations/0001_orders.mysql.up.sql"),
    },
    down: Sql {
        postgres: include_str!("../migrations/0001_orders.postgres.down.sql"),
        sqlite: include_str!("../migrations/0001_orders.sqlite.down.sql"),
        mysql: include_str!("../migrations/0001_orders.mysql.down.sql"),
    },
}];

/// The queues the outside world knows.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Where orders come from.
    pub incoming: String,
    /// Where it is told that an order was processed.
    pub processed: String,
    /// Where it is told that an order failed.
    pub failed: String,
    /// Where messages go that were given up, as they came.
    pub dead: String,
}

impl Queues {
    fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let name = |variable: &str| {
            let name = settings.get(variable).unwrap_or_default();
            if name.starts_with("amq.") {
                let reason = format!("{variable}={name}: RabbitMQ keeps names that begin with amq. for itself");
                return Err(ConfigError::refused(reason));
            }
            if (1..=255).contains(&name.chars().count()) {
                return Ok(name);
            }
            let reason = format!("{variable}={name}: must have 1 to 255 characters");
            Err(ConfigError::refused(reason))
        };
        let queues = Self {
            incoming: name("INCOMING_ORDER_QUEUE")?,
            processed: name("OUTGOING_PROCESSED_QUEUE")?,
            failed: name("OUTGOING_FAILED_QUEUE")?,
            dead: name("DLQ_QUEUE")?,
        };
        // An outcome is no order: it would fail, and its failure would fail, for ever.
        if [&queues.processed, &queues.failed, &queues.dead].contains(&&queues.incoming) {
            let reason = format!("INCOMING_ORDER_QUEUE={}: is also a queue it writes to", queues.incoming);
            return Err(ConfigError::refused(reason));
        }
        Ok(queues)
    }
}

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Orders {
    context: ServiceContext,
    queues: Queues,
}

impl FromRef<Orders> for Guard {
    fn from_ref(orders: &Orders) -> Self {
        orders.context.guard()
    }
}

fn build(context: &ServiceContext) -> Result<ServiceParts, ConfigError> {
    let queues = Queues::of(&context.settings)?;
    let processing = processing(&queues);
    let orders = Orders {
        context: context.clone(),
        queues,
    };
    Ok(ServiceParts::new(routes(orders), vec![processing]))
}

fn routes(orders: Orders) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(place_order::place_order, read_orders::list_orders))
        .routes(routes!(read_orders::read_order))
        .with_state(orders)
}

/// The service's one subscription, also for the crash explorer.
pub fn processing(queues: &Queues) -> Subscription {
    let handler = ProcessOrder { queues: queues.clone() };
    let mut subscription = Subscription::batch::<OrderCreated, _>("orders.process_order", &queues.incoming, handler);
    subscription.dead_letter_queue = Some(queues.dead.clone());
    subscription.on_dead = Some(tell_failure(queues));
    subscription.writes = vec![queues.processed.clone(), queues.failed.clone()];
    subscription
}
