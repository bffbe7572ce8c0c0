//! Many single writes in one commit: callers hand in their message and wait; what has come meanwhile is written
//! together. A commit costs the same for one message and for hundreds.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::failure::panic_text;
use crate::message::Message;
use crate::store::{Dialect, Store, StoreError};

/// Callers whose message has not been looked at yet; further ones wait before they hand it in.
const WAITING: usize = 4096;
/// Most messages in one commit.
const GROUP: usize = 500;
/// How long a caller waits for its answer.
const LIMIT: Duration = Duration::from_secs(10);

type Caller = (Message, oneshot::Sender<Result<(), StoreError>>);

/// The handing-in end; cheap to clone. The writing tasks end when the last clone is gone.
#[derive(Clone)]
pub(crate) struct GroupCommit(mpsc::Sender<Caller>);

impl GroupCommit {
    /// Commits to `store` what `write` does with the messages of a group.
    pub fn start<F, W>(store: &Store, write: W) -> Self
    where
        W: Fn(Vec<Message>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), StoreError>> + Send,
    {
        let (sender, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        // While one group is on its way to the server and back, another one is filled and sent. SQLite has one writer.
        let writers = match store.dialect() {
            Dialect::Sqlite => 1,
            Dialect::Postgres | Dialect::Mysql => 2,
        };
        for _ in 0..writers {
            let (waiting, write) = (waiting.clone(), write.clone());
            tokio::spawn(async move {
                let mut group = Vec::with_capacity(GROUP);
                while waiting.lock().await.recv_many(&mut group, GROUP).await > 0 {
                    let (messages, callers): (Vec<Message>, Vec<_>) = group.drain(..).unzip();
                    // Its callers get an error; a writer that ended would keep all later ones waiting for ever.
                    if let Err(panic) = AssertUnwindSafe(commit(&write, messages, callers)).catch_unwind().await {
                        tracing::error!(
                            panic = panic_text(panic.as_ref()),
                            "a group of messages was not written"
                        );
                    }
                }
            });
        }
        Self(sender)
    }

    /// Answers when `message` is committed.
    ///
    /// # Errors
    /// As the write fails; [`StoreError::Deadline`] after ten seconds, when it may still be committed.
    pub async fn submit(&self, message: Message) -> Result<(), StoreError> {
        let (caller, answer) = oneshot::channel();
        let waited = async {
            // Both ends live as long as the other; only a stopping runtime closes them.
            if self.0.send((message, caller)).await.is_err() {
                return Err(StoreError::Stopped);
            }
            answer.await.unwrap_or(Err(StoreError::Stopped))
        };
        let waited = tokio::time::timeout(LIMIT, waited).await;
        waited.unwrap_or(Err(StoreError::Deadline(LIMIT)))
    }
}

async fn commit<F, W>(write: &W, messages: Vec<Message>, callers: Vec<oneshot::Sender<Result<(), StoreError>>>)
where
    W: Fn(Vec<Message>) -> F,
    F: Future<Output = Result<(), StoreError>>,
{
    // Should one of them be at fault, the others are not to pay for it.
    let spare = if messages.len() > 1 {
        messages.clone()
    } else {
        Vec::new()
    };
    let result = write(messages).await;
    if matches!(&result, Err(error) if !error.is_outage()) && !spare.is_empty() {
        for (message, caller) in spare.into_iter().zip(callers) {
            // A caller that has gone away no longer wants the answer.
            drop(caller.send(write(vec![message]).await));
        }
        return;
    }
    for caller in callers {
        drop(caller.send(result.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;
    use crate::message::MessageId;
    use crate::store::StoreOptions;

    #[tokio::test]
    async fn a_panic_ends_the_group_and_not_the_writer() {
        // Nothing is connected: what writes is below.
        let store = Store::open("mysql://nobody@127.0.0.1:1/none", StoreOptions::default()).unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let grouped = GroupCommit::start(&store, move |_messages| {
            let call = calls.fetch_add(1, SeqCst);
            async move {
                assert!(call > 0, "a defect");
                Ok(())
            }
        });
        let message = || crate::envelope::decode(MessageId::new(), "t".to_owned(), None, None, None, Vec::new());
        assert!(matches!(grouped.submit(message()).await, Err(StoreError::Stopped)));
        assert!(grouped.submit(message()).await.is_ok());
    }
}
