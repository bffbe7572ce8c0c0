//! A service: what it is called, its schema, and its routes and handlers once it knows its settings.

use std::pin::Pin;

use axum::extract::FromRef;
use posthaste::store::Migration;
use posthaste::{Broker, Publisher, Store, Subscription};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::{Guard, OpenRoute, Verifier};
use crate::check_services::ReadyCheck;
use crate::config::{ConfigError, Settings};
use crate::redis_cache::RedisCache;
use crate::run_chores::Chore;

/// A service that the host runs, alone or next to others.
#[derive(Clone, Copy)]
pub struct Service {
    /// Its name: `orders`. Also the set name of its migrations and the prefix of its own keys
    /// (`ORDERS_DATABASE_URL`).
    pub name: &'static str,
    /// What scopes of API keys call what it has: `events` for `events:read` and `events:write`.
    pub area: &'static str,
    /// Its version, for answers and telemetry.
    pub version: &'static str,
    /// The license of its API, an SPDX expression, for the API's document.
    pub license: Option<&'static str>,
    /// The schema of its own tables; the core's comes from the host.
    pub migrations: &'static [Migration],
    /// What it adds to the command line.
    pub commands: &'static [ServiceCommand],
    /// What it does from time to time.
    pub chores: &'static [Chore],
    /// Makes its routes and handlers; called once, before any database is asked. `config check` calls it too, see
    /// [`ServiceContext::is_rehearsal`].
    pub build: fn(&ServiceContext) -> Result<ServiceParts, ConfigError>,
}

impl Service {
    /// A service `name` in its first version, without tables of its own.
    pub const fn new(name: &'static str, build: fn(&ServiceContext) -> Result<ServiceParts, ConfigError>) -> Self {
        Self {
            name,
            area: name,
            version: "0.1.0",
            license: None,
            migrations: &[],
            commands: &[],
            chores: &[],
            build,
        }
    }

    /// The same with tables of its own.
    #[must_use]
    pub const fn with(mut self, migrations: &'static [Migration]) -> Self {
        self.migrations = migrations;
        self
    }
}

/// A command of a service: `posthaste NAME ARGUMENT`.
#[derive(Clone, Copy, Debug)]
pub struct ServiceCommand {
    /// Its name: `create-admin`.
    pub name: &'static str,
    /// What it does, for the help.
    pub about: &'static str,
    /// What its one argument is called: `EMAIL`.
    pub argument: &'static str,
    /// Does it; answers what to print, or a sentence that says why not.
    pub run: fn(ServiceContext, String) -> CommandRun,
}

/// A command at work.
pub type CommandRun = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// What a service is made from.
#[derive(Clone)]
pub struct ServiceContext {
    /// Its name.
    pub name: &'static str,
    /// Its database; perhaps shared with other services.
    pub store: Store,
    /// Its transport.
    pub broker: Broker,
    /// Redis, where it is configured.
    pub cache: Option<RedisCache>,
    /// Publishes without a transaction, with the outbox to fall back on.
    pub publisher: Publisher,
    /// The settings of the process.
    pub settings: Settings,
    /// Whether only the settings are looked at, for `config check`: the database is not there, and nothing may be made.
    pub is_rehearsal: bool,
    pub(crate) guard: Guard,
    /// Which of the process's transports `broker` is: services with the same number share it.
    pub(crate) transport: usize,
}

impl ServiceContext {
    /// What tells a route's handler who calls.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }
}

impl FromRef<ServiceContext> for Guard {
    fn from_ref(context: &ServiceContext) -> Self {
        context.guard()
    }
}

/// What a service consists of.
pub struct ServiceParts {
    /// Its HTTP routes, with their documentation. Under `POSTHASTE_AUTH=enforced` each needs a token…
    pub routes: OpenApiRouter,
    /// … but for these.
    pub open: Vec<OpenRoute>,
    /// Its handlers.
    pub subscriptions: Vec<Subscription>,
    /// What tells good tokens from bad for the whole process; the accounts service has it.
    pub verifier: Option<Verifier>,
    /// What else it needs to be ready, in a process with its routes.
    pub ready: Vec<ReadyCheck>,
    /// What a person should know of its settings, a sentence each; it starts all the same.
    pub warnings: Vec<String>,
}

impl ServiceParts {
    /// A service of `routes` and `subscriptions`.
    pub fn new(routes: OpenApiRouter, subscriptions: impl IntoIterator<Item = Subscription>) -> Self {
        Self {
            routes,
            open: Vec::new(),
            subscriptions: subscriptions.into_iter().collect(),
            verifier: None,
            ready: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The same with `routes` that need no token.
    #[must_use]
    pub fn open(mut self, routes: impl IntoIterator<Item = OpenRoute>) -> Self {
        self.open.extend(routes);
        self
    }
}
