//! Runs services in one process: their databases and transports, their loops, one listener.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::Method;
use axum::middleware::from_fn_with_state;
use futures_util::future::join_all;
use posthaste::failure::chain;
use posthaste::store::MigrateError;
use posthaste::{Broker, Engine, EngineConfig, Roles, Store, Subscription, Tuning};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::auth::{Gate, Guard};
use crate::await_schema;
use crate::build_services::build;
use crate::check_services::ServiceChecks;
use crate::config::{Auth, Config, ConfigErrors};
use crate::health::{Health, Watched};
use crate::http::{self, OwnNames, TrustedProxies, check_host};
use crate::open_services::{self, Database, OpenError};
use crate::service::{Service, ServiceContext};
use crate::system_routes::{self, System};
use crate::telemetry::metrics::{Metrics, MetricsError};
use crate::verify_schema::{self, Verdict};

/// How long work in hand may take to finish at a stop.
const DRAIN: Duration = Duration::from_secs(7);
/// The same, with the leases given back after it.
const WIND_DOWN: Duration = Duration::from_secs(8);
/// How long connections may take to close, and tasks to notice the stop. All in all ten seconds.
const CLOSE: Duration = Duration::from_secs(1);

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The schema is incomplete, and nobody said to complete it.
    #[error("{database}: {}", verify_schema::missing_sentence(.missing))]
    Schema {
        /// The database, its password masked.
        database: String,
        /// The migrations that are missing.
        missing: Vec<String>,
    },
    /// The schema cannot be completed.
    #[error("{database}: {}", chain(.source.as_ref()))]
    Migrate {
        /// The database, its password masked.
        database: String,
        /// What went wrong.
        source: Box<MigrateError>,
    },
    /// Metrics cannot be collected.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The port for operators is of no use.
    #[error("OPS_PORT={port} cannot be listened on: {source}")]
    OpsPort {
        /// Which.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The listener is of no use.
    #[error("the listener cannot be used: {0}")]
    Listen(#[from] std::io::Error),
}

impl StartError {
    /// Whether the configuration is at fault.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl From<ConfigErrors> for StartError {
    fn from(errors: ConfigErrors) -> Self {
        Self::Open(errors.into())
    }
}

/// Starts services.
pub struct Host;

impl Host {
    /// Starts `services` as `config` says, answering on `listener`.
    ///
    /// A database that is away does not keep the host from starting: it answers 503 on `/readyz`, looks
    /// for the database in the background and starts the workers when it is there.
    ///
    /// # Errors
    /// When the configuration is wrong, or a database answers and lacks its schema.
    pub async fn start(
        services: &[Service],
        config: &Config,
        listener: TcpListener,
    ) -> Result<RunningHost, StartError> {
        let addr = listener.local_addr()?;
        let ops = listen_for_operators(config).await?;
        let proxies = TrustedProxies::of(&config.settings).map_err(ConfigErrors::from)?;
        // Checked when the configuration was loaded.
        let per_address = config.settings.get("HTTP_CONNECTIONS_PER_ADDRESS");
        let per_address = per_address.and_then(|text| text.parse().ok()).unwrap_or(0);
        let metrics = if config.on("METRICS_ENABLED") {
            Some(Metrics::install()?)
        } else {
            None
        };
        let databases = open_services::databases(services, config)?;
        let contexts = open_services::contexts(services, &databases, config)?;
        let mut routes = OpenApiRouter::new();
        let mut checks = Vec::new();
        let guard = contexts.first().map(ServiceContext::guard);
        let mut gate = Gate::new(
            guard.unwrap_or_else(|| Guard::new(config.auth)),
            databases.iter().map(|database| database.store.clone()).collect(),
        );
        let mut loops: Vec<Vec<Loops>> = databases.iter().map(|_| Vec::new()).collect();
        let built = build(services, &contexts, config)?;
        for ((service, context), parts) in services.iter().zip(&contexts).zip(built) {
            context.broker.learn(&parts.subscriptions);
            for warning in &parts.warnings {
                tracing::warn!(service = context.name, "{warning}");
            }
            let at = number(&databases, context.name);
            if config.roles.api {
                checks.extend(parts.ready);
                gate.declare_open(parts.open);
                gate.declare_area(service.area, at, parts.routes.get_openapi().paths.paths.keys());
                routes = routes.merge(parts.routes);
            }
            loops[at].push(Loops {
                context: context.clone(),
                subscriptions: parts.subscriptions,
            });
        }
        let names: Vec<&str> = services.iter().map(|service| service.name).collect();
        let title = config.app_name(&names);
        let version = services
            .first()
            .map_or(env!("CARGO_PKG_VERSION"), |service| service.version);
        // Services of several licenses in one process have none in common.
        let license = services.first().and_then(|service| service.license);
        let license = license.filter(|one| services.iter().all(|service| service.license == Some(one)));
        let health = watch(&databases, &contexts);
        let checks = ServiceChecks::new(checks, health.clone());
        let stores: Vec<Store> = databases.iter().map(|database| database.store.clone()).collect();
        let transports = transports(&contexts);

        let mut host = RunningHost {
            addr,
            ops_addr: ops.as_ref().map(TcpListener::local_addr).transpose()?,
            databases: stores.iter().map(|store| store.display().to_owned()).collect(),
            transports,
            health: health.clone(),
            stores: stores.clone(),
            engines: Engines::default(),
            tasks: JoinSet::new(),
            server: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        host.bring_up(databases, loops, config).await?;
        for (service, context) in services.iter().zip(&contexts).filter(|_| config.roles.worker) {
            for chore in service.chores {
                host.tasks
                    .spawn(chore.run(context.clone(), host.health.clone(), host.stop.clone()));
            }
        }
        host.tasks.spawn(checks.clone().ask_at_start(host.stop.clone()));
        if let Some(metrics) = &metrics {
            ::metrics::gauge!("posthaste_build_info", "version" => env!("CARGO_PKG_VERSION"), "service" => title.clone())
                .set(1.0);
            host.tasks.spawn(metrics.clone().keep_flat(host.stop.clone()));
        }
        let come_again = from_fn_with_state(health.clone(), await_schema::ask_to_come_again);
        // Not for the system routes: whoever looks after the process may have another name for it.
        let own_host = from_fn_with_state(OwnNames::of(config), check_host);
        let shared = System {
            service: title.clone(),
            version,
            health,
            checks,
            metrics,
            stores,
            is_only_worker: config.roles.worker && !config.roles.api && !config.roles.relay,
            shows_causes: config.auth == Auth::Open,
        };
        let (mut system, metrics) = system_routes::routes(shared);
        match (ops, metrics) {
            // Only this machine reaches it, so it asks for no token; but a page may have given its name to this machine.
            (Some(listener), Some(metrics)) => {
                let own_host = from_fn_with_state(OwnNames::loopback(), check_host);
                let router = http::bare_app(metrics.layer(own_host));
                host.server
                    .spawn(http::serve(listener, router, host.stop.clone(), DRAIN));
            }
            (_, metrics) => system = system.merge(metrics.unwrap_or_default()),
        }
        gate.declare_open(system_routes::OPEN.map(|path| (Method::GET, path)));
        gate.declare_staff("metrics", system_routes::METRICS);
        let routes = routes.layer(come_again).layer(own_host);
        let router = http::app(&title, version, license, routes, system, gate);
        let stop = host.stop.clone();
        host.server
            .spawn(http::serve_for(listener, router, stop, DRAIN, per_address, proxies));
        Ok(host)
    }
}

/// The listener of `OPS_PORT`, for this machine alone.
async fn listen_for_operators(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(port) = config.settings.get("OPS_PORT") else {
        return Ok(None);
    };
    // Checked when the configuration was loaded.
    let port = port.parse().unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|source| StartError::OpsPort { port, source })?;
    Ok(Some(listener))
}

/// The loops of one service, not yet running.
struct Loops {
    context: ServiceContext,
    subscriptions: Vec<Subscription>,
}

impl Loops {
    fn start(self, roles: Roles, tuning: Tuning) -> Engine {
        Engine::start(EngineConfig {
            service: self.context.name.to_owned(),
            store: self.context.store,
            broker: self.context.broker,
            subscriptions: self.subscriptions,
            roles,
            tuning,
        })
    }
}

/// The engines that run; more may join while a database is waited for.
type Engines = Arc<Mutex<Vec<Engine>>>;

/// Services at work. Dropped without [`RunningHost::stop`] it ends as in a crash: nothing is lost.
pub struct RunningHost {
    /// Where it answers.
    pub addr: SocketAddr,
    /// Where it answers operators, if `OPS_PORT` says so.
    pub ops_addr: Option<SocketAddr>,
    /// Its databases, passwords masked.
    pub databases: Vec<String>,
    /// Its transports: `sql`, `memory`.
    pub transports: Vec<&'static str>,
    health: Health,
    stores: Vec<Store>,
    engines: Engines,
    tasks: JoinSet<()>,
    server: JoinSet<()>,
    stop: CancellationToken,
}

impl RunningHost {
    /// Stops taking requests and messages, lets what is in hand finish, gives leases back; ten
    /// seconds at most.
    pub async fn stop(mut self) {
        self.health.drain();
        self.stop.cancel();
        // They end at the stop, but one may be in the middle of a look at its database.
        let waiting = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE, waiting).await.is_err() {
            self.tasks.shutdown().await;
        }
        let engines = std::mem::take(&mut *self.engines.lock().unwrap_or_else(PoisonError::into_inner));
        let drained = join_all(engines.into_iter().map(|engine| engine.stop(DRAIN)));
        let served = async { while self.server.join_next().await.is_some() {} };
        let wound_down = async { tokio::join!(drained, served) };
        if tokio::time::timeout(WIND_DOWN, wound_down).await.is_err() {
            tracing::warn!("the stop was cut short; what was in hand comes again");
        }
        let closed = join_all(self.stores.iter().map(Store::close));
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            tracing::warn!("connections were still in use at the stop; they end with the process");
        }
    }

    /// Waits for the end of the listener's task, which only a defect brings before [`RunningHost::stop`].
    pub async fn ended(&mut self) {
        self.server.join_next().await;
    }

    /// Starts the loops on every database that is ready, and a search for every one that is away.
    async fn bring_up(
        &mut self,
        databases: Vec<Database>,
        loops: Vec<Vec<Loops>>,
        config: &Config,
    ) -> Result<(), StartError> {
        let verdicts = join_all(
            databases
                .iter()
                .map(|database| verify_schema::verify(database, verify_schema::applies(database, config.migrate))),
        );
        let verdicts = verdicts.await;
        let tuning = config.tuning().map_err(ConfigErrors::from)?;
        let roles = Roles {
            worker: config.roles.worker,
            relay: config.roles.relay,
        };
        for (at, ((database, loops), verdict)) in databases.into_iter().zip(loops).zip(verdicts).enumerate() {
            let display = database.store.display().to_owned();
            match verdict {
                Ok(Verdict::Ready) => {
                    self.health.migrated(at);
                    start_all(&self.engines, loops, roles, tuning);
                }
                Ok(Verdict::Pending(missing)) => {
                    return Err(StartError::Schema {
                        database: display,
                        missing,
                    });
                }
                Ok(Verdict::Away(_)) => {
                    let apply = verify_schema::applies(&database, config.migrate);
                    let (health, stop, engines) = (self.health.clone(), self.stop.clone(), self.engines.clone());
                    self.tasks.spawn(async move {
                        if verify_schema::verify_until(&database, apply, &stop).await {
                            health.migrated(at);
                            start_all(&engines, loops, roles, tuning);
                        }
                    });
                }
                Err(source) => {
                    return Err(StartError::Migrate {
                        database: display,
                        source: Box::new(source),
                    });
                }
            }
        }
        Ok(())
    }
}

