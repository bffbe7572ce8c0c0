//! What does not work on a database and its queues, since when and why: for health, metrics and one log line each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::message::now;
use crate::telemetry::metric;

/// A subscription that fails for so long does not read. Restarts of servers and rebalances are over by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// A failure that has not come again for so long is over, also where nothing has come to prove it.
const QUIET: Duration = Duration::from_secs(60);
/// One heartbeat may fail: a collision, a connection that was cut.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Something that does not work.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What it is.
    pub what: What,
    /// Since when, by this process's clock.
    pub since: DateTime<Utc>,
    /// Why, as an operator reads it; may name hosts.
    pub why: String,
    /// How many rows wait, where rows do; counted among the oldest 10 000.
    pub rows: Option<u64>,
}

/// What does not work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A subscription of this process receives nothing, or cannot store what it receives.
    Reading {
        /// Its name.
        subscription: String,
    },
    /// This process cannot write to the database.
    Writing,
    /// Outbox rows lie in partitions that no living process with the role relay has.
    Outbox {
        /// Whose.
        service: String,
    },
    /// Rows of a `sql:` queue lie in partitions that no living process with the role worker has.
    Queue {
        /// Whose.
        service: String,
        /// Which.
        queue: String,
    },
}

/// What the loops on one database report.
#[derive(Default)]
pub(crate) struct Status(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    readers: BTreeMap<String, Arc<Reader>>,
    writing: Option<Failing>,
    unserved: BTreeMap<What, Unserved>,
}

/// Receiving and handling fail and recover each by itself: a channel that opens says nothing of the table that is full.
#[derive(Default)]
struct Reader {
    fails: AtomicBool,
    receiving: Mutex<Option<Failing>>,
    handling: Mutex<Option<Failing>>,
}

struct Failing {
    since: Instant,
    last: Instant,
    at: DateTime<Utc>,
    why: String,
    /// Stands until it is taken back, whether it is repeated or not.
    lasting: bool,
    told: bool,
}

struct Unserved {
    since: Instant,
    at: DateTime<Utc>,
    rows: u64,
    shown_after: Duration,
    told: bool,
}

impl Failing {
    fn note(slot: &mut Option<Self>, why: String, lasting: bool, moment: Instant) {
        match slot {
            Some(failing) if failing.goes_on(moment) => {
                failing.last = moment;
                failing.why = why;
                failing.lasting |= lasting;
            }
            _ => {
                *slot = Some(Self {
                    since: moment,
                    last: moment,
                    at: now(),
                    why,
                    lasting,
                    told: false,
                });
            }
        }
    }

    fn goes_on(&self, moment: Instant) -> bool {
        self.lasting || moment - self.last < QUIET
    }

    fn has_lasted(&self, patience: Duration, moment: Instant) -> bool {
        self.goes_on(moment) && moment - self.since >= patience
    }
}

impl Status {
    /// Where the reader `name` reports.
    pub fn reader(self: &Arc<Self>, name: &str) -> ReadingStatus {
        let reader = self.inner().readers.entry(name.to_owned()).or_default().clone();
        let reading = ReadingStatus {
            name: name.to_owned(),
            reader,
        };
        reading.gauge(true);
        reading
    }

    /// How the heartbeat, which writes, ended.
    pub fn heartbeat(&self, ended: Result<(), String>) {
        self.heartbeat_at(ended, Instant::now());
    }

    fn heartbeat_at(&self, ended: Result<(), String>, moment: Instant) {
        let writing = &mut self.inner().writing;
        match ended {
            Ok(()) => *writing = None,
            Err(why) => Failing::note(writing, why, true, moment),
        }
    }

    /// The rows that a look has found waiting without a living owner of their partition; looked for more often than each
    /// `lease`.
    pub fn unserved(&self, found: Vec<(What, u64)>, lease: Duration) {
        self.unserved_at(found, lease, Instant::now());
    }

