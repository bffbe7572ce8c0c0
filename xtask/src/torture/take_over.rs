//! A worker dies, stands still or loses its network while it has locks on its leases, and another one takes over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste::store::Dialect;
use posthaste_testkit::servers::PostgresUrl;
use posthaste_testkit::{Fault, FaultProxy, wait_until};
use uuid::Uuid;

use super::figure::Figure;
use super::place::Place;
use crate::bench::send_load;
use crate::run_binary::Running;

const TRANSPORT: &str = "sql:";
/// From the failure until the message is recorded, in seconds: on a database server, and on SQLite.
const SERVER: f64 = 15.0;
const FILE: f64 = 5.0;
const LIMIT: Duration = Duration::from_secs(90);

/// How a worker fails.
#[derive(Clone, Copy)]
enum Failure {
    Killed,
    StandsStill,
    NoNetwork,
}

impl Failure {
    fn what(self) -> &'static str {
        match self {
            Self::Killed => "kill -9",
            Self::StandsStill => "SIGSTOP",
            Self::NoNetwork => "no network",
        }
    }
}

/// When it fails: in both cases its transaction has locks on its leases.
#[derive(Clone, Copy)]
enum Moment {
    Fence,
    Renewal,
}

impl Moment {
    fn what(self) -> &'static str {
        match self {
            Self::Fence => "between fence and commit",
            Self::Renewal => "in the middle of a renewal",
        }
    }

    /// Locks what the worker's next statement needs.
    fn lock(self) -> &'static str {
        match self {
            Self::Fence => "SELECT seq FROM queue_messages FOR UPDATE",
            Self::Renewal => "SELECT slot FROM leases WHERE scope = 'notifications/worker' FOR UPDATE",
        }
    }

    /// Counts the sessions with that statement.
    fn waiting(self, dialect: Dialect) -> String {
        let statement = match self {
            Self::Fence => "DELETE FROM queue_messages",
            Self::Renewal => "UPDATE leases SET expires_at",
        };
        match dialect {
            Dialect::Postgres => format!(
                "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock' AND query LIKE '%{statement}%'"
            ),
            Dialect::Sqlite | Dialect::Mysql => format!(
                "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE db = DATABASE() \
                 AND command IN ('Execute', 'Query') AND info LIKE '{statement}%'"
            ),
        }
    }
}

/// Leases of living workers. A worker may also wait for a lock before it has anything in hand.
const OWNED: &str =
    "SELECT COUNT(*) AS n FROM leases WHERE scope = 'notifications/worker' AND slot >= 0 AND expires_at > {now}";

/// Measures each failure that the database allows to make.
///
/// # Errors
/// When a process does not start or nobody takes over at all.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    if place.store().dialect() == Dialect::Sqlite {
        return Ok(vec![restart_after_kill(place).await?]);
    }
    let mut figures = Vec::new();
    for (failure, moment) in [
        (Failure::Killed, Moment::Fence),
        (Failure::StandsStill, Moment::Fence),
        (Failure::NoNetwork, Moment::Fence),
        (Failure::StandsStill, Moment::Renewal),
        (Failure::NoNetwork, Moment::Renewal),
    ] {
        let what = format!("{} {}", failure.what(), moment.what());
        let taken = fail(place, failure, moment).await.context(what.clone())?;
        let what = format!("from {what} until another worker has recorded the message");
        figures.push(Figure::below(TRANSPORT, &what, taken, SERVER, "s"));
    }
    Ok(figures)
}

/// SQLite: one process with all roles, killed and started again; seconds until its next message is recorded.
async fn restart_after_kill(place: &Place) -> Result<Figure> {
    let first = place.serve(&["notifications"], None).await?;
    let id = post_event(&first).await?;
    wait_for(place, id).await?;
    first.kill().await?;
    let killed = Instant::now();
    let second = place.serve(&["notifications"], None).await?;
    let id = post_event(&second).await?;
    wait_for(place, id).await?;
    let taken = killed.elapsed().as_secs_f64();
    second.stop().await?;
    let what = "from kill -9 through the restart until its first message is recorded";
    Ok(Figure::below(TRANSPORT, what, taken, FILE, "s"))
}

