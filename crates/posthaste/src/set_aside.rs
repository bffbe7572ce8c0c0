//! What becomes of a delivery that is not handled now: tried again by the retrier, or dead.

use std::collections::HashSet;
use std::sync::PoisonError;

use crate::broker::Receiver;
use crate::consumer::{Consumer, Item, Stop};
use crate::dead_letter::{self, body_omitted};
use crate::failpoint;
use crate::failure::{Failure, chain};
use crate::invoke::{cause, environment};
use crate::message::Message;
use crate::retry::{decide, jitter};
use crate::store::inbox_rows::{self as inbox, Fate, Written};
use crate::store::{StoreError, Tx};
use crate::telemetry::metric;

impl Consumer {
    /// A first attempt failed: tried again or dead, by what the handler said.
    pub(crate) async fn fail(&self, receiver: &Receiver, item: &Item, failure: Failure) -> Result<(), Stop> {
        let error = cause(&failure);
        let (attempts, next) = decide(&failure, 1, &self.subscription.retry, jitter()).counted(1);
        match next {
            None => self.bury(receiver, item, attempts, &error).await,
            Some(after) => {
                if environment(&failure).is_some() {
                    let mut met = self.met_environment.lock().unwrap_or_else(PoisonError::into_inner);
                    // A line for each message would be too many; the retrier writes one.
                    *met = Some(error.clone());
                } else {
                    tracing::warn!(
                        subscription = self.subscription.name,
                        message_id = %item.message.id,
                        correlation_id = item.message.correlation_id,
                        attempt = 1,
                        retry_in_ms = after.as_millis() as u64,
                        error,
                        "the handler failed"
                    );
                }
                self.count("retry", 1);
                let mut tx = self.store.begin().await?;
                let fate = Fate::Retrying {
                    after,
                    error: Some(&error),
                };
                match inbox::settle_new(&mut tx, &self.subscription.name, &item.message, attempts, fate).await {
                    Ok(written) => {
                        self.follow(&mut tx, written).await?;
                        self.settle(receiver, tx, &[item.tag]).await
                    }
                    Err(StoreError::Statement(_)) => self.bury(receiver, item, attempts, &error).await,
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    pub(crate) async fn bury(&self, receiver: &Receiver, item: &Item, attempts: u32, error: &str) -> Result<(), Stop> {
        let message = &item.message;
        let mut error = error.to_owned();
        let reduced = if self.store.takes(message) {
            [message.as_ref().clone(), message.bare()]
        } else {
            error = format!("{}; {error}", body_omitted(message));
            [message.without_body(), message.without_body().bare()]
        };
        // Refused for ever it would come back for ever: what can be kept is kept, and the cause all the same.
        for message in reduced {
            match self.bury_as(receiver, item, message, attempts, &error).await {
                Err(Stop::Store(StoreError::Statement(refusal))) => {
                    error = format!("{error}; its attributes could not be kept: {}", chain(&refusal));
                }
                done => return done,
            }
        }
        let error = format!("{}; {error}", body_omitted(message));
        let message = message.without_body().bare();
        self.bury_as(receiver, item, message, attempts, &error).await
    }

    async fn bury_as(
        &self,
        receiver: &Receiver,
        item: &Item,
        message: Message,
        attempts: u32,
        error: &str,
    ) -> Result<(), Stop> {
        if attempts == 0 {
            metrics::counter!(metric::INBOX_RECEIVED, "posthaste_verdict" => "rejected").increment(1);
        }
        self.count("dead", 1);
        let mut tx = self.store.begin().await?;
        let from = dead_letter::Origin::Transport { attempts };
        dead_letter::bury(&mut tx, &self.service, &self.subscription, &message, from, error).await?;
        self.settle(receiver, tx, &[item.tag]).await
    }

    /// Leaves `items` to the retrier, which handles each alone; of an ordering key one after the other.
    pub(crate) async fn set_aside(&self, receiver: &Receiver, items: &[Item]) -> Result<(), Stop> {
        match self.set_aside_together(receiver, items).await {
            // One of them has attributes that the database refuses; it would come back for ever.
            Err(Stop::Store(StoreError::Statement(refusal))) => {
                let error = chain(&refusal);
                for item in items {
                    match self.set_aside_together(receiver, std::slice::from_ref(item)).await {
                        Err(Stop::Store(StoreError::Statement(_))) => self.bury(receiver, item, 0, &error).await?,
                        done => done?,
                    }
                }
                Ok(())
            }
            done => done,
        }
    }

    async fn set_aside_together(&self, receiver: &Receiver, items: &[Item]) -> Result<(), Stop> {
        let mut tx = self.store.begin().await?;
        let name = &self.subscription.name;
        let key = |item: &Item| item.message.key.clone().filter(|_| self.subscription.ordered);
        let keys: HashSet<String> = items.iter().filter_map(key).collect();
        let mut blocked = inbox::blocked_keys(&tx, name, &keys).await?;
        for item in items {
            let first = key(item).is_none_or(|key| blocked.insert(key));
            let fate = if first {
                Fate::Suspect
            } else {
                Fate::Waiting { suspect: true }
            };
            let written = inbox::settle_new(&mut tx, name, &item.message, 0, fate).await?;
            self.follow(&mut tx, written).await?;
        }
        let tags: Vec<i64> = items.iter().map(|item| item.tag).collect();
        self.settle(receiver, tx, &tags).await?;
        self.release(keys).await;
        Ok(())
    }

    /// Writes what follows a message that became a dead letter because another one with its identity is being retried.
    pub(crate) async fn follow(&self, tx: &mut Tx, written: Written) -> Result<(), StoreError> {
        let Written::Aside(aside) = written else {
            return Ok(());
        };
        self.count("dead", 1);
        dead_letter::follow_aside(tx, &self.service, &self.subscription, &aside).await
    }

    async fn settle(&self, receiver: &Receiver, tx: Tx, tags: &[i64]) -> Result<(), Stop> {
        if !receiver.settle_in(&tx, tags).await? {
            tx.rollback().await?;
            return Err(Stop::Fenced);
        }
        failpoint::hit("consumer.settling").await;
        tx.commit().await?;
        failpoint::hit("consumer.settled").await;
        Ok(receiver.acknowledge(tags).await?)
    }
}
