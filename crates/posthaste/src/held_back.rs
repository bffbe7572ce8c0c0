//! What the relay does not send for a while, because the transport has refused it.
//!
//! A message that was refused holds back its key, so that later ones do not overtake it. When several keys of one
//! destination were refused in a row the fault is the destination's: it is held back as a whole, and one row is tried
//! when its time has come. So what is remembered, read and sent in vain stays small however many rows wait for it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::retry::{back_off, jitter};
use crate::store::outbox_rows::{Destination, Pending, Waiting};

const FIRST_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);
/// After so many refused lanes in a row the destination is held back.
const STREAK: usize = 8;
/// Most keys that a statement leaves out. Rows of further ones are read, and not sent.
const LEFT_OUT: usize = 64;

/// One key's way through the transport: later messages must not overtake a refused one. Those of a topic without a key
/// ask for no order, and share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub destination: Destination,
    key: Option<String>,
}

impl Lane {
    pub fn of(row: &Pending) -> Self {
        Self {
            destination: Destination::of(&row.message),
            key: row.message.key.clone(),
        }
    }
}

/// What became of a row that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Taken,
    Refused,
    /// It can never be sent and was given up; nothing waits for it.
    Dead,
}

/// How often in a row it was refused, and when it is tried again.
#[derive(Clone, Copy)]
struct Wait {
    times: u32,
    at: Instant,
}

impl Wait {
    fn put_off(&mut self) {
        self.at = Instant::now() + back_off(self.times, FIRST_DELAY, MAX_DELAY, jitter());
        self.times = self.times.saturating_add(1);
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            times: 0,
            at: Instant::now(),
        }
    }
}

/// A destination that is held back as a whole.
#[derive(Default)]
struct Held {
    wait: Wait,
    /// The row that was tried last: next time it is another one's turn, should the fault be that row's own.
    tried: i64,
}

/// A key, or the number of a message without one.
type Source = (Option<String>, i64);

/// Destinations, lanes whose oldest message was refused, and single messages of lanes that go on.
#[derive(Default)]
pub(crate) struct HeldBack {
    destinations: HashMap<Destination, Held>,
    lanes: HashMap<Lane, Wait>,
    /// By number; only of those without a key.
    rows: HashMap<i64, Wait>,
    /// What was refused of a destination since it last took something, at most [`STREAK`], and when that was.
    streaks: HashMap<Destination, (HashSet<Source>, Instant)>,
    /// Wait for the next look only: what this one has left behind on a page must not be overtaken from a later page.
    until_next_look: HashSet<Lane>,
    /// As `until_next_look`, whole destinations.
    passed: HashSet<Destination>,
}

impl HeldBack {
    /// A look begins. Forgets those that could have been tried long ago: their rows are gone.
    pub fn begin_look(&mut self, now: Instant) {
        let recent = |wait: &Wait| wait.at > now - MAX_DELAY;
        self.destinations.retain(|_, held| recent(&held.wait));
        self.lanes.retain(|_, wait| recent(wait));
        self.rows.retain(|_, wait| recent(wait));
        self.streaks.retain(|_, (_, at)| *at > now - 2 * MAX_DELAY);
        self.until_next_look.clear();
        self.passed.clear();
    }

    /// What is not to be read in the look that began at `now`: nothing of it is sent.
    pub fn waiting(&self, now: Instant) -> Waiting {
        let lanes = self.lanes.iter().filter(|(_, wait)| wait.at > now);
        let lanes = lanes.map(|(lane, _)| lane).chain(&self.until_next_look);
        // What has no key shares its lane with others of its partition only.
        let lanes = lanes.filter(|lane| lane.key.is_some() || lane.destination.partition.is_none());
        let keys = lanes.map(|lane| (lane.destination.topic.clone(), lane.key.clone()));
        Waiting {
            destinations: self.destinations(now),
            keys: keys.take(LEFT_OUT).collect(),
        }
    }

    /// The destinations of which nothing is sent in the look that began at `now`.
    fn destinations(&self, now: Instant) -> Vec<Destination> {
        let waiting = self.destinations.iter().filter(|(_, held)| held.wait.at > now);
        let waiting = waiting.map(|(destination, _)| destination);
        let all: HashSet<&Destination> = waiting.chain(&self.passed).collect();
        all.into_iter().cloned().collect()
    }

    /// Those of `rows`, a page in its order, that may be sent in the look that began at `now`: of a destination whose time
    /// has come one row.
    pub fn ready(&mut self, mut rows: Vec<Pending>, now: Instant) -> Vec<Pending> {
        let tries = self.tries(&rows, now);
        rows.retain(|row| {
            let lane = Lane::of(row);
            match tries.get(&lane.destination) {
                Some(seq) => *seq == row.seq,
                None => !self.is_held(&lane.destination, now) && self.is_free(&lane, row.seq, now),
            }
        });
        for (destination, seq) in tries {
            if let Some(held) = self.destinations.get_mut(&destination) {
                held.tried = seq;
            }
            self.passed.insert(destination);
        }
        rows
    }

