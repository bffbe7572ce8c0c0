//! What the relay does not send for a while, because the transport has refused it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::retry::{back_off, jitter};
use crate::store::outbox_rows::Pending;

const FIRST_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);

/// One key's way through the transport: later messages must not overtake a refused one. Those of a topic without a key
/// ask for no order, and share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    topic: String,
    key: Option<String>,
}

impl Lane {
    pub fn of(row: &Pending) -> Self {
        Self {
            topic: row.message.topic.clone(),
            key: row.message.key.clone(),
        }
    }
}

/// How often in a row it was refused, and when it is tried again.
type Wait = (u32, Instant);

/// Lanes whose oldest message was refused, and single messages of lanes that go on.
#[derive(Default)]
pub(crate) struct HeldBack {
    lanes: HashMap<Lane, Wait>,
    /// By number; only of those without a key.
    rows: HashMap<i64, Wait>,
}

impl HeldBack {
    /// Whether the row `seq` of `lane` may be sent.
    pub fn is_free(&self, lane: &Lane, seq: i64, now: Instant) -> bool {
        let waits = self.lanes.get(lane).or_else(|| self.rows.get(&seq));
        waits.is_none_or(|(_, at)| *at <= now)
    }

    /// When the next of them may be tried.
    pub fn next(&self) -> Option<Instant> {
        self.lanes.values().chain(self.rows.values()).map(|(_, at)| *at).min()
    }

    /// Forgets those that could have been tried long ago: their rows are gone.
    pub fn forget_old(&mut self, now: Instant) {
        let recent = |(_, at): &mut Wait| *at > now - MAX_DELAY;
        self.lanes.retain(|_, wait| recent(wait));
        self.rows.retain(|_, wait| recent(wait));
    }

    /// Takes in which rows of a batch were taken. A refused one without a key waits alone where others of its topic
    /// were taken: the fault is its own.
    pub fn learn(&mut self, batch: impl IntoIterator<Item = (Lane, i64, bool)>) {
        let (taken, refused): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(.., taken)| *taken);
        let mut going = HashSet::new();
        for (lane, seq, _) in taken {
            self.lanes.remove(&lane);
            self.rows.remove(&seq);
            if lane.key.is_none() {
                going.insert(lane);
            }
        }
        let mut lanes = HashSet::new();
        for (lane, seq, _) in refused {
            if going.contains(&lane) || self.rows.contains_key(&seq) {
                put_off(self.rows.entry(seq).or_insert((0, Instant::now())));
            } else {
                lanes.insert(lane);
            }
        }
        for lane in lanes {
            put_off(self.lanes.entry(lane).or_insert((0, Instant::now())));
        }
    }
}

fn put_off((times, at): &mut Wait) {
    *at = Instant::now() + back_off(*times, FIRST_DELAY, MAX_DELAY, jitter());
    *times = times.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(key: Option<&str>) -> Lane {
        Lane {
            topic: "t".to_owned(),
            key: key.map(str::to_owned),
        }
    }

    #[test]
    fn a_refused_message_holds_back_its_key() {
        let (mut held, now, key) = (HeldBack::default(), Instant::now(), lane(Some("k")));
        held.learn([(key.clone(), 1, true), (key.clone(), 2, false), (key.clone(), 3, false)]);
        assert!(!held.is_free(&key, 2, now) && !held.is_free(&key, 4, now));
        assert!(held.is_free(&lane(Some("other")), 5, now));
        assert!(held.next().is_some_and(|at| at <= now + 2 * MAX_DELAY));
        held.learn([(key.clone(), 2, true)]);
        assert!(held.is_free(&key, 3, now));
    }

    #[test]
    fn without_a_key_it_waits_alone_while_others_are_taken() {
        let (mut held, now, none) = (HeldBack::default(), Instant::now(), lane(None));
        held.learn([(none.clone(), 1, true), (none.clone(), 2, false)]);
        assert!(!held.is_free(&none, 2, now));
        assert!(held.is_free(&none, 3, now));
        held.learn([(none.clone(), 2, false)]);
        assert!(held.is_free(&none, 3, now), "tried again by itself");
        // The transport is away: what waits stays bounded by topics.
        held.learn([(none.clone(), 2, false), (none.clone(), 3, false)]);
        assert!(!held.is_free(&none, 4, now));
    }
}
