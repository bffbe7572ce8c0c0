//! Handlers whose effect lies outside of the database: a mail, a call of another service.

use std::sync::Arc;

use crate::contract::Event;
use crate::failure::Handled;
use crate::handle::{Decoded, HandlerFuture, downcast};
use crate::message::Message;
use crate::store::Store;

/// Does what no transaction can take back, without one being open: however long it takes, nobody waits for a
/// connection or, on SQLite, for the one writer.
///
/// Delivered at least once: the message is committed to the inbox before the call, and its mark after it. A process that
/// dies in between, or cannot reach the database, repeats the call. Whoever receives the effect tells
/// repeats by [`Outside::message`]'s id, which stays the same. Duplicates of a message that is marked are not handed on.
pub trait HandleOutside<E: Event>: Send + Sync + 'static {
    /// The effect of `event`.
    fn act(&self, event: E, cx: &Outside) -> impl Future<Output = Handled> + Send;
}

/// What a handler outside of a transaction works with.
pub struct Outside {
    pub(crate) store: Store,
    pub(crate) message: Arc<Message>,
    pub(crate) attempt: u32,
}

impl Outside {
    /// The database; what is written to it commits by itself, before the message's mark.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The message being handled.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Which attempt this is, counted from 1; attempts that ended in a crash count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// A handler of events whose type only it knows.
pub(crate) type Act = Arc<dyn for<'a> Fn(Decoded, &'a Outside) -> HandlerFuture<'a> + Send + Sync>;

pub(crate) fn erase<E: Event, H: HandleOutside<E>>(handler: H) -> Act {
    let handler = Arc::new(handler);
    Arc::new(move |decoded, cx| {
        let handler = handler.clone();
        Box::pin(async move { handler.act(downcast(decoded)?, cx).await })
    })
}
