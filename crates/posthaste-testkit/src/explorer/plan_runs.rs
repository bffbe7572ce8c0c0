//! Which runs to make, the telling ones first.

use std::collections::BTreeMap;
use std::fmt;

use super::Transport;

/// What happens to the client in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the run that counts the failpoints.
    Undisturbed,
    /// The process dies at the `nth` hit (from 1) of `point`.
    Crash {
        /// The failpoint.
        point: &'static str,
        /// Which hit of it.
        nth: u32,
    },
    /// The process dies at the first hit of `point`, and its successor dies there too.
    CrashTwice {
        /// The failpoint.
        point: &'static str,
    },
    /// The broker refuses everything until the relay has tried once.
    Outage,
    /// The broker refuses the oldest message until the relay has tried once.
    Refuse,
    /// Everything on the wire comes once more after it was handled.
    Repeat,
    /// What waits in the queues is delivered twice; in unordered ones with neighbours swapped.
    Swap,
    /// The process freezes at `point`, another one takes over, then the first one goes on.
    Freeze {
        /// The failpoint.
        point: &'static str,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undisturbed => f.write_str("undisturbed"),
            Self::Crash { point, nth } => write!(f, "crash at hit {nth} of {point}"),
            Self::CrashTwice { point } => write!(f, "crash at {point}, and again after the restart"),
            Self::Outage => f.write_str("broker outage"),
            Self::Refuse => f.write_str("one message refused"),
            Self::Repeat => f.write_str("everything delivered again"),
            Self::Swap => f.write_str("deliveries doubled and swapped"),
            Self::Freeze { point } => write!(f, "frozen at {point} while another process takes over"),
        }
    }
}

/// Points at which no transaction is open: a process frozen in one would hold SQLite's only write lock.
/// Between `relay.publishing` and the publish there is no check any more, so it is not among them.
const FREEZABLE: &[&str] = &[
    "relay.claimed",
    "relay.checked",
    "relay.published",
    "relay.marked",
    "consumer.received",
    "consumer.committed",
    "consumer.acknowledged",
    "retrier.claimed",
    "retrier.committed",
];

/// Whether only the relay of a process has to freeze at `point`.
pub(crate) fn relays_only(point: &str) -> bool {
    point.starts_with("relay.")
}

/// At most `max` runs for what the undisturbed one has hit. `shared`: two processes may read one queue
/// without breaking an order that was asked for.
pub(crate) fn all(hits: &BTreeMap<&'static str, u32>, transport: Transport, shared: bool, max: usize) -> Vec<Plan> {
    let mut plans = vec![Plan::Repeat];
    if transport == Transport::Memory {
        plans.extend([Plan::Outage, Plan::Refuse]);
    }
    plans.push(Plan::Swap);
    let points = || hits.iter().map(|(point, count)| (*point, *count));
    plans.extend(points().map(|(point, _)| Plan::Crash { point, nth: 1 }));
    let freezable = points().filter(|(point, _)| FREEZABLE.contains(point) && (shared || relays_only(point)));
    plans.extend(freezable.map(|(point, _)| Plan::Freeze { point }));
    let last = points().filter(|(_, count)| *count > 1);
    plans.extend(last.map(|(point, nth)| Plan::Crash { point, nth }));
    plans.extend(points().map(|(point, _)| Plan::CrashTwice { point }));
    let most = hits.values().copied().max().unwrap_or(0);
    for nth in 2..most {
        let middle = points().filter(|(_, count)| nth < *count);
        plans.extend(middle.map(|(point, _)| Plan::Crash { point, nth }));
    }
    plans.truncate(max);
    plans
}
