//! One direction of one connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Chance, Cut, Direction, Weather};

/// The most that is read at once.
const PIECE: usize = 16 * 1024;

/// The connection is over for both directions.
pub(super) struct Ended(pub(super) Cut);

pub(super) struct Pipe {
    direction: Direction,
    weather: watch::Receiver<Weather>,
    chance: Chance,
    /// The cut that the rest counts for, and how many bytes may still pass.
    cut: Option<(u64, u64)>,
    /// Something did not arrive.
    lost: bool,
}

impl Pipe {
    pub(super) fn new(direction: Direction, weather: watch::Receiver<Weather>, chance: Chance) -> Self {
        Self {
            direction,
            weather,
            chance,
            cut: None,
            lost: false,
        }
    }

    /// Carries until the sender ends the stream and the receiver has been told.
    pub(super) async fn carry(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Ended> {
        let mut piece = vec![0; PIECE];
        // What of the piece is not carried yet, and from when on it may be.
        let (mut start, mut end) = (0, 0);
        let mut due = Instant::now();
        let mut closed = false;
        loop {
            let weather = self.weather.borrow_and_update().clone();
            let allowed = self.allowance(&weather)?;
            if weather.drops(self.direction) {
                self.lost |= start < end || closed;
                (start, end) = (0, 0);
                if closed {
                    self.change().await?;
                    continue;
                }
            } else if self.lost {
                return Err(Ended(Cut::Reset));
            } else if start < end {
                if weather.latency.is_some() && Instant::now() < due {
                    self.pause(due).await?;
                    continue;
                }
                let drip = weather.drip.map_or(usize::MAX, |(bytes, _)| bytes);
                let size = (end - start).min(drip).min(allowed);
                let sent = to.write_all(&piece[start..start + size]).await;
                sent.map_err(|_gone| Ended(Cut::Reset))?;
                start += size;
                self.count(size);
                if let Some((_, every)) = weather.drip {
                    self.pause(Instant::now() + every).await?;
                }
                continue;
            } else if closed {
                return to.shutdown().await.map_err(|_gone| Ended(Cut::Reset));
            }
            tokio::select! {
                changed = self.weather.changed() => changed.map_err(|_proxy_gone| Ended(Cut::Reset))?,
                read = from.read(&mut piece) => match read {
                    Ok(0) => closed = true,
                    Ok(size) => {
                        (start, end) = (0, size);
                        due = Instant::now() + self.delay(&weather);
                    }
                    // Nor does a reset pass where nothing does.
                    Err(_reset) if self.weather.borrow().drops(self.direction) => closed = true,
                    Err(_reset) => return Err(Ended(Cut::Reset)),
                },
            }
        }
    }

    fn delay(&mut self, weather: &Weather) -> Duration {
        let Some((delay, jitter)) = weather.latency else {
            return Duration::ZERO;
        };
        let jitter = u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX);
        delay + Duration::from_micros(self.chance.within(&(0..jitter.saturating_add(1))))
    }

    /// How many bytes may pass before the cut; the cut itself when none.
    fn allowance(&mut self, weather: &Weather) -> Result<usize, Ended> {
        let Some((direction, after, by)) = &weather.cut else {
            self.cut = None;
            return Ok(usize::MAX);
        };
        if *direction != self.direction {
            return Ok(usize::MAX);
        }
        let left = match self.cut {
            Some((since, left)) if since == weather.cut_since => left,
            _ => self.chance.within(after),
        };
        self.cut = Some((weather.cut_since, left));
        match left {
            0 => Err(Ended(*by)),
            _ => Ok(usize::try_from(left).unwrap_or(usize::MAX)),
        }
    }

    fn count(&mut self, size: usize) {
        if let Some((_, left)) = &mut self.cut {
            *left = left.saturating_sub(size as u64);
        }
    }

    /// Waits until `until` or until the weather changes.
    async fn pause(&mut self, until: Instant) -> Result<(), Ended> {
        tokio::select! {
            () = tokio::time::sleep_until(until) => Ok(()),
            changed = self.weather.changed() => changed.map_err(|_proxy_gone| Ended(Cut::Reset)),
        }
    }

    async fn change(&mut self) -> Result<(), Ended> {
        self.weather.changed().await.map_err(|_proxy_gone| Ended(Cut::Reset))
    }
}
