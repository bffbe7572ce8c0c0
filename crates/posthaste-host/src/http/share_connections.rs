//! How many connections one client may have open: whoever takes all of them shuts everybody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::client_address::{ClientAddress, TrustedProxies};

/// The open connections of all clients. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shares(Arc<Inner>);

struct Inner {
    most: usize,
    /// Whose connections are many clients'; `None`: nobody's.
    proxies: Option<TrustedProxies>,
    began: Instant,
    open: Mutex<HashMap<String, Vec<Arc<Seat>>>>,
    told: Once,
}

/// One connection.
struct Seat {
    /// Milliseconds from the start to its last request.
    used: AtomicU64,
    evicted: CancellationToken,
}

/// A connection's place among those of its client; given back when it is dropped.
pub(super) struct Place {
    shares: Shares,
    /// `None` where nothing is counted.
    seat: Option<(String, Arc<Seat>)>,
}

impl Shares {
    pub(super) fn new(most: usize, proxies: Option<TrustedProxies>) -> Self {
        Self(Arc::new(Inner {
            most,
            proxies,
            began: Instant::now(),
            open: Mutex::default(),
            told: Once::new(),
        }))
    }

    /// A place for one more connection of `peer`. Where it has its share already, the one that was idle for longest is
    /// closed; `None`: all of them are being closed.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Place> {
        let shares = self.clone();
        if self.is_exempt(peer) {
            return Some(Place { shares, seat: None });
        }
        let client = ClientAddress(peer.to_canonical()).bucket();
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let seats = open.entry(client.clone()).or_default();
        if seats.len() >= self.0.most {
            self.tell();
            let waiting = seats.iter().filter(|seat| !seat.evicted.is_cancelled());
            let oldest = waiting.min_by_key(|seat| seat.used.load(Ordering::Relaxed))?;
            oldest.evicted.cancel();
            // It counts until it is gone, so that no more than twice as many are ever open.
            if seats.len() >= self.0.most * 2 {
                return None;
            }
        }
        let seat = Arc::new(Seat {
            used: AtomicU64::new(self.now()),
            evicted: CancellationToken::new(),
        });
        seats.push(seat.clone());
        drop(open);
        Some(Place {
            shares,
            seat: Some((client, seat)),
        })
    }

    fn is_exempt(&self, peer: IpAddr) -> bool {
        let proxies = self.0.proxies.as_ref();
        self.0.most == 0 || proxies.is_some_and(|proxies| peer.to_canonical().is_loopback() || proxies.trust(peer))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tell(&self) {
        self.0.told.call_once(|| {
            tracing::warn!(
                most = self.0.most,
                "one address has as many connections as HTTP_CONNECTIONS_PER_ADDRESS allows: for each new one the \
                 longest idle one is closed. If it is a proxy, name it in TRUSTED_PROXIES"
            );
        });
    }
}

impl Place {
    /// Notes that a request has come.
    pub(super) fn touch(&self) {
        if let Some((_, seat)) = &self.seat {
            seat.used.store(self.shares.now(), Ordering::Relaxed);
        }
    }

    /// Ends when another connection of the client needs the place.
    pub(super) async fn evicted(&self) {
        match &self.seat {
            Some((_, seat)) => seat.evicted.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((client, seat)) = self.seat.take() else {
            return;
        };
        let mut open = self.shares.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seats) = open.get_mut(&client) {
            seats.retain(|other| !Arc::ptr_eq(other, &seat));
            if seats.is_empty() {
                open.remove(&client);
            }
        }
    }
}
