//! One connection that is made again for ever.

use std::collections::HashSet;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::BasicQosOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::target::{LIMIT, Lost, Target};
use super::unavailable;
use crate::broker::BrokerError;
use crate::failure::chain;
use crate::retry::{back_off, jitter};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How often a connection's state is looked at; lapin announces no loss.
const LOOK: Duration = Duration::from_millis(100);
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Up>),
    Down(Arc<dyn Error + Send + Sync>),
}

/// A connection and what was done on it.
pub(super) struct Up {
    connection: Connection,
    broken: Notify,
    /// It is replaced. lapin wakes nobody who waits for deliveries on a connection that is closed on this side alone.
    gone: CancellationToken,
    /// Queues that exist as far as is known on this connection.
    declared: Mutex<HashSet<String>>,
    /// For declarations, one at a time: a refused one closes its channel.
    pub(super) declaring: AsyncMutex<Option<Channel>>,
    pinging: AsyncMutex<Option<Channel>>,
}

impl Up {
    fn on(connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            connection,
            broken: Notify::new(),
            gone: CancellationToken::new(),
            declared: Mutex::default(),
            declaring: AsyncMutex::new(None),
            pinging: AsyncMutex::new(None),
        })
    }

    pub(super) fn alive(&self) -> bool {
        self.connection.status().connected() && !self.gone.is_cancelled()
    }

    /// Returns once it is replaced.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// RabbitMQ has announced that it takes no messages.
    pub(super) fn blocked(&self) -> Option<BrokerError> {
        self.connection.status().blocked().then(|| Lost::Blocked.into())
    }

    pub(super) async fn until_blocked(&self) -> BrokerError {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(blocked) = self.blocked() {
                return blocked;
            }
        }
    }

    /// lapin leaves some that wait on a connection without an answer when it is lost.
    pub(super) async fn until_lost(&self) -> BrokerError {
        while self.alive() {
            tokio::time::sleep(LOOK).await;
        }
        Lost::Gone.into()
    }

    /// Something went wrong on it: it is replaced. One that is only blocked is not; the next would be as well.
    pub(super) fn give_up(&self) {
        if !self.connection.status().blocked() {
            self.broken.notify_one();
        }
    }

    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        self.in_time(self.connection.create_channel())
            .await?
            .map_err(unavailable)
    }

    /// What is `asked` of the server. Without an answer in time the connection is given up.
    pub(super) async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            answer = asked => Ok(answer),
            lost = self.until_lost() => Err(lost),
            () = tokio::time::sleep(LIMIT) => {
                self.give_up();
                Err(BrokerError::Deadline(LIMIT))
            }
        }
    }

    /// The most bytes that a message's properties may take: they travel in one frame.
    pub(super) fn header_limit(&self) -> usize {
        match self.connection.configuration().frame_max() {
            0 => usize::MAX,
            most => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1024),
        }
    }

    pub(super) fn declared(&self) -> MutexGuard<'_, HashSet<String>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ping(&self) -> Result<(), BrokerError> {
        if let Some(blocked) = self.blocked() {
            return Err(blocked);
        }
        let mut slot = self.pinging.lock().await;
        let channel = match slot.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        // Changes nothing on a channel without consumers, and the server answers.
        let options = BasicQosOptions::default();
        channel.basic_qos(1, options).await.map_err(unavailable)?;
        *slot = Some(channel);
        Ok(())
    }
}

/// A connection for one purpose.
pub(super) struct Link {
    target: Arc<Target>,
    purpose: &'static str,
    state: watch::Sender<State>,
    started: AtomicBool,
    stop: CancellationToken,
    _stop_with_this: DropGuard,
}

impl Link {
    pub(super) fn to(target: Arc<Target>, purpose: &'static str) -> Self {
        let stop = CancellationToken::new();
        Self {
            target,
            purpose,
            state: watch::Sender::new(State::Connecting),
            started: AtomicBool::new(false),
            _stop_with_this: stop.clone().drop_guard(),
            stop,
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether anyone has needed it yet.
    pub(super) fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// The connection. At once an error while it is lost; at the very first, waits for it up to `wait`.
    pub(super) async fn up(&self, wait: Duration) -> Result<Arc<Up>, BrokerError> {
        self.start();
        let mut state = self.state.subscribe();
        let looked = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Up(up) if up.alive() => return Ok(up.clone()),
                    State::Down(error) => return Err(BrokerError::Unavailable(error.clone())),
                    // Lost just now: the keeper is about to see it.
                    State::Up(_) | State::Connecting => {}
                }
                if state.changed().await.is_err() {
                    return Err(Lost::Stopped.into());
                }
            }
        };
        let looked = tokio::time::timeout(wait, looked).await;
        looked.unwrap_or(Err(BrokerError::Deadline(wait)))
    }

    /// The connection, however long it takes.
    pub(super) async fn up_at_last(&self) -> Result<Arc<Up>, BrokerError> {
        self.start();
        let mut state = self.state.subscribe();
        loop {
            if let State::Up(up) = &*state.borrow_and_update()
                && up.alive()
            {
                return Ok(up.clone());
            }
            if state.changed().await.is_err() {
                return Err(Lost::Stopped.into());
            }
        }
    }

    fn start(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(
                self.target.clone(),
                self.purpose,
                self.state.clone(),
                self.stop.clone(),
            ));
        }
    }
}

/// Connects, watches, connects again, until `stop`.
async fn keep(target: Arc<Target>, purpose: &'static str, state: watch::Sender<State>, stop: CancellationToken) {
    let mut failures = 0u32;
    let mut silent = false;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            connected = target.attempt(silent) => connected,
        };
        match connected {
            Ok(connection) => {
                if failures > 0 {
                    tracing::info!(purpose, "RabbitMQ is back");
                }
                silent = false;
                let up = Up::on(connection);
                state.send_replace(State::Up(up.clone()));
                let stopped = watch_over(&up, &stop).await;
                state.send_replace(State::Down(Arc::new(Lost::Gone)));
                up.gone.cancel();
                // Its channels end with it, and what waits on them is told.
                let closing = up.connection.close(200, "OK".into());
                drop(tokio::time::timeout(CLOSE_LIMIT, closing).await);
                if stopped {
                    return;
                }
                tracing::warn!(purpose, "the connection to RabbitMQ was lost");
                failures = 1;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(purpose, error = %chain(&error), "RabbitMQ is not there; connecting goes on");
                }
                silent = matches!(error, Lost::Silent);
                state.send_replace(State::Down(Arc::new(error)));
                failures = failures.saturating_add(1);
            }
        }
        let pause = back_off(failures.saturating_sub(1), FIRST_DELAY, MAX_DELAY, jitter());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns when the connection is no good any more; `true`: because it is no longer wanted.
async fn watch_over(up: &Up, stop: &CancellationToken) -> bool {
    while up.alive() {
        tokio::select! {
            () = stop.cancelled() => return true,
            () = up.broken.notified() => return false,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    false
}
