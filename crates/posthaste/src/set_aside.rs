//! What becomes of a delivery that is not handled now: parked in the inbox, or dead.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Receiver;
use crate::consumer::{Consumer, Item, Stop};
use crate::dead_letter;
use crate::failpoint;
use crate::failure::{Failure, chain};
use crate::invoke::cause;
use crate::retry::{Next, jitter};
use crate::store::inbox_rows::{self as inbox, Fate};
use crate::store::{StoreError, Tx};
use crate::telemetry::metric;

impl Consumer {
    /// A first attempt failed: parked or dead, by what the handler said.
    pub(crate) async fn fail(&self, receiver: &Receiver, item: &Item, failure: Failure) -> Result<(), Stop> {
        let error = cause(&failure);
        let next = match failure {
            Failure::Reject(_) => Next::Dead,
            Failure::Later(after) => Next::After(after),
            Failure::Retry(_) => self.subscription.retry.next(1, jitter()),
        };
        let attempts = u32::from(!matches!(failure, Failure::Later(_)));
        match next {
            Next::Dead => self.bury(receiver, item, attempts, &error).await,
            Next::After(after) => {
                tracing::warn!(
                    subscription = self.subscription.name,
                    message_id = %item.message.id,
                    correlation_id = item.message.correlation_id,
                    attempt = 1,
                    retry_in_ms = after.as_millis() as u64,
                    error,
                    "the handler failed"
                );
                self.count("retry", 1);
                let mut tx = self.store.begin().await?;
                let fate = Fate::Parked {
                    after,
                    error: Some(&error),
                };
                match inbox::settle_new(&mut tx, &self.subscription.name, &item.message, attempts, fate).await {
                    Ok(_new) => self.settle(receiver, tx, &[item.tag]).await,
                    Err(StoreError::Statement(_)) => self.bury(receiver, item, attempts, &error).await,
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    pub(crate) async fn bury(&self, receiver: &Receiver, item: &Item, attempts: u32, error: &str) -> Result<(), Stop> {
        match self.bury_whole(receiver, item, attempts, error).await {
            // Refused for ever it would come back for ever: its bytes and cause are kept all the same.
            Err(Stop::Store(StoreError::Statement(refusal))) => {
                let error = format!("{error}; its attributes could not be kept: {}", chain(&refusal));
                let bare = Item {
                    tag: item.tag,
                    message: Arc::new(item.message.bare()),
                    rule: item.rule,
                };
                self.bury_whole(receiver, &bare, attempts, &error).await
            }
            done => done,
        }
    }

    async fn bury_whole(&self, receiver: &Receiver, item: &Item, attempts: u32, error: &str) -> Result<(), Stop> {
        if attempts == 0 {
            metrics::counter!(metric::INBOX_RECEIVED, "posthaste_verdict" => "rejected").increment(1);
        }
        self.count("dead", 1);
        let mut tx = self.store.begin().await?;
        let from = dead_letter::Origin::Transport { attempts };
        dead_letter::bury(&mut tx, &self.service, &self.subscription, &item.message, from, error).await?;
        self.settle(receiver, tx, &[item.tag]).await
    }

    pub(crate) async fn park_all(&self, receiver: &Receiver, items: &[Item]) -> Result<(), Stop> {
        match self.park_together(receiver, items).await {
            // One of them has attributes that the database refuses; it would come back for ever.
            Err(Stop::Store(StoreError::Statement(refusal))) => {
                let error = chain(&refusal);
                for item in items {
                    match self.park_together(receiver, std::slice::from_ref(item)).await {
                        Err(Stop::Store(StoreError::Statement(_))) => self.bury(receiver, item, 0, &error).await?,
                        done => done?,
                    }
                }
                Ok(())
            }
            done => done,
        }
    }

    async fn park_together(&self, receiver: &Receiver, items: &[Item]) -> Result<(), Stop> {
        let mut tx = self.store.begin().await?;
        for item in items {
            let fate = Fate::Parked {
                after: Duration::ZERO,
                error: None,
            };
            inbox::settle_new(&mut tx, &self.subscription.name, &item.message, 0, fate).await?;
        }
        let tags: Vec<i64> = items.iter().map(|item| item.tag).collect();
        self.settle(receiver, tx, &tags).await
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
