//! Publishing with confirms: everything is sent, then all confirms are awaited.
//!
//! A call has a channel to itself, because lapin hands a returned message to whichever confirm comes next: only who
//! sees all confirms of a channel can tell which message it was.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::{Instant, timeout};

use super::connect::{Link, Up};
use super::declare::{Kind, declare, queue_name};
use super::{partition_queue, properties, unavailable};
use crate::PARTITIONS;
use crate::broker::BrokerError;
use crate::failure::chain;
use crate::message::Message;

/// How long a batch may take; less than the relay waits.
pub(super) const BATCH_LIMIT: Duration = Duration::from_secs(25);
/// After so many refused messages of a queue in a row its others are not tried: each has cost a channel.
const CULPRITS: u32 = 8;
/// How long a connection on which confirms stayed out may take to answer before it is given up.
const GRACE: Duration = Duration::from_secs(1);
/// How long the very first connection is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

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
        let end = Instant::now() + limit;
        let ended = tokio::select! {
            done = self.publish_on(&up, messages, &mut results, end) => done.err(),
            lost = up.until_lost() => Some(lost),
            // Announced at the first message: no confirm comes until it ends.
            blocked = up.until_blocked() => Some(blocked),
            // Confirms that stay out are seen at `end` itself; this is for all else.
            () = tokio::time::sleep_until(end + GRACE) => Some(BrokerError::Deadline(limit)),
        };
        if matches!(ended, Some(BrokerError::Deadline(_))) && !matches!(timeout(GRACE, up.ping()).await, Ok(Ok(()))) {
            up.give_up();
        }
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
        end: Instant,
    ) -> Result<(), BrokerError> {
        if let Some(blocked) = up.blocked() {
            return Err(blocked);
        }
        let mut lane = self.lane(up).await?;
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
        let mut most = usize::MAX;
        let mut culprits: HashMap<String, u32> = HashMap::new();
        loop {
            let mut round = next_round(&outgoing, results);
            if round.is_empty() {
                break;
            }
            round.truncate(most);
            let round = self.declare_all(up, &outgoing, round, results).await;
            let mut lost = None;
            let mut open = Vec::new();
            for (at, outcome) in send(&lane.channel, &mut outgoing, round, end).await {
                let Some(sent) = &mut outgoing[at] else { continue };
                match outcome {
                    Ok(Taken::Confirmed) => {
                        culprits.remove(&sent.queue);
                        results[at] = Some(Ok(()));
                    }
                    // Its queue is gone: declared once more, sent once more.
                    Ok(Taken::Returned) if !sent.sent_again => {
                        sent.sent_again = true;
                        sent.properties = properties::encode(&sent.message, limit).ok();
                        up.declared().remove(&sent.queue);
                    }
                    Ok(Taken::Returned) => results[at] = Some(Err(refused("there is no such queue"))),
                    Ok(Taken::Refused) => results[at] = Some(Err(refused("the queue did not take it"))),
                    Err(failed) => {
                        open.push(at);
                        lost = Some(match lost {
                            Some(Unconfirmed::Refused(cause)) => Unconfirmed::Refused(cause),
                            _ => failed,
                        });
                    }
                }
            }
            match lost {
                None => most = most.saturating_mul(2),
                // The channel is closed because of one of them: it is found by sending fewer at a time.
                Some(Unconfirmed::Refused(cause)) => {
                    lane = self.lane(up).await?;
                    if let [only] = open[..] {
                        results[only] = Some(Err(too_large_or_refused(cause)));
                        let queue = outgoing[only].as_ref().map_or("", |sent| sent.queue.as_str());
                        let count = culprits.entry(queue.to_owned()).or_default();
                        *count += 1;
                        if *count == CULPRITS {
                            // It is not about single messages.
                            for (sent, result) in outgoing.iter().zip(results.iter_mut()) {
                                if result.is_none() && sent.as_ref().is_some_and(|sent| sent.queue == queue) {
                                    *result = Some(Err(refused("the queue has refused those before it")));
                                }
                            }
                        }
                        continue;
                    }
                    most = open.len().div_ceil(2);
                    for at in open {
                        if let Some(sent) = &mut outgoing[at] {
                            sent.properties = properties::encode(&sent.message, limit).ok();
                        }
                    }
                }
                Some(Unconfirmed::Lost(error)) => return Err(error),
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
        let mut known: HashMap<&str, Result<(), BrokerError>> = HashMap::new();
        let mut ready = Vec::with_capacity(round.len());
        for at in round {
            let Some(message) = &outgoing[at] else { continue };
            if !known.contains_key(message.queue.as_str()) {
                let declared = declare(up, self.link.target(), &message.queue, message.kind).await;
                known.insert(&message.queue, declared);
            }
            match known.get(message.queue.as_str()) {
                // Refused once, not once for each message: each takes several round trips.
                Some(Err(error)) => results[at] = Some(Err(error.clone())),
                Some(Ok(())) | None => ready.push(at),
            }
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

/// What a message is that made RabbitMQ close the channel.
fn too_large_or_refused(cause: lapin::Error) -> BrokerError {
    let text = chain(&cause);
    if text.contains("larger than") {
        BrokerError::TooLarge(text)
    } else {
        BrokerError::Refused(text)
    }
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
        (message.topic.clone(), Kind::Written)
    };
    Ok(Outgoing {
        name: queue_name(&queue)?,
        queue,
        kind,
        properties: Some(properties::encode(&message, limit).map_err(BrokerError::Invalid)?),
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

/// Why it is unknown what became of a message.
enum Unconfirmed {
    /// RabbitMQ has closed the channel because of a message on it.
    Refused(lapin::Error),
    Lost(BrokerError),
}

/// Sends `round` in its order; answers when all of it is confirmed, returned or refused, or at `end`: one queue that
/// confirms nothing leaves nothing unknown of the others.
async fn send(
    channel: &Channel,
    outgoing: &mut [Option<Outgoing>],
    round: Vec<usize>,
    end: Instant,
) -> Vec<(usize, Result<Taken, Unconfirmed>)> {
    let limit = end.saturating_duration_since(Instant::now());
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
            Poll::Ready(done) => Ok(done),
            // What is there already is taken after `end`, too.
            Poll::Pending => tokio::time::timeout_at(end, confirm).await,
        };
        settled.push((at, done));
    }
    // A returned message hangs on the confirm that comes next, which is no later than its own. The one it hangs on counts
    // as returned as well: its own may hang elsewhere.
    let mut returned: HashSet<String> = HashSet::new();
    let outcomes: Vec<_> = settled
        .into_iter()
        .map(|(at, done)| {
            let taken = match done {
                Ok(Ok(Confirmation::Ack(message) | Confirmation::Nack(message))) if message.is_some() => {
                    let id = message
                        .as_ref()
                        .and_then(|message| message.properties.message_id().clone());
                    returned.extend(id.map(String::from));
                    Ok(Taken::Returned)
                }
                Ok(Ok(Confirmation::Ack(_))) => Ok(Taken::Confirmed),
                Ok(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => Ok(Taken::Refused),
                Ok(Err(error)) if error.is_amqp_soft_error() => Err(Unconfirmed::Refused(error)),
                Ok(Err(error)) => Err(Unconfirmed::Lost(unavailable(error))),
                Err(_elapsed) => Err(Unconfirmed::Lost(BrokerError::Deadline(limit))),
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
