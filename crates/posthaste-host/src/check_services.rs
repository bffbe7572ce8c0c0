//! Whether services can do their work with what they find in their databases.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Older answers are asked for again.
const FRESH: Duration = Duration::from_millis(1500);
/// How long one may take; a database that is away shows elsewhere.
const LIMIT: Duration = Duration::from_secs(1);
/// How soon a schema that was completed is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// What is in a service's way, for an operator; `None` where nothing is, or nobody can say.
pub type Obstacle = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// What a service asks before it counts as ready. Cheap to clone.
#[derive(Clone)]
pub struct ReadyCheck {
    name: &'static str,
    ask: Arc<dyn Fn() -> Obstacle + Send + Sync>,
}

impl ReadyCheck {
    /// A check called `name` in `/readyz` that does as `ask` says: asked when somebody wants to know, once the schema
    /// is there, in processes with routes.
    pub fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        Self {
            name,
            ask: Arc::new(move || Box::pin(ask())),
        }
    }
}

impl fmt::Debug for ReadyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyCheck").field(&self.name).finish()
    }
}

/// The answer of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub name: &'static str,
    pub obstacle: Option<String>,
}

/// All checks of a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServiceChecks(Arc<Inner>);

struct Inner {
    checks: Vec<ReadyCheck>,
    health: Health,
    seen: Mutex<Option<(Instant, Vec<Checked>)>>,
}

impl ServiceChecks {
    pub fn new(checks: Vec<ReadyCheck>, health: Health) -> Self {
        Self(Arc::new(Inner {
            checks,
            health,
            seen: Mutex::new(None),
        }))
    }

    /// The answers, of now or just before; none while the schema is not there. A change is logged.
    pub async fn report(&self) -> Vec<Checked> {
        if !self.0.health.is_migrated() {
            return Vec::new();
        }
        let mut seen = self.0.seen.lock().await;
        if let Some((_, last)) = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return last.clone();
        }
        let mut all = Vec::new();
        for check in &self.0.checks {
            let obstacle = tokio::time::timeout(LIMIT, (check.ask)()).await.unwrap_or_default();
            let before = seen.as_ref().and_then(|(_, last)| last.get(all.len()));
            let was = before.and_then(|checked| checked.obstacle.as_ref());
            match &obstacle {
                Some(reason) if was != Some(reason) => tracing::warn!(check = check.name, reason, "not ready"),
                None if was.is_some() => tracing::info!(check = check.name, "ready again"),
                _ => {}
            }
            all.push(Checked {
                name: check.name,
                obstacle,
            });
        }
        *seen = Some((Instant::now(), all.clone()));
        all
    }

    /// Asks once as soon as the schema is there, so that the log says at the start what is wrong.
    pub async fn ask_at_start(self, stop: CancellationToken) {
        while !self.0.health.is_migrated() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        self.report().await;
    }
}
