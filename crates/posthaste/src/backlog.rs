//! Gauges of what waits: asked for when metrics are scraped, so that an idle process counts nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use crate::failure::chain;
use crate::store::{Store, StoreError, backlog_rows, dead_letter_rows, dead_outbox_rows};
use crate::telemetry::metric;

/// Figures by gauge and by the service or queue they are about.
type Figures = BTreeMap<(&'static str, String), f64>;

/// Counting stops here: a figure as high means "more than 100 000".
const MOST: i64 = 100_001;

/// What waits in the databases of a process. One for all of them: a queue of the same name in two databases has one
/// gauge, which shows the sum.
pub struct Backlog {
    stores: Vec<Store>,
    /// The last ones, in the order of the stores.
    figures: Mutex<Vec<Figures>>,
}

impl Backlog {
    /// Nothing is counted yet.
    pub fn of(stores: Vec<Store>) -> Self {
        let figures = Mutex::new(vec![Figures::new(); stores.len()]);
        Self { stores, figures }
    }

    /// Sets the gauges of the outboxes, the `sql:` queues and the dead letters. A database that does not answer
    /// `within` this time goes in with its last figures.
    pub async fn record(&self, within: Duration) {
        let counts = self
            .stores
            .iter()
            .map(|store| tokio::time::timeout(within, count(store, MOST)));
        let counts = join_all(counts).await;
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        for ((last, store), counted) in figures.iter_mut().zip(&self.stores).zip(counts) {
            match counted {
                // What had a figure before and has no rows now has to show 0.
                Ok(Ok(now)) => {
                    last.values_mut().for_each(|figure| *figure = 0.0);
                    last.extend(now);
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        database = store.display(),
                        error = chain(&error),
                        "waiting messages were not counted"
                    );
                }
                // So many rows that it would be said at every scrape.
                Err(_elapsed) => tracing::debug!(database = store.display(), "counting took too long"),
            }
        }
        for ((gauge, name), figure) in together(&figures) {
            let label = match gauge {
                metric::OUTBOX_PENDING | metric::OUTBOX_OLDEST => "posthaste_service",
                _ => "messaging_destination_name",
            };
            metrics::gauge!(gauge, label => name).set(figure);
        }
    }
}

/// The figures of one database, each at most `most`.
///
/// # Errors
/// When the database is away.
#[cfg(feature = "explore")]
pub async fn count_up_to(store: &Store, most: i64) -> Result<BTreeMap<(&'static str, String), f64>, StoreError> {
    count(store, most).await
}

async fn count(store: &Store, most: i64) -> Result<Figures, StoreError> {
    let mut figures = Figures::new();
    for (service, count, age) in backlog_rows::outbox(store, most).await? {
        figures.insert((metric::OUTBOX_PENDING, service.clone()), count as f64);
        figures.insert((metric::OUTBOX_OLDEST, service), age);
    }
    for (queue, count) in backlog_rows::queues(store, most).await? {
        figures.insert((metric::QUEUE_DEPTH, queue), count as f64);
    }
    let inbox = dead_letter_rows::count_by_queue(store, most).await?;
    let outbox = dead_outbox_rows::count_by_topic(store, most).await?;
    for (queue, count) in inbox.into_iter().chain(outbox) {
        *figures.entry((metric::DEAD_LETTERS, queue)).or_default() += count as f64;
    }
    Ok(figures)
}

/// Of numbers the sum, of ages the highest.
fn together(stores: &[Figures]) -> Figures {
    let mut all = Figures::new();
    for ((gauge, name), figure) in stores.iter().flatten() {
        let sum = all.entry((gauge, name.clone())).or_default();
        *sum = if *gauge == metric::OUTBOX_OLDEST {
            sum.max(*figure)
        } else {
            *sum + figure
        };
    }
    all
}