fn start_all(engines: &Engines, loops: Vec<Loops>, roles: Roles, tuning: Tuning) {
    let mut running = engines.lock().unwrap_or_else(PoisonError::into_inner);
    running.extend(loops.into_iter().map(|loops| loops.start(roles, tuning)));
}

/// Which of `databases` a service stands on; every service is on one.
fn number(databases: &[Database], service: &str) -> usize {
    let has = |database: &Database| database.services.contains(&service);
    databases.iter().position(has).unwrap_or_default()
}

fn watch(databases: &[Database], contexts: &[ServiceContext]) -> Health {
    let mut brokers: BTreeMap<usize, (Vec<&'static str>, Broker, usize)> = BTreeMap::new();
    for context in contexts {
        let at = number(databases, context.name);
        let known = brokers.entry(context.transport);
        let (services, ..) = known.or_insert_with(|| (Vec::new(), context.broker.clone(), at));
        services.push(context.name);
    }
    let watched: Vec<Watched<'_>> = databases
        .iter()
        .map(|database| Watched {
            store: &database.store,
            services: &database.services,
        })
        .collect();
    let cache = contexts.first().and_then(|context| context.cache.clone());
    Health::new(&watched, brokers.into_values().collect(), cache)
}

fn transports(contexts: &[ServiceContext]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = contexts.iter().map(|context| context.broker.name()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