    fn unserved_at(&self, found: Vec<(What, u64)>, lease: Duration, moment: Instant) {
        let unserved = &mut self.inner().unserved;
        unserved.retain(|what, _| found.iter().any(|(other, _)| other == what));
        for (what, rows) in found {
            let one = unserved.entry(what.clone()).or_insert_with(|| Unserved {
                since: moment,
                at: now(),
                rows,
                // A living member would have taken them by now.
                shown_after: lease / 2,
                told: false,
            });
            one.rows = rows;
            if !one.told && moment - one.since >= 2 * lease {
                one.told = true;
                tracing::warn!(?what, rows, since = %one.at, "rows wait and no living process has their partition");
            }
        }
    }

    /// What does not work now; writes the gauges of it.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles_at(Instant::now())
    }

    fn troubles_at(&self, moment: Instant) -> Vec<Trouble> {
        let inner = self.inner();
        let mut troubles = Vec::new();
        for (name, reader) in &inner.readers {
            let reading = ReadingStatus {
                name: name.clone(),
                reader: reader.clone(),
            };
            let trouble = reading.trouble_at(moment);
            reading.gauge(trouble.is_none());
            troubles.extend(trouble);
        }
        if let Some(writing) = inner.writing.as_ref().filter(|it| it.has_lasted(HEARTBEAT, moment)) {
            troubles.push(Trouble {
                what: What::Writing,
                since: writing.at,
                why: writing.why.clone(),
                rows: None,
            });
        }
        let waiting = inner.unserved.iter();
        troubles.extend(
            waiting
                .filter(|(_, one)| moment - one.since >= one.shown_after)
                .map(|(what, one)| Trouble {
                    what: what.clone(),
                    since: one.at,
                    why: "rows wait and no living process has their partition".to_owned(),
                    rows: Some(one.rows),
                }),
        );
        troubles
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one reader reports. Cheap to clone, and to report to while nothing fails.
#[derive(Clone)]
pub(crate) struct ReadingStatus {
    name: String,
    reader: Arc<Reader>,
}

impl ReadingStatus {
    /// Nothing can be received, for this reason.
    pub fn cannot_receive(&self, why: String) {
        self.fails(&self.reader.receiving, why, false, Instant::now());
    }

    /// The same for what the transport says once: it stands until something is received.
    #[cfg(feature = "kafka")]
    pub fn cannot_receive_until_it_does(&self, why: String) {
        self.fails(&self.reader.receiving, why, true, Instant::now());
    }

    /// The queue is open, or something has come.
    pub fn receives(&self) {
        self.works(&self.reader.receiving);
    }

    /// What was received cannot be stored, for this reason.
    pub fn cannot_handle(&self, why: String) {
        self.fails(&self.reader.handling, why, false, Instant::now());
    }

    /// What was received is settled.
    pub fn handles(&self) {
        self.works(&self.reader.handling);
    }

    fn fails(&self, side: &Mutex<Option<Failing>>, why: String, lasting: bool, moment: Instant) {
        self.reader.fails.store(true, Relaxed);
        let mut side = side.lock().unwrap_or_else(PoisonError::into_inner);
        Failing::note(&mut side, why, lasting, moment);
        if let Some(failing) = side.as_mut() {
            self.tell(failing, moment);
        }
    }

    fn works(&self, side: &Mutex<Option<Failing>>) {
        // Asked for each record of a topic.
        if self.reader.fails.load(Relaxed) {
            *side.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn trouble_at(&self, moment: Instant) -> Option<Trouble> {
        [&self.reader.receiving, &self.reader.handling]
            .into_iter()
            .find_map(|side| {
                let mut side = side.lock().unwrap_or_else(PoisonError::into_inner);
                let failing = side.as_mut().filter(|it| it.has_lasted(PATIENCE, moment))?;
                self.tell(failing, moment);
                Some(Trouble {
                    what: What::Reading {
                        subscription: self.name.clone(),
                    },
                    since: failing.at,
                    why: failing.why.clone(),
                    rows: None,
                })
            })
    }

    /// One line once it has lasted.
    fn tell(&self, failing: &mut Failing, moment: Instant) {
        if !failing.told && failing.has_lasted(PATIENCE, moment) {
            failing.told = true;
            tracing::warn!(
                subscription = self.name,
                since = %failing.at,
                error = failing.why,
                "the subscription reads nothing"
            );
        }
    }

    fn gauge(&self, reads: bool) {
        metrics::gauge!(metric::CONSUMER_READING, "subscription" => self.name.clone()).set(f64::from(u8::from(reads)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Failing, PATIENCE, QUIET, Status, What};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_shows_once_it_has_lasted_and_ends_with_a_success_or_in_silence() {
        let start = Instant::now();
        let mut slot = None;
        Failing::note(&mut slot, "away".to_owned(), false, start);
        Failing::note(&mut slot, "refused".to_owned(), false, start + PATIENCE - SECOND);
        let shown =
            |slot: &Option<Failing>, at| slot.as_ref().is_some_and(|one: &Failing| one.has_lasted(PATIENCE, at));
        assert!(!shown(&slot, start + PATIENCE - SECOND));
        assert!(shown(&slot, start + PATIENCE));
        assert_eq!(slot.as_ref().map(|one| one.why.as_str()), Some("refused"));
        assert!(!shown(&slot, start + PATIENCE + QUIET), "it has not come again");
        Failing::note(&mut slot, "away".to_owned(), true, start + PATIENCE + QUIET);
        assert!(!shown(&slot, start + PATIENCE + QUIET), "that is another one");
        assert!(shown(&slot, start + 10 * QUIET), "said once, it stands");
    }

    #[test]
    fn an_open_channel_does_not_hide_that_nothing_can_be_stored() {
        let status = Arc::new(Status::default());
        let reading = status.reader("orders.place");
        let start = Instant::now();
        for second in 0..40 {
            reading.receives();
            let side = &reading.reader.handling;
            reading.fails(
                side,
                "the packet is too large".to_owned(),
                false,
                start + second * SECOND,
            );
        }
        let troubles = status.troubles_at(start + 40 * SECOND);
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        assert_eq!(troubles[0].why, "the packet is too large");
        reading.handles();
        assert!(status.troubles_at(start + 41 * SECOND).is_empty());
    }

    #[test]
    fn rows_without_an_owner_show_before_they_are_a_warning() {
        let status = Status::default();
        let (start, lease) = (Instant::now(), Duration::from_secs(10));
        let outbox = |rows| {
            let service = "orders".to_owned();
            vec![(What::Outbox { service }, rows)]
        };
        status.unserved_at(outbox(3), lease, start);
        assert!(
            status.troubles_at(start).is_empty(),
            "a living member may take them yet"
        );
        status.unserved_at(outbox(4), lease, start + 6 * SECOND);
        let troubles = status.troubles_at(start + 6 * SECOND);
        assert_eq!(troubles.iter().map(|one| one.rows).collect::<Vec<_>>(), [Some(4)]);
        let told = |status: &Status| status.inner().unserved.values().all(|one| one.told);
        assert!(!told(&status));
        status.unserved_at(outbox(4), lease, start + 20 * SECOND);
        assert!(told(&status));
        status.unserved_at(Vec::new(), lease, start + 21 * SECOND);
        assert!(status.troubles_at(start + 21 * SECOND).is_empty());
    }

    #[test]
    fn a_heartbeat_that_fails_twice_shows() {
        let status = Status::default();
        let start = Instant::now();
        let away = || Err("read only".to_owned());
        status.heartbeat_at(away(), start);
        assert!(status.troubles_at(start).is_empty());
        status.heartbeat_at(away(), start + 3 * SECOND);
        let troubles = status.troubles_at(start + 3 * SECOND);
        assert_eq!(
            troubles.iter().map(|one| &one.what).collect::<Vec<_>>(),
            [&What::Writing]
        );
        status.heartbeat_at(Ok(()), start + 6 * SECOND);
        assert!(status.troubles_at(start + 6 * SECOND).is_empty());
    }
}