    /// For each destination that is to be tried: which of `rows`. It is the first of its lane, so it overtakes nothing.
    fn tries(&self, rows: &[Pending], now: Instant) -> HashMap<Destination, i64> {
        let mut tries = HashMap::new();
        if self.destinations.is_empty() {
            return tries;
        }
        let mut lanes = HashSet::new();
        for row in rows {
            let lane = Lane::of(row);
            let Some(held) = self.destinations.get(&lane.destination) else {
                continue;
            };
            if self.is_held(&lane.destination, now) || !lanes.insert(lane.clone()) {
                continue;
            }
            let chosen = tries.entry(lane.destination).or_insert(row.seq);
            if *chosen <= held.tried && row.seq > held.tried {
                *chosen = row.seq;
            }
        }
        tries
    }

    fn is_held(&self, destination: &Destination, now: Instant) -> bool {
        let held = self.destinations.get(destination);
        self.passed.contains(destination) || held.is_some_and(|held| held.wait.at > now)
    }

    fn is_free(&self, lane: &Lane, seq: i64, now: Instant) -> bool {
        let wait = self.lanes.get(lane).or_else(|| self.rows.get(&seq));
        wait.is_none_or(|wait| wait.at <= now) && !self.until_next_look.contains(lane)
    }

    pub fn holds_destinations(&self) -> bool {
        !self.destinations.is_empty()
    }

    /// When the next of them may be tried.
    pub fn next(&self) -> Option<Instant> {
        let destinations = self.destinations.values().map(|held| &held.wait);
        let waits = destinations.chain(self.lanes.values()).chain(self.rows.values());
        waits.map(|wait| wait.at).min()
    }

    /// Holds `destination` back as a whole.
    pub fn hold(&mut self, destination: &Destination) {
        self.lanes.retain(|lane, _| lane.destination != *destination);
        self.streaks.remove(destination);
        let held = self.destinations.entry(destination.clone()).or_default();
        held.wait.put_off();
    }

