//! What the process knows about its dependencies: measured when somebody asks, and at most two
//! seconds old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use posthaste::status::{Trouble, What};
use posthaste::telemetry::metric;
use posthaste::{Broker, Store};
use tokio::sync::Mutex;

use crate::redis_cache::RedisCache;

/// Older answers are measured again. Together with [`LIMIT`] no answer is older than two seconds for
/// the clients of one that answers at all.
const FRESH: Duration = Duration::from_millis(1500);
/// A dependency that takes longer is down.
const LIMIT: Duration = Duration::from_secs(1);

/// One thing that is checked.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// `database`, `broker`, `migrations`, `cache`; with the services behind a colon where there are several.
    pub name: String,
    pub up: bool,
    /// How long the last measurement took; `None` for what is known without measuring.
    pub took: Option<Duration>,
    /// Since when and why it does not work, where that is known.
    pub trouble: Option<Trouble>,
}

impl Check {
    /// `self` and `other` as one check: it works where both do, and as long as the older trouble does not.
    fn and(self, other: Self) -> Self {
        let trouble = match (self.trouble, other.trouble) {
            (Some(one), Some(other)) => {
                let rows = match (one.rows, other.rows) {
                    (Some(one), Some(other)) => Some(one.saturating_add(other)),
                    (one, other) => one.or(other),
                };
                let older = if one.since <= other.since { one } else { other };
                Some(Trouble { rows, ..older })
            }
            (one, other) => one.or(other),
        };
        Self {
            name: self.name,
            up: self.up && other.up,
            took: self.took.max(other.took),
            trouble,
        }
    }
}

/// `checks` for whoever may not know what is inside: one of each kind, without the names of services, subscriptions
/// and queues.
pub(crate) fn fold(checks: impl IntoIterator<Item = Check>) -> Vec<Check> {
    let mut folded: Vec<Check> = Vec::new();
    for mut check in checks {
        let kind = match check.name.split_once(':') {
            Some(("subscription", _)) => "subscriptions",
            Some(("queue", _)) => "queues",
            Some((kind, _)) => kind,
            None => &check.name,
        };
        check.name = kind.to_owned();
        match folded.iter_mut().find(|known| known.name == check.name) {
            Some(known) => *known = known.clone().and(check),
            None => folded.push(check),
        }
    }
    folded
}

/// The state of all dependencies at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub databases: Vec<Check>,
    pub brokers: Vec<Check>,
    pub migrations: Vec<Check>,
    /// Nothing depends on it: while it is away the database is asked instead.
    pub cache: Vec<Check>,
    /// What the loops of this process report: only what does not work.
    pub troubles: Vec<Check>,
    pub draining: bool,
}

impl Report {
    pub fn database_up(&self) -> bool {
        self.databases.iter().all(|check| check.up)
    }

    pub fn broker_up(&self) -> bool {
        self.brokers.iter().all(|check| check.up)
    }

    /// Whether all subscriptions of this process read.
    pub fn reads(&self) -> bool {
        !self.troubles.iter().any(|check| {
            let what = check.trouble.as_ref().map(|trouble| &trouble.what);
            matches!(what, Some(What::Reading { .. }))
        })
    }

    /// Whether requests can be answered: not without a database or its schema, and not while stopping.
    /// Without a broker they can; the outbox takes what it would have taken.
    pub fn is_ready(&self) -> bool {
        !self.draining && self.database_up() && self.migrations.iter().all(|check| check.up)
    }
}

/// Asks the dependencies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    databases: Vec<Probe>,
    brokers: Vec<BrokerCheck>,
    cache: Option<(RedisCache, Mutex<Option<Seen>>)>,
    draining: AtomicBool,
}

struct Probe {
    name: String,
    migrations: String,
    store: Store,
    migrated: AtomicBool,
    seen: Mutex<Option<Seen>>,
}

