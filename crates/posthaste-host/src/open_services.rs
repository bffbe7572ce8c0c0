//! Opens what services stand on: one store per database URL, one transport per database and URL.

use std::collections::BTreeMap;

use posthaste::broker::BrokerError;
use posthaste::store::Migration;
use posthaste::{Broker, CORE_MIGRATIONS, Publisher, Store, StoreError, StoreOptions};

use crate::auth::Guard;
use crate::config::{Config, ConfigErrors};
use crate::redis_cache::{CacheError, RedisCache};
use crate::service::{Service, ServiceContext};

/// A set of migrations and its name.
pub(crate) type MigrationSet = (&'static str, &'static [Migration]);

/// A database and the services on it.
pub(crate) struct Database {
    pub store: Store,
    pub services: Vec<&'static str>,
    /// The core's first, so that a service's may refer to its tables.
    pub sets: Vec<MigrationSet>,
}

/// Why something could not be opened; nothing is connected yet, so it is the configuration's fault.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration names something that cannot be opened.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The database's URL or folder.
    #[error("the database of {service} cannot be opened: {source}")]
    Store {
        /// Whose.
        service: &'static str,
        /// What is wrong.
        source: StoreError,
    },
    /// The cache's URL.
    #[error("REDIS_URL cannot be used: {0}")]
    Cache(#[from] CacheError),
    /// The transport's URL.
    #[error("the transport of {service} cannot be opened: {source}")]
    Broker {
        /// Whose.
        service: &'static str,
        /// What is wrong.
        source: BrokerError,
    },
}

/// The distinct databases of `services`.
pub(crate) fn databases(services: &[Service], config: &Config) -> Result<Vec<Database>, OpenError> {
    let names: Vec<&str> = services.iter().map(|service| service.name).collect();
    config.check_services(&names)?;
    let by_url = by_database(services, config)?;
    by_url.iter().map(|(url, services)| open(url, services)).collect()
}

/// The URLs of the databases of `services` and who is on each, in their order.
pub(crate) fn by_database(services: &[Service], config: &Config) -> Result<Vec<(String, Vec<Service>)>, ConfigErrors> {
    let mut by_url: Vec<(String, Vec<Service>)> = Vec::new();
    for service in services {
        let url = config.database_url(service.name)?.value;
        match by_url.iter_mut().find(|(known, _)| *known == url) {
            Some((_, on)) => on.push(*service),
            None => by_url.push((url, vec![*service])),
        }
    }
    Ok(by_url)
}

/// The database behind `url`, which `services` are on.
pub(crate) fn open(url: &str, services: &[Service]) -> Result<Database, OpenError> {
    let opened = Store::open(url, StoreOptions::default());
    let store = opened.map_err(|source| OpenError::Store {
        service: services.first().map_or("nobody", |service| service.name),
        source,
    })?;
    Ok(Database {
        store,
        services: services.iter().map(|service| service.name).collect(),
        sets: sets(services),
    })
}

/// The migrations of a database that `services` are on.
pub(crate) fn sets(services: &[Service]) -> Vec<MigrationSet> {
    let own = services.iter().map(|service| (service.name, service.migrations));
    [("core", CORE_MIGRATIONS)].into_iter().chain(own).collect()
}

/// What each of `services` is made from, in their order. Services on one `memory:` share it whatever
/// their databases are, as they would a real broker.
pub(crate) fn contexts(
    services: &[Service],
    databases: &[Database],
    config: &Config,
) -> Result<Vec<ServiceContext>, OpenError> {
    let cache = config
        .settings
        .get("REDIS_URL")
        .map(|url| RedisCache::open(&url))
        .transpose()?;
    let guard = Guard::new(config.auth);
    let mut brokers: BTreeMap<(Option<usize>, String), (usize, Broker)> = BTreeMap::new();
    let mut contexts = Vec::new();
    for service in services {
        let url = config.broker_url(service.name).map_err(ConfigErrors::from)?.value;
        for (at, database) in databases.iter().enumerate() {
            if !database.services.contains(&service.name) {
                continue;
            }
            let key = (url.starts_with("sql:").then_some(at), url.clone());
            let (transport, broker) = match brokers.get(&key) {
                Some(known) => known.clone(),
                None => {
                    let opened = Broker::open(&url, &database.store);
                    let broker = opened.map_err(|source| OpenError::Broker {
                        service: service.name,
                        source,
                    })?;
                    let numbered = (brokers.len(), broker);
                    brokers.insert(key, numbered.clone());
                    numbered
                }
            };
            contexts.push(ServiceContext {
                name: service.name,
                store: database.store.clone(),
                publisher: Publisher::new(service.name, database.store.clone(), broker.clone()),
                broker,
                cache: cache.clone(),
                settings: config.settings.clone(),
                is_rehearsal: false,
                guard: guard.clone(),
                transport,
            });
        }
    }
    Ok(contexts)
}
