//! A broker in this process, for tests. It outlives the clients that crash: what they had not
//! acknowledged comes again, marked as redelivered.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{BrokerError, Delivery};
use crate::identity::Given;
use crate::message::Message;

/// Queues by name; clones share them.
#[derive(Clone, Default)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<String, VecDeque<(i64, Message, bool)>>,
    last_tag: i64,
    published: Vec<Message>,
    down: bool,
    refused: Option<String>,
    in_hand: usize,
}

impl MemoryBroker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), BrokerError>> {
        let mut state = self.state();
        let mut held_back = HashSet::new();
        let results = messages
            .into_iter()
            .map(|message| {
                let lane = message.key.clone().map(|key| (message.topic.clone(), key));
                let refused = state.down || state.refused.as_ref() == Some(&message.id.to_string());
                if refused || lane.as_ref().is_some_and(|lane| held_back.contains(lane)) {
                    held_back.extend(lane);
                    return Err(BrokerError::Refused("the broker was told to refuse".to_owned()));
                }
                state.published.push(message.clone());
                state.enqueue(message, false);
                Ok(())
            })
            .collect();
        drop(state);
        self.0.arrived.notify_waiters();
        results
    }

    /// Everything ever confirmed, in order, repeats included.
    pub fn published(&self) -> Vec<Message> {
        self.state().published.clone()
    }

    /// Makes the broker refuse every message, or take them again.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Makes the broker refuse the message with this id; `None` ends it.
    pub fn refuse(&self, id: Option<String>) {
        self.state().refused = id;
    }

    /// Delivers everything that waits in `queue` twice, with neighbours swapped.
    pub fn duplicate_and_swap(&self, queue: &str) {
        let mut state = self.state();
        let waiting: Vec<(i64, Message, bool)> = state.queues.remove(queue).unwrap_or_default().into();
        for pair in waiting.chunks(2) {
            for (_, message, _) in pair.iter().rev().chain(pair.iter().rev()) {
                state.enqueue(message.clone(), true);
            }
        }
    }

    /// Messages that wait in `queue`.
    pub fn depth(&self, queue: &str) -> usize {
        self.state().queues.get(queue).map_or(0, VecDeque::len)
    }

    /// Messages that were handed out and are not settled yet.
    pub fn in_hand(&self) -> usize {
        self.state().in_hand
    }

    pub(super) fn receiver(&self, queue: &str) -> MemoryReceiver {
        MemoryReceiver {
            broker: self.clone(),
            queue: queue.to_owned(),
            unsettled: Arc::default(),
        }
    }
}

impl State {
    fn enqueue(&mut self, message: Message, redelivered: bool) {
        self.last_tag += 1;
        let tag = self.last_tag;
        self.queues
            .entry(message.topic.clone())
            .or_default()
            .push_back((tag, message, redelivered));
    }
}

pub(crate) struct MemoryReceiver {
    broker: MemoryBroker,
    queue: String,
    unsettled: Arc<Mutex<BTreeMap<i64, Message>>>,
}

impl MemoryReceiver {
    pub async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, BrokerError> {
        loop {
            let arrived = self.broker.0.arrived.notified();
            tokio::pin!(arrived);
            // Interest first, look second: an arrival in between is not missed.
            arrived.as_mut().enable();
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken);
            }
            arrived.await;
        }
    }

    fn take(&self, max: usize) -> Vec<Delivery> {
        let mut state = self.broker.state();
        let queue = state.queues.entry(self.queue.clone()).or_default();
        let count = max.min(queue.len());
        let taken: Vec<_> = queue.drain(..count).collect();
        state.in_hand += taken.len();
        let mut unsettled = self.unsettled();
        taken
            .into_iter()
            .map(|(tag, message, redelivered)| {
                unsettled.insert(tag, message.clone());
                Delivery {
                    tag,
                    given: Given::Unique(message.id.0),
                    message,
                    redelivered,
                }
            })
            .collect()
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeMap<i64, Message>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledge(&self, tags: &[i64]) {
        let mut state = self.broker.state();
        let mut unsettled = self.unsettled();
        for tag in tags {
            state.in_hand -= usize::from(unsettled.remove(tag).is_some());
        }
    }

    pub fn abandon(&mut self) {
        let back = std::mem::take(&mut *self.unsettled());
        let mut state = self.broker.state();
        state.in_hand -= back.len();
        let queue = state.queues.entry(self.queue.clone()).or_default();
        for (tag, message) in back.into_iter().rev() {
            queue.push_front((tag, message, true));
        }
        drop(state);
        self.broker.0.arrived.notify_waiters();
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        self.abandon();
    }
}
