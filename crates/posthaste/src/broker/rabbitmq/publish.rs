//! Publishing with confirms: everything is sent, then all confirms are awaited.
//!
//! A call has a channel to itself, because lapin hands a returned message to whichever confirm comes next: only who
//! sees all confirms of a channel can tell which message it was.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connect::{Link, Up};
use super::declare::{Kind, declare, queue_name};
use super::{partition_queue, properties, unavailable};
use crate::PARTITIONS;
use crate::broker::BrokerError;
use crate::message::Message;

/// How long a batch may take; less than the relay waits.
pub(super) const BATCH_LIMIT: Duration = Duration::from_secs(25);
const SINGLE_LIMIT: Duration = Duration::from_secs(10);
/// How long the very first connection is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Single publishes that may wait for others to be confirmed before further ones wait in their callers.
const WAITING: usize = 4096;
/// Most single publishes that share a channel.
const GROUP: usize = 500;
/// Groups on the way at a time.
const GROUPS: usize = 4;

/// The publishing end of a broker.
pub(super) struct Publishing {
    link: Link,
    idle: Mutex<Vec<Lane>>,
}

/// A channel that confirms.
struct Lane {
    up: Arc<Up>,
    channel: Channel,
}

/// A message and where it goes.
struct Outgoing {
    message: Message,
    queue: String,
    name: ShortString,
    kind: Kind,
    /// Taken when it is sent.
    properties: Option<BasicProperties>,
    sent_again: bool,
}

impl Publishing {
    pub(super) fn on(link: Link) -> Self {
        Self {
            link,
            idle: Mutex::default(),
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) async fn publish(&self, messages: Vec<Message>, limit: Duration) -> Vec<Result<(), BrokerError>> {
        let mut results: Vec<Option<Result<(), BrokerError>>> = Vec::new();
        results.resize_with(messages.len(), || None);
        let up = match self.link.up(CONNECT_WAIT.min(limit)).await {
            Ok(up) => up,
            Err(error) => return vec![Err(error); messages.len()],
        };
        let ended = tokio::select! {
            done = self.publish_on(&up, messages, &mut results) => done.err(),
            lost = up.until_lost() => Some(lost),
            // Announced at the first message: no confirm comes until it ends.
            blocked = up.until_blocked() => Some(blocked),
            () = tokio::time::sleep(limit) => {
                up.give_up();
                Some(BrokerError::Deadline(limit))
            }
        };
        let unknown = || Err(ended.clone().unwrap_or(BrokerError::Deadline(limit)));
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(unknown))
            .collect()
    }

    /// Leaves empty in `results` what is unknown after an error.
    async fn publish_on(
        &self,
        up: &Arc<Up>,
        messages: Vec<Message>,
        results: &mut [Option<Result<(), BrokerError>>],
    ) -> Result<(), BrokerError> {
        if let Some(blocked) = up.blocked() {
            return Err(blocked);
        }
        let lane = self.lane(up).await?;
        let limit = up.header_limit();
        let mut outgoing: Vec<Option<Outgoing>> = Vec::with_capacity(messages.len());
        let mut stuck = HashSet::new();
        for (message, result) in messages.into_iter().zip(results.iter_mut()) {
            let lane = message.key.clone().map(|key| (message.topic.clone(), key));
            let prepared = match lane.as_ref().filter(|lane| stuck.contains(*lane)) {
                Some(_lane) => Err(behind()),
                None => prepare(message, limit),
            };
            outgoing.push(match prepared {
                Ok(ready) => Some(ready),
                Err(error) => {
                    stuck.extend(lane);
                    *result = Some(Err(error));
                    None
                }
            });
        }
        loop {
            let round = next_round(&outgoing, results);
            if round.is_empty() {
                break;
            }
            let round = self.declare_all(up, &outgoing, round, results).await;
            let mut lost = None;
            for (at, outcome) in send(&lane.channel, &mut outgoing, round).await {
                let Some(sent) = &mut outgoing[at] else { continue };
                match outcome {
                    Ok(Taken::Confirmed) => results[at] = Some(Ok(())),
                    // Its queue is gone: declared once more, sent once more.
                    Ok(Taken::Returned) if !sent.sent_again => {
                        sent.sent_again = true;
                        sent.properties = properties::encode(&sent.message, limit).ok();
                        up.declared().remove(&sent.queue);
                    }
                    Ok(Taken::Returned) => results[at] = Some(Err(refused("there is no such queue"))),
                    Ok(Taken::Refused) => results[at] = Some(Err(refused("the queue did not take it"))),
                    Err(error) => lost = Some(error),
                }
            }
            if let Some(error) = lost {
                return Err(error);
            }
        }
        self.idle().push(lane);
        Ok(())
    }

    /// Declares the queues of `round`; answers the part of it whose queues are there.
    async fn declare_all(
        &self,
        up: &Arc<Up>,
        outgoing: &[Option<Outgoing>],
        round: Vec<usize>,
        results: &mut [Option<Result<(), BrokerError>>],
    ) -> Vec<usize> {
        let mut known: HashSet<&str> = HashSet::new();
        let mut ready = Vec::with_capacity(round.len());
        for at in round {
            let Some(message) = &outgoing[at] else { continue };
            if !known.contains(message.queue.as_str()) {
                if let Err(error) = declare(up, self.link.target(), &message.queue, message.kind).await {
                    results[at] = Some(Err(error));
                    continue;
                }
                known.insert(&message.queue);
            }
            ready.push(at);
        }
        ready
    }

