//! What a client's thread does at the failpoints: count, die, freeze.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use posthaste::failpoint::{self, Mutant};
use tokio::sync::Notify;

use super::lock;

/// One hit of one point.
pub(crate) type Target = (&'static str, u32);

/// Counts hits and tells when the target is reached.
#[derive(Default)]
pub(crate) struct Probe {
    hits: Mutex<BTreeMap<&'static str, u32>>,
    reached: Notify,
    passed: Notify,
}

impl Probe {
    fn hit(&self, point: &'static str) -> u32 {
        let mut hits = lock(&self.hits);
        let count = hits.entry(point).or_default();
        *count += 1;
        self.passed.notify_waiters();
        *count
    }

    /// How often each point was hit.
    pub fn hits(&self) -> BTreeMap<&'static str, u32> {
        lock(&self.hits).clone()
    }

    /// Waits until `point` has been hit.
    pub async fn passed(&self, point: &'static str) {
        loop {
            let passed = self.passed.notified();
            tokio::pin!(passed);
            // Interest first, look second: a hit in between is not missed.
            passed.as_mut().enable();
            if lock(&self.hits).contains_key(point) {
                return;
            }
            passed.await;
        }
    }

    /// Tells that the client ends or stops here.
    pub fn reach(&self) {
        self.reached.notify_one();
    }

    /// Waits for [`Probe::reach`].
    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}

/// A probe on this thread, until dropped.
pub(crate) struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        failpoint::install(None);
        failpoint::mutate(None);
    }
}

/// Counts on this thread, and never returns from `target`.
pub(crate) fn install_crash(probe: &Arc<Probe>, target: Option<Target>, mutant: Option<Mutant>) -> Installed {
    let told = probe.clone();
    install_with(probe, target, mutant, move || {
        told.reach();
        Box::pin(pending())
    })
}

/// Counts on this thread, and at `target` does what `then` says.
pub(crate) fn install_with(
    probe: &Arc<Probe>,
    target: Option<Target>,
    mutant: Option<Mutant>,
    then: impl Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
) -> Installed {
    let probe = probe.clone();
    failpoint::mutate(mutant);
    failpoint::install(Some(Arc::new(move |point| {
        let count = probe.hit(point);
        if target != Some((point, count)) {
            return Box::pin(std::future::ready(()));
        }
        then()
    })));
    Installed
}
