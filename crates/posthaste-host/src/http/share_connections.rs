//! How many connections one client may have open, and which is closed for a new one: whoever takes all of them shuts
//! everybody else out.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::client_address::{ClientAddress, TrustedProxies};
use super::guard_connection::Watch;

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
    told_full: Once,
}

/// One connection.
struct Seat {
    /// One site, which may have many addresses.
    network: IpAddr,
    /// Milliseconds from the start to its last request.
    used: AtomicU64,
    watch: Arc<Watch>,
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
            told_full: Once::new(),
        }))
    }

    /// A place for one more connection of `peer`, which `watch` watches. Where it has its share already, the one that was
    /// idle for longest is closed; `None`: all of them are being closed.
    pub(super) fn take(&self, peer: IpAddr, watch: &Arc<Watch>) -> Option<Place> {
        let shares = self.clone();
        if self.is_exempt(peer) {
            return Some(Place { shares, seat: None });
        }
        let client = ClientAddress(peer.to_canonical()).bucket();
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let seats = open.entry(client.clone()).or_default();
        if self.0.most > 0 && seats.len() >= self.0.most {
            self.tell();
            let waiting = seats.iter().filter(|seat| !seat.evicted.is_cancelled());
            let oldest = waiting.min_by_key(|seat| seat.used())?;
            oldest.evicted.cancel();
            // It counts until it is gone, so that no more than twice as many are ever open.
            if seats.len() >= self.0.most * 2 {
                return None;
            }
        }
        let seat = Arc::new(Seat {
            network: network(peer.to_canonical()),
            used: AtomicU64::new(self.now()),
            watch: watch.clone(),
            evicted: CancellationToken::new(),
        });
        seats.push(seat.clone());
        drop(open);
        Some(Place {
            shares,
            seat: Some((client, seat)),
        })
    }

    /// Closes one connection for a new one, where there are as many as there may be: of the network that has the most, the
    /// one that was idle for longest. A connection with a request at work is not closed.
    pub(super) fn make_room(&self) {
        self.0.told_full.call_once(|| {
            tracing::warn!(
                "there are as many connections as this process takes: for each new one an idle one is closed"
            );
        });
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut networks: HashMap<IpAddr, (usize, Option<&Seat>)> = HashMap::new();
        for seat in open.values().flatten() {
            let (count, oldest) = networks.entry(seat.network).or_default();
            *count += 1;
            let is_older = oldest.is_none_or(|oldest| seat.used() < oldest.used());
            if is_older && !seat.evicted.is_cancelled() && seat.watch.is_idle() {
                *oldest = Some(seat);
            }
        }
        let idle = networks
            .values()
            .filter_map(|(count, oldest)| oldest.map(|seat| (*count, seat)));
        if let Some((_, seat)) = idle.max_by_key(|(count, seat)| (*count, Reverse(seat.used()))) {
            seat.evicted.cancel();
        }
    }

    fn is_exempt(&self, peer: IpAddr) -> bool {
        let proxies = self.0.proxies.as_ref();
        proxies.is_some_and(|proxies| peer.to_canonical().is_loopback() || proxies.trust(peer))
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

impl Seat {
    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// An IPv4 address, or the /48 that one IPv6 site has: 65,536 networks of /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_with_the_most_connections_gives_one_up() {
        let shares = Shares::new(128, None);
        let take = |address: &str| {
            let watch = Arc::new(Watch::idle());
            shares
                .take(address.parse().expect("an address"), &watch)
                .expect("a place")
        };
        let evicted = |place: &Place| place.seat.as_ref().is_some_and(|(_, seat)| seat.evicted.is_cancelled());
        let first = take("203.0.113.1");
        // One site, each connection from a /64 of its own.
        let many: Vec<Place> = (0..5).map(|n| take(&format!("2001:db8:7:{n:x}::1"))).collect();
        let last = take("2001:db8:8::1");
        for round in 1..=4 {
            shares.make_room();
            assert_eq!(many.iter().filter(|place| evicted(place)).count(), round);
        }
        assert!(!evicted(&first) && !evicted(&last));
        drop(many);
        shares.make_room();
        assert!(evicted(&first) || evicted(&last), "one is closed whoever has it");
    }
}