    async fn lane(&self, up: &Arc<Up>) -> Result<Lane, BrokerError> {
        {
            let mut idle = self.idle();
            idle.retain(|lane| Arc::ptr_eq(&lane.up, up) && lane.channel.status().connected());
            if let Some(lane) = idle.pop() {
                return Ok(lane);
            }
        }
        let channel = up.channel().await?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.map_err(unavailable)?;
        Ok(Lane {
            up: up.clone(),
            channel,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: &str) -> BrokerError {
    BrokerError::Refused(why.to_owned())
}

fn behind() -> BrokerError {
    refused("an earlier message of its key was not taken")
}

fn prepare(message: Message, limit: usize) -> Result<Outgoing, BrokerError> {
    let (queue, kind) = if message.ordered {
        (
            partition_queue(&message.topic, message.partition(PARTITIONS)),
            Kind::Partition,
        )
    } else {
        (message.topic.clone(), Kind::Plain)
    };
    Ok(Outgoing {
        name: queue_name(&queue)?,
        queue,
        kind,
        properties: Some(properties::encode(&message, limit).map_err(BrokerError::Refused)?),
        message,
        sent_again: false,
    })
}

/// What can be sent now: of each ordered key the first that is not confirmed, and nothing behind one that failed.
fn next_round(outgoing: &[Option<Outgoing>], results: &mut [Option<Result<(), BrokerError>>]) -> Vec<usize> {
    let mut round = Vec::with_capacity(outgoing.len());
    let mut held = HashSet::new();
    let mut failed = HashSet::new();
    for (at, message) in outgoing.iter().enumerate() {
        let Some(message) = message else { continue };
        let lane = message.message.key.as_deref().map(|key| (message.queue.as_str(), key));
        match (&results[at], lane) {
            (Some(Err(_)), Some(lane)) => {
                failed.insert(lane);
            }
            (Some(_), _) => {}
            (None, Some(lane)) if failed.contains(&lane) => {
                results[at] = Some(Err(behind()));
            }
            (None, Some(lane)) if message.kind == Kind::Partition && !held.insert(lane) => {}
            (None, _) => round.push(at),
        }
    }
    round
}

enum Taken {
    Confirmed,
    Returned,
    Refused,
}

/// Sends `round` in its order; answers when all of it is confirmed, returned or refused.
async fn send(
    channel: &Channel,
    outgoing: &mut [Option<Outgoing>],
    round: Vec<usize>,
) -> Vec<(usize, Result<Taken, BrokerError>)> {
    let properties: Vec<BasicProperties> = round
        .iter()
        .map(|at| {
            outgoing[*at]
                .as_mut()
                .and_then(|next| next.properties.take())
                .unwrap_or_default()
        })
        .collect();
    let mut sent = Vec::with_capacity(round.len());
    for (at, properties) in round.into_iter().zip(properties) {
        let Some(next) = &outgoing[at] else { continue };
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (name, body) = (next.name.clone(), &next.message.body);
        let publish = channel.basic_publish("".into(), name, options, body, properties);
        let mut confirm = Box::pin(async move { publish.await?.await });
        // The first poll puts it on the wire: here, one after the other.
        let first = std::future::poll_fn(|context| Poll::Ready(confirm.as_mut().poll(context))).await;
        sent.push((at, first, confirm));
    }
    let mut settled = Vec::with_capacity(sent.len());
    for (at, first, confirm) in sent {
        let done = match first {
            Poll::Ready(done) => done,
            Poll::Pending => confirm.await,
        };
        settled.push((at, done));
    }
    // A returned message may hang on any of the confirms. The one it hangs on counts as returned as well: its own may
    // hang elsewhere.
    let mut returned: HashSet<String> = HashSet::new();
    let outcomes: Vec<_> = settled
        .into_iter()
        .map(|(at, done)| {
            let taken = match done {
                Ok(Confirmation::Ack(message) | Confirmation::Nack(message)) if message.is_some() => {
                    let id = message
                        .as_ref()
                        .and_then(|message| message.properties.message_id().clone());
                    returned.extend(id.map(String::from));
                    Ok(Taken::Returned)
                }
                Ok(Confirmation::Ack(_)) => Ok(Taken::Confirmed),
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Ok(Taken::Refused),
                Err(error) => Err(unavailable(error)),
            };
            (at, taken)
        })
        .collect();
    if returned.is_empty() {
        return outcomes;
    }
    let is_returned = |at: usize| {
        let id = outgoing[at].as_ref().map(|sent| sent.message.id.to_string());
        id.is_some_and(|id| returned.contains(id.as_str()))
    };
    outcomes
        .into_iter()
        .map(|(at, taken)| match taken {
            Ok(_) if is_returned(at) => (at, Ok(Taken::Returned)),
            taken => (at, taken),
        })
        .collect()
}

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
                    let results = publishing.publish(messages, SINGLE_LIMIT).await;
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
