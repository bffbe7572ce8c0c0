//! Named points between two steps, where the crash explorer stops, kills or pauses the process.
//! Without the feature `explore` they compile to nothing.

#[cfg(feature = "explore")]
use std::{cell::RefCell, future::Future, pin::Pin, sync::Arc};

/// What the explorer does at a point: a future that returns to go on, or never does.
#[cfg(feature = "explore")]
pub type Probe = Arc<dyn Fn(&'static str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[cfg(feature = "explore")]
thread_local! {
    static PROBE: RefCell<Option<Probe>> = const { RefCell::new(None) };
}

/// Installs `probe` for everything that runs on this thread.
#[cfg(feature = "explore")]
pub fn install(probe: Option<Probe>) {
    PROBE.with(|slot| *slot.borrow_mut() = probe);
}

#[cfg(feature = "explore")]
pub(crate) async fn hit(point: &'static str) {
    let probe = PROBE.with(|slot| slot.borrow().clone());
    if let Some(probe) = probe {
        probe(point).await;
    }
}

#[cfg(not(feature = "explore"))]
#[inline]
pub(crate) async fn hit(_point: &'static str) {}

/// A deliberate defect, to prove that the explorer finds it.
#[cfg(feature = "explore")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The relay marks rows published before the broker has confirmed them.
    MarkBeforeConfirm,
    /// The consumer acknowledges before its transaction commits.
    AckBeforeCommit,
    /// The inbox mark is written in a transaction of its own, before the handler's.
    MarkOutsideTransaction,
    /// Lost leases are not noticed: no check before publishing, none in the mark.
    NoFencing,
    /// The relay reads behind the last number it saw instead of by pending state.
    Cursor,
    /// The low-water mark takes a snapshot's xmax for the id that comes next.
    SnapshotXmax,
}

#[cfg(feature = "explore")]
thread_local! {
    static MUTANT: RefCell<Option<Mutant>> = const { RefCell::new(None) };
}

/// Makes everything on this thread misbehave as `mutant` says.
#[cfg(feature = "explore")]
pub fn mutate(mutant: Option<Mutant>) {
    MUTANT.with(|slot| *slot.borrow_mut() = mutant);
}

/// Whether this thread runs with the named mutant.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "explore")]
        {
            $crate::failpoint::is($crate::failpoint::Mutant::$name)
        }
        #[cfg(not(feature = "explore"))]
        {
            false
        }
    }};
}
pub(crate) use mutant;

#[cfg(feature = "explore")]
pub(crate) fn is(mutant: Mutant) -> bool {
    MUTANT.with(|slot| *slot.borrow() == Some(mutant))
}