/// A transport inside a database is up when the database is.
enum BrokerCheck {
    InDatabase(String, usize),
    Own(String, Broker, Mutex<Option<Seen>>),
}

#[derive(Clone, Copy)]
struct Seen {
    up: bool,
    took: Duration,
    at: Instant,
}

/// A database to watch, and the services on it.
pub(crate) struct Watched<'a> {
    pub store: &'a Store,
    pub services: &'a [&'static str],
}

impl Health {
    /// Watches `databases`, and `brokers` with the number of the database they stand next to.
    pub fn new(
        databases: &[Watched<'_>],
        brokers: Vec<(Vec<&'static str>, Broker, usize)>,
        cache: Option<RedisCache>,
    ) -> Self {
        let name = |what: &str, services: &[&str], several: bool| {
            if several {
                format!("{what}:{}", services.join("+"))
            } else {
                what.to_owned()
            }
        };
        let probes = databases.iter().map(|watched| Probe {
            name: name("database", watched.services, databases.len() > 1),
            migrations: name("migrations", watched.services, databases.len() > 1),
            store: watched.store.clone(),
            migrated: AtomicBool::new(false),
            seen: Mutex::new(None),
        });
        let several = brokers.len() > 1;
        let brokers = brokers.into_iter().map(|(services, broker, database)| {
            let name = name("broker", &services, several);
            match broker {
                Broker::Sql(_) => BrokerCheck::InDatabase(name, database),
                other => BrokerCheck::Own(name, other, Mutex::new(None)),
            }
        });
        Self(Arc::new(Inner {
            databases: probes.collect(),
            brokers: brokers.collect(),
            cache: cache.map(|cache| (cache, Mutex::new(None))),
            draining: AtomicBool::new(false),
        }))
    }

    /// The schema of database number `at` is complete.
    pub fn migrated(&self, at: usize) {
        self.0.databases[at].migrated.store(true, Ordering::Release);
    }

    /// Whether the schemas of all databases are complete, as far as is known.
    pub fn is_migrated(&self) -> bool {
        let mut probes = self.0.databases.iter();
        probes.all(|probe| probe.migrated.load(Ordering::Acquire))
    }

    /// The process is stopping.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Everything, measured now or just before.
    pub async fn report(&self) -> Report {
        let own = self.0.brokers.iter().filter_map(|check| match check {
            BrokerCheck::Own(name, broker, seen) => Some(look_at_broker(name, broker, seen)),
            BrokerCheck::InDatabase(..) => None,
        });
        let (databases, mut brokers, cache) = tokio::join!(
            join_all(self.0.databases.iter().map(look_at_database)),
            join_all(own),
            join_all(self.0.cache.iter().map(|(cache, seen)| look_at_cache(cache, seen)))
        );
        brokers.extend(self.0.brokers.iter().filter_map(|check| match check {
            BrokerCheck::InDatabase(name, at) => Some(Check {
                name: name.clone(),
                ..databases[*at].clone()
            }),
            BrokerCheck::Own(..) => None,
        }));
        let migrations = self.0.databases.iter().map(|probe| Check {
            name: probe.migrations.clone(),
            up: probe.migrated.load(Ordering::Acquire),
            took: None,
            trouble: None,
        });
        let troubles = self.0.databases.iter().flat_map(troubles);
        Report {
            troubles: troubles.collect(),
            migrations: migrations.collect(),
            databases,
            brokers,
            cache,
            draining: self.0.draining.load(Ordering::Acquire),
        }
    }
}

/// What the loops on a database report.
fn troubles(probe: &Probe) -> impl Iterator<Item = Check> {
    let database = probe.name.strip_prefix("database").unwrap_or_default();
    probe.store.troubles().into_iter().map(move |trouble| Check {
        name: match &trouble.what {
            What::Reading { subscription } => format!("subscription:{subscription}"),
            What::Writing => format!("database-writes{database}"),
            What::Outbox { service } => format!("outbox:{service}"),
            What::Queue { service, queue } => format!("queue:{service}:{queue}"),
        },
        up: false,
        took: None,
        trouble: Some(trouble),
    })
}

async fn look_at_database(probe: &Probe) -> Check {
    let ping = async || match probe.store.ping(LIMIT).await {
        Ok(()) => None,
        Err(error) => Some(posthaste::failure::chain(&error)),
    };
    let seen = look(&probe.name, &probe.seen, ping).await;
    let name = probe.store.display().to_owned();
    metrics::gauge!(metric::DB_UP, "db_client_connection_pool_name" => name).set(f64::from(u8::from(seen.up)));
    check(&probe.name, seen)
}

async fn look_at_broker(name: &str, broker: &Broker, seen: &Mutex<Option<Seen>>) -> Check {
    let ping = async || match tokio::time::timeout(LIMIT, broker.ping(LIMIT)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(posthaste::failure::chain(&error)),
        Err(_elapsed) => Some(format!("no answer within {LIMIT:?}")),
    };
    let seen = look(name, seen, ping).await;
    metrics::gauge!(metric::BROKER_UP, "messaging_system" => broker.name(), "posthaste_check" => name.to_owned())
        .set(f64::from(u8::from(seen.up)));
    check(name, seen)
}

async fn look_at_cache(cache: &RedisCache, seen: &Mutex<Option<Seen>>) -> Check {
    const NAME: &str = "cache";
    let ping = async || {
        cache
            .ping(LIMIT)
            .await
            .err()
            .map(|error| posthaste::failure::chain(&error))
    };
    check(NAME, look(NAME, seen, ping).await)
}

/// The last answer if it is fresh, else a new one; askers at the same time share it.
async fn look(name: &str, seen: &Mutex<Option<Seen>>, ping: impl AsyncFnOnce() -> Option<String>) -> Seen {
    let mut seen = seen.lock().await;
    if let Some(last) = seen.filter(|last| last.at.elapsed() < FRESH) {
        return last;
    }
    let started = Instant::now();
    let error = ping().await;
    let was_up = seen.is_none_or(|last| last.up);
    match &error {
        Some(error) if was_up => tracing::error!(check = name, error, "a dependency does not answer"),
        None if !was_up => tracing::info!(check = name, "the dependency answers again"),
        _ => {}
    }
    let now = Seen {
        up: error.is_none(),
        took: started.elapsed(),
        at: Instant::now(),
    };
    *seen = Some(now);
    now
}

fn check(name: &str, seen: Seen) -> Check {
    Check {
        name: name.to_owned(),
        up: seen.up,
        took: Some(seen.took),
        trouble: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, up: bool, rows: Option<u64>) -> Check {
        let trouble = rows.map(|rows| Trouble {
            what: What::Writing,
            since: posthaste::message::now(),
            why: "a host".to_owned(),
            rows: Some(rows),
        });
        Check {
            name: name.to_owned(),
            up,
            took: None,
            trouble,
        }
    }

    #[test]
    fn what_is_folded_has_one_check_of_a_kind_and_no_names() {
        let folded = fold([
            check("database:orders", true, None),
            check("database:accounts", false, None),
            check("migrations", true, None),
            check("outbox:orders", false, Some(2)),
            check("outbox:accounts", false, Some(3)),
            check("queue:orders:bookings", false, Some(1)),
            check("subscription:orders.book", false, None),
            check("database-writes:orders", false, None),
        ]);
        let said: Vec<_> = folded
            .iter()
            .map(|check| {
                let rows = check.trouble.as_ref().and_then(|trouble| trouble.rows);
                (check.name.as_str(), check.up, rows)
            })
            .collect();
        assert_eq!(
            said,
            [
                ("database", false, None),
                ("migrations", true, None),
                ("outbox", false, Some(5)),
                ("queues", false, Some(1)),
                ("subscriptions", false, None),
                ("database-writes", false, None),
            ]
        );
    }
}
