//! Single publishes of many tasks share channels and confirms.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::publish::Publishing;
use crate::broker::BrokerError;
use crate::message::Message;

const SINGLE_LIMIT: Duration = Duration::from_secs(10);
/// Less, so that each caller learns what became of its own message.
const GROUP_LIMIT: Duration = Duration::from_secs(8);
/// Single publishes that may wait for others to be confirmed before further ones wait in their callers.
const WAITING: usize = 4096;
/// Most single publishes that share a channel.
const GROUP: usize = 500;
/// Groups on the way at a time.
const GROUPS: usize = 4;

/// Single publishes of many tasks, sent in groups.
#[derive(Clone)]
pub(super) struct Grouped(mpsc::Sender<(Message, oneshot::Sender<Result<(), BrokerError>>)>);

impl Grouped {
    pub(super) fn start(publishing: Arc<Publishing>) -> Self {
        let (sender, mut waiting) = mpsc::channel(WAITING);
        // Ends by itself when the last clone of the broker is gone.
        tokio::spawn(async move {
            let groups = Arc::new(Semaphore::new(GROUPS));
            loop {
                // While all are on the way the next group grows.
                let Ok(on_the_way) = groups.clone().acquire_owned().await else {
                    return;
                };
                let mut group = Vec::with_capacity(GROUP);
                if waiting.recv_many(&mut group, GROUP).await == 0 {
                    return;
                }
                let publishing = publishing.clone();
                tokio::spawn(async move {
                    let (messages, callers): (Vec<Message>, Vec<oneshot::Sender<_>>) = group.into_iter().unzip();
                    let results = publishing.publish(messages, GROUP_LIMIT).await;
                    for (caller, result) in callers.into_iter().zip(results) {
                        // A caller that has gone away no longer wants the answer.
                        drop(caller.send(result));
                    }
                    drop(on_the_way);
                });
            }
        });
        Self(sender)
    }

    pub(super) async fn publish(&self, message: Message) -> Result<(), BrokerError> {
        let (caller, answer) = oneshot::channel();
        let late = || BrokerError::Deadline(SINGLE_LIMIT);
        let waited = async {
            // Both ends live as long as the broker and its task; only a stopping runtime closes them.
            if self.0.send((message, caller)).await.is_err() {
                return Err(late());
            }
            answer.await.unwrap_or_else(|_closed| Err(late()))
        };
        let waited = tokio::time::timeout(SINGLE_LIMIT, waited).await;
        waited.unwrap_or_else(|_elapsed| Err(late()))
    }
}
