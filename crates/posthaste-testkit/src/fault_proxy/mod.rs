//! A TCP proxy that spoils what it carries, as told.
//!
//! A service under test gets the proxy's address instead of its server's. What is injected holds for
//! the connections that exist and for those to come, until [`FaultProxy::heal`]. Faults add up: latency
//! with a drip, say; a second one of the same kind takes the place of the first.

mod carry_bytes;
mod connection;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use connection::Connection;

use crate::servers::{ReservedPort, reserve};

/// Between two attempts to listen again on a port that was given up.
const PAUSE: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server behind the proxy.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both sides are reset, as by a peer that died.
    Reset,
    /// Both sides see the end of the stream, as from a peer that closes.
    Finish,
}

/// What the proxy can do to connections.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Every piece (up to 16 KiB) is held back for `delay` and up to `jitter` more; order is kept.
    Latency {
        /// At least this long.
        delay: Duration,
        /// At most this much longer.
        jitter: Duration,
    },
    /// At most `bytes` bytes of each direction at a time, and then nothing for `every`.
    Drip {
        /// One or more.
        bytes: usize,
        /// The pause between two drips.
        every: Duration,
    },
    /// Each connection is cut once it has carried a number of bytes, drawn from `after` for each, in
    /// `direction`, counted from now or from its beginning.
    Cut {
        /// Which bytes count.
        direction: Direction,
        /// At least one number; `0..1` cuts all that is connected at once.
        after: Range<u64>,
        /// By reset or by the end of the stream.
        by: Cut,
    },
    /// Connections stay, new ones are taken, and nothing arrives in either direction, not even that
    /// the other side has closed. A connection that lost something meanwhile is reset when that ends,
    /// because a stream with a gap is none.
    HalfOpen,
    /// As [`Fault::HalfOpen`] for one direction.
    Drop(Direction),
    /// Nobody listens: new connections are refused. Existing ones stay.
    Refuse,
}

/// What holds at a moment.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Grows with each change, so that a cut counts from its own beginning.
    number: u64,
    latency: Option<(Duration, Duration)>,
    drip: Option<(usize, Duration)>,
    cut: Option<(Direction, Range<u64>, Cut)>,
    cut_since: u64,
    drops_to_server: bool,
    drops_to_client: bool,
    refuses: bool,
}

impl Weather {
    fn drops(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.drops_to_server,
            Direction::ToClient => self.drops_to_client,
        }
    }
}

/// A listening proxy; gone with all its connections when dropped.
pub struct FaultProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
    listening: JoinHandle<()>,
    /// Also while it refuses connections.
    _port: ReservedPort,
}

#[derive(Default)]
struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 below 32768 and forwards to `upstream`. Whatever is left to
    /// chance follows from `seed` and from the order in which connections come.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: SocketAddr, seed: u64) -> Result<Self> {
        let (listener, port) = listen().await?;
        let address = listener.local_addr()?;
        let weather = watch::Sender::new(Weather::default());
        let counters = Arc::<Counters>::default();
        let accepting = Accepting {
            address,
            upstream,
            seed,
            weather: weather.subscribe(),
            counters: counters.clone(),
        };
        let listening = tokio::spawn(accepting.run(listener));
        Ok(Self {
            address,
            weather,
            counters,
            listening,
            _port: port,
        })
    }

    /// Where clients have to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there are now.
    pub fn connections(&self) -> usize {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// How many connections there have been in all.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Brings `fault` on, within a moment.
    pub fn inject(&self, fault: Fault) {
        self.weather.send_modify(|weather| {
            weather.number += 1;
            match fault {
                Fault::Latency { delay, jitter } => weather.latency = Some((delay, jitter)),
                Fault::Drip { bytes, every } => weather.drip = Some((bytes.max(1), every)),
                Fault::Cut { direction, after, by } => {
                    weather.cut = Some((direction, after, by));
                    weather.cut_since = weather.number;
                }
                Fault::HalfOpen => {
                    weather.drops_to_server = true;
                    weather.drops_to_client = true;
                }
                Fault::Drop(Direction::ToServer) => weather.drops_to_server = true,
                Fault::Drop(Direction::ToClient) => weather.drops_to_client = true,
                Fault::Refuse => weather.refuses = true,
            }
        });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            let number = weather.number + 1;
            *weather = Weather {
                number,
                ..Weather::default()
            };
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The next port to try; never given out twice by one process.
static NEXT: AtomicU16 = AtomicU16::new(0);

async fn listen() -> Result<(TcpListener, ReservedPort)> {
    let start = 12_000 + (std::process::id() % 4_000) as u16;
    for _ in 0..2_000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let Some(reserved) = reserve(port) else { continue };
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Ok((listener, reserved));
        }
    }
    anyhow::bail!("no free port for a proxy from {start} on")
}

struct Accepting {
    address: SocketAddr,
    upstream: SocketAddr,
    seed: u64,
    weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
}

impl Accepting {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let refuses = self.weather.borrow_and_update().refuses;
            if refuses {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(self.address).await.ok();
            }
            tokio::select! {
                changed = self.weather.changed() => if changed.is_err() { return },
                accepted = accept(listener.as_ref()) => {
                    let Ok(client) = accepted else { continue };
                    let number = self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                    let open = Open::new(self.counters.clone());
                    let connection = Connection {
                        upstream: self.upstream,
                        weather: self.weather.clone(),
                        chance: Chance::new(self.seed, number),
                    };
                    connections.spawn(async move {
                        connection.run(client).await;
                        drop(open);
                    });
                }
                () = tokio::time::sleep(PAUSE), if listener.is_none() && !refuses => {}
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a connection of the fault proxy");
                },
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await.context("accept")?.0),
        None => std::future::pending().await,
    }
}

/// Counts one connection for as long as it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64, stream: u64) -> Self {
        let mut chance = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `range`; its start if it is empty.
    fn within(&mut self, range: &Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.next() % width
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn chance_follows_from_seed_and_stream() {
        let draw = |seed, stream| {
            let mut chance = Chance::new(seed, stream);
            [(); 8].map(|()| chance.within(&(10..1_000)))
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
        assert!(draw(3, 4).iter().all(|number| (10..1_000).contains(number)));
    }
}