    /// Takes in what became of the rows of a batch, in its order. A refused one without a key waits alone where others of
    /// its destination were taken: the fault is its own.
    pub fn learn(&mut self, batch: &[(Lane, i64, Outcome)]) {
        let mut going = HashSet::new();
        for (lane, seq, outcome) in batch {
            if *outcome == Outcome::Refused {
                continue;
            }
            self.lanes.remove(lane);
            self.rows.remove(seq);
            if *outcome == Outcome::Taken {
                going.insert(&lane.destination);
            }
        }
        let (mut seen, mut held) = (HashSet::new(), HashSet::new());
        for (lane, seq, outcome) in batch {
            let keyed = lane.key.is_some();
            match outcome {
                Outcome::Taken => {
                    self.streaks.remove(&lane.destination);
                    // What else of it lies on this page was left behind.
                    if self.destinations.remove(&lane.destination).is_some() {
                        self.passed.insert(lane.destination.clone());
                    }
                }
                Outcome::Dead => {
                    // Those of its key behind it were not taken on its account, and go with the next look.
                    if keyed && seen.insert(lane) {
                        self.until_next_look.insert(lane.clone());
                    }
                }
                Outcome::Refused if keyed && !seen.insert(lane) => {}
                Outcome::Refused => {
                    if self.destinations.contains_key(&lane.destination) {
                        held.insert(&lane.destination);
                        continue;
                    }
                    let source = (lane.key.clone(), if keyed { 0 } else { *seq });
                    let (streak, at) = self
                        .streaks
                        .entry(lane.destination.clone())
                        .or_insert_with(|| (HashSet::new(), Instant::now()));
                    *at = Instant::now();
                    if streak.len() < STREAK {
                        streak.insert(source);
                    }
                    if streak.len() >= STREAK {
                        held.insert(&lane.destination);
                    }
                    if !keyed && (going.contains(&lane.destination) || self.rows.contains_key(seq)) {
                        self.rows.entry(*seq).or_default().put_off();
                    } else if keyed || seen.insert(lane) {
                        self.lanes.entry(lane.clone()).or_default().put_off();
                    }
                }
            }
        }
        for destination in held {
            // What followed the streak may have been taken.
            if self.destinations.contains_key(destination) || self.streaks.contains_key(destination) {
                self.hold(destination);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    fn destination(topic: &str) -> Destination {
        Destination {
            topic: topic.to_owned(),
            partition: None,
        }
    }

    fn lane(topic: &str, key: Option<&str>) -> Lane {
        Lane {
            destination: destination(topic),
            key: key.map(str::to_owned),
        }
    }

    fn row(seq: i64, topic: &str, key: &str) -> Pending {
        let key = Some(key.to_owned());
        let message = crate::envelope::decode(MessageId::new(), topic.to_owned(), None, key, None, Vec::new());
        Pending { seq, message, age: 0.0 }
    }

    fn refused(topic: &str, lanes: std::ops::Range<i64>) -> Vec<(Lane, i64, Outcome)> {
        lanes
            .map(|n| (lane(topic, Some(&format!("k{n}"))), n, Outcome::Refused))
            .collect()
    }

    fn seqs(rows: &[Pending]) -> Vec<i64> {
        rows.iter().map(|row| row.seq).collect()
    }

    #[test]
    fn a_refused_message_holds_back_its_key() {
        let (mut held, now, key) = (HeldBack::default(), Instant::now(), lane("t", Some("k")));
        held.learn(&[
            (key.clone(), 1, Outcome::Taken),
            (key.clone(), 2, Outcome::Refused),
            (key.clone(), 3, Outcome::Refused),
        ]);
        assert!(!held.is_free(&key, 2, now) && !held.is_free(&key, 4, now));
        assert!(held.is_free(&lane("t", Some("other")), 5, now));
        assert!(held.next().is_some_and(|at| at <= now + 2 * MAX_DELAY));
        held.learn(&[(key.clone(), 2, Outcome::Taken)]);
        assert!(held.is_free(&key, 3, now));
    }

    #[test]
    fn without_a_key_it_waits_alone_while_others_are_taken() {
        let (mut held, now, none) = (HeldBack::default(), Instant::now(), lane("t", None));
        held.learn(&[(none.clone(), 1, Outcome::Taken), (none.clone(), 2, Outcome::Refused)]);
        assert!(!held.is_free(&none, 2, now));
        assert!(held.is_free(&none, 3, now));
        held.learn(&[(none.clone(), 2, Outcome::Refused)]);
        assert!(held.is_free(&none, 3, now), "tried again by itself");
        // The transport is away: what waits stays bounded by topics.
        held.learn(&[(none.clone(), 2, Outcome::Refused), (none.clone(), 3, Outcome::Refused)]);
        assert!(!held.is_free(&none, 4, now));
    }

    #[test]
    fn a_destination_of_which_much_was_refused_is_held_back_as_a_whole_and_tried_with_one_row() {
        let (mut held, now) = (HeldBack::default(), Instant::now());
        held.learn(&refused("t", 0..500));
        assert_eq!(held.destinations(now), [destination("t")]);
        assert!(held.lanes.is_empty(), "bounded");
        let page = || {
            vec![
                row(1, "t", "k1"),
                row(2, "t", "k1"),
                row(3, "t", "k3"),
                row(4, "u", "k"),
            ]
        };
        assert_eq!(seqs(&held.ready(page(), now)), [4]);
        // Its time has come.
        let later = now + MAX_DELAY;
        held.begin_look(later);
        assert_eq!(seqs(&held.ready(page(), later)), [1, 4]);
        assert_eq!(held.destinations(later), [destination("t")], "one in a look");
        held.learn(&[(lane("t", Some("k1")), 1, Outcome::Refused)]);
        let later = Instant::now() + MAX_DELAY;
        held.begin_look(later);
        assert_eq!(
            seqs(&held.ready(page(), later)),
            [3, 4],
            "another one's turn, the first of its key"
        );
        held.learn(&[(lane("t", Some("k3")), 3, Outcome::Taken)]);
        assert_eq!(held.destinations(later), [destination("t")], "the page was left behind");
        held.begin_look(later);
        assert_eq!(seqs(&held.ready(page(), later)), [1, 2, 3, 4]);
    }

    #[test]
    fn a_partition_of_an_ordered_topic_is_a_destination_of_its_own() {
        let ordered = |seq, key: &str| {
            let mut row = row(seq, "t", key);
            row.message.ordered = true;
            row
        };
        let rows: Vec<Pending> = (0..100).map(|n| ordered(n, &format!("k{n}"))).collect();
        let full = Lane::of(&rows[0]).destination;
        let (mut held, now) = (HeldBack::default(), Instant::now());
        held.hold(&full);
        let of_full = rows.iter().filter(|row| Lane::of(row).destination == full).count();
        assert!(of_full > 0 && of_full < 50);
        assert_eq!(held.ready(rows, now).len(), 100 - of_full);
    }

    #[test]
    fn one_bad_key_and_what_goes_between_hold_no_destination_back() {
        let (mut held, now) = (HeldBack::default(), Instant::now());
        for _ in 0..2 * STREAK {
            held.learn(&refused("t", 0..1));
        }
        assert!(held.destinations(now).is_empty());
        let mut batch = refused("t", 0..20);
        batch.push((lane("t", Some("good")), 20, Outcome::Taken));
        held.learn(&batch);
        assert!(held.destinations(now).is_empty());
        assert!(
            !held.is_free(&lane("t", Some("k19")), 30, now),
            "its key waits all the same"
        );
    }

    #[test]
    fn what_lies_behind_a_dead_one_waits_for_the_next_look_only() {
        let (mut held, now, key) = (HeldBack::default(), Instant::now(), lane("t", Some("k")));
        held.learn(&[(key.clone(), 1, Outcome::Dead), (key.clone(), 2, Outcome::Refused)]);
        assert!(!held.is_free(&key, 3, now));
        held.begin_look(now);
        assert!(held.is_free(&key, 2, now));
    }
}