/// Seconds from `failure` of a worker that waits for a lock at `moment` until a second worker has done its work.
async fn fail(place: &Place, failure: Failure, moment: Moment) -> Result<f64> {
    let proxy = proxy(place).await?;
    let through = through(place, &proxy)?;
    let api = place.serve(&["notifications", "--role", "api,relay"], None).await?;
    let settings = [("DATABASE_URL", through.as_str()), ("LOG_LEVEL", "warn")];
    let worker = async || {
        let arguments = ["notifications", "--role", "worker"];
        place.serve_with(&arguments, &settings).await
    };
    let owns_all = async || {
        wait_until("the worker to have all leases", LIMIT, || async {
            (place.number(OWNED).await.ok()? == 16).then_some(())
        })
        .await
    };
    let (lock, worker, sent) = match moment {
        Moment::Fence => {
            let id = post_event(&api).await?;
            wait_until("the message in its queue", LIMIT, || async {
                let queued = "SELECT COUNT(*) AS n FROM queue_messages";
                (place.number(queued).await.ok()? == 1).then_some(())
            })
            .await?;
            let lock = place.store().begin().await?;
            lock.query(moment.lock(), Vec::new()).await?;
            let worker = worker().await?;
            owns_all().await?;
            (lock, worker, Some(id))
        }
        Moment::Renewal => {
            let worker = worker().await?;
            owns_all().await?;
            let lock = place.store().begin().await?;
            lock.query(moment.lock(), Vec::new()).await?;
            (lock, worker, None)
        }
    };
    let waiting = moment.waiting(place.store().dialect());
    wait_until("the worker to wait for the lock", LIMIT, || async {
        (place.number(&waiting).await.ok()? == 1).then_some(())
    })
    .await?;
    let failed = Instant::now();
    // Kept until the end: what is dropped is killed.
    let worker = match failure {
        Failure::Killed => {
            worker.kill().await?;
            None
        }
        Failure::StandsStill => {
            worker.suspend().await?;
            Some(worker)
        }
        Failure::NoNetwork => {
            proxy.inject(Fault::HalfOpen);
            Some(worker)
        }
    };
    lock.rollback().await?;
    let id = match sent {
        Some(id) => id,
        None => post_event(&api).await?,
    };
    let successor = place.serve(&["notifications", "--role", "worker"], None).await?;
    wait_for(place, id).await?;
    let taken = failed.elapsed().as_secs_f64();
    drop(worker);
    successor.stop().await?;
    api.stop().await?;
    let rows = place.number("SELECT COUNT(*) AS n FROM queue_messages").await?;
    ensure!(rows == 0, "{rows} messages are left in the queue");
    Ok(taken)
}

async fn proxy(place: &Place) -> Result<FaultProxy> {
    let address = match place.store().dialect() {
        Dialect::Postgres => PostgresUrl::parse(place.url())?.address().await?,
        Dialect::Sqlite | Dialect::Mysql => {
            let url = reqwest::Url::parse(place.url())?;
            let port = url.port().context("the URL has no port")?;
            ([127, 0, 0, 1], port).into()
        }
    };
    FaultProxy::start(address, 20_261_128).await
}

/// The database's URL through `proxy`.
fn through(place: &Place, proxy: &FaultProxy) -> Result<String> {
    let mut url = reqwest::Url::parse(place.url())?;
    let address = proxy.address();
    let replaced = url.set_ip_host(address.ip()).is_ok() && url.set_port(Some(address.port())).is_ok();
    ensure!(replaced, "the URL names no host");
    Ok(url.into())
}

async fn post_event(server: &Running) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let body = format!(r#"{{"event_id":"{id}","user_id":"{id}","event_type":"take.over","message":"Still there?"}}"#);
    send_load::post(server.port, "/api/events", &[body], 1).await?;
    Ok(id)
}

async fn wait_for(place: &Place, id: Uuid) -> Result<()> {
    let recorded = format!("SELECT COUNT(*) AS n FROM processed_events WHERE id = '{id}'");
    wait_until("the event to be recorded", LIMIT, || async {
        (place.number(&recorded).await.ok()? == 1).then_some(())
    })
    .await
}
