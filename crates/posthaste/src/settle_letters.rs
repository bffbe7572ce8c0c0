//! Replays or discards dead letters in pages, each in a transaction of its own together with its record in
//! `ops_actions`. Stopped between two pages it leaves a consistent state, and the record says how far it came.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::dead_letter::Selection;
use crate::retry::{COLLISIONS, after_collision};
use crate::store::dead_letter_rows::{self as rows, Keys, Pages};
use crate::store::{Dialect, Store, StoreError, action_rows};
use crate::telemetry::metric;

/// What is done to dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// They are handed to their handlers again, under the same ids and with all attempts ahead of them; those of an outbox
    /// to the transport.
    Replay,
    /// They are given up for good. The ids stay known as handled.
    Discard,
}

impl Act {
    /// How the record calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "dead_letters.replay",
            Self::Discard => "dead_letters.discard",
        }
    }
}

/// Who wants something done, for the record.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Who.
    pub actor: String,
    /// From where.
    pub address: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl Operator {
    /// Somebody of whom nothing else is known.
    pub fn new(actor: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            address: None,
            reason: None,
        }
    }
}

/// How far an action has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages that were selected when it began.
    pub total: u64,
    /// Messages that were replayed or discarded.
    pub done: u64,
}

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Done,
    Stopped,
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// Longest pause between two pages.
const BREATH: Duration = Duration::from_millis(100);

/// Does `act` to the dead letters of `selection` that exist now, oldest first, until all are done or `stop`. After each page
/// `on_page` is called. What dies again meanwhile is not replayed again.
///
/// # Errors
/// When the database is away or refuses; what was done until then stays, and is on record.
pub async fn settle(
    store: &Store,
    act: Act,
    selection: &Selection,
    operator: &Operator,
    stop: &CancellationToken,
    mut on_page: impl FnMut(Progress),
) -> Result<Progress, StoreError> {
    let total = rows::count(store, selection).await?;
    let mut progress = Progress { total, done: 0 };
    if total == 0 {
        return Ok(progress);
    }
    let record = Record {
        id: Uuid::now_v7(),
        act,
        operator,
        selection: describe(selection),
        total,
    };
    let mut pages = Pages::of(store, selection).await?;
    loop {
        if stop.is_cancelled() {
            record.end(store, progress, State::Stopped).await?;
            return Ok(progress);
        }
        let started = Instant::now();
        let settled = match pages.next(store).await {
            Ok(Some(keys)) => record.settle(store, &keys, progress.done).await,
            Ok(None) => {
                record.end(store, progress, State::Done).await?;
                return Ok(progress);
            }
            Err(error) => Err(error),
        };
        match settled {
            Ok(count) => progress.done += count,
            Err(error) => {
                // The database may be away: then the record says that it runs, and how far it came.
                drop(record.end(store, progress, State::Failed).await);
                return Err(error);
            }
        }
        on_page(progress);
        if store.dialect() == Dialect::Sqlite {
            // There is one write lock, and other processes ask for it from time to time only.
            tokio::time::sleep(started.elapsed().min(BREATH)).await;
        }
    }
}

struct Record<'a> {
    id: Uuid,
    act: Act,
    operator: &'a Operator,
    selection: String,
    total: u64,
}

impl Record<'_> {
    /// One page: returns how many of `keys` were settled, after `before` others.
    async fn settle(&self, store: &Store, keys: &Keys, before: u64) -> Result<u64, StoreError> {
        let mut collisions = 0;
        loop {
            match self.try_settle(store, keys, before).await {
                Err(StoreError::Collision(_)) if collisions < COLLISIONS => {
                    collisions += 1;
                    tokio::time::sleep(after_collision(collisions)).await;
                }
                settled => return settled,
            }
        }
    }

    async fn try_settle(&self, store: &Store, keys: &Keys, before: u64) -> Result<u64, StoreError> {
        let mut tx = store.begin().await?;
        let count = match self.act {
            Act::Replay => rows::replay(&mut tx, keys).await?,
            Act::Discard => rows::discard(&tx, keys).await?,
        };
        if count == 0 {
            // Somebody else has settled them.
            tx.rollback().await?;
            return Ok(0);
        }
        if before == 0 {
            let action = self.act.name();
            action_rows::begin(&tx, self.id, self.operator, action, &self.selection, self.total).await?;
        }
        let done = before + count;
        let state = if done == self.total {
            State::Done
        } else {
            State::Running
        };
        action_rows::advance(&tx, self.id, done, state).await?;
        tx.commit().await?;
        if self.act == Act::Replay {
            metrics::counter!(metric::REPLAYED, "posthaste_outcome" => "retrying").increment(count);
        }
        Ok(count)
    }

    async fn end(&self, store: &Store, progress: Progress, state: State) -> Result<(), StoreError> {
        // Nothing was done, or the last page has said so.
        if progress.done == 0 || (state == State::Done && progress.done == self.total) {
            return Ok(());
        }
        action_rows::end(store, self.id, state).await
    }
}

fn describe(selection: &Selection) -> String {
    let ids: Vec<String> = selection.ids.iter().map(ToString::to_string).collect();
    json!({ "subscriptions": selection.subscriptions, "outboxes": selection.outboxes, "ids": ids }).to_string()
}
