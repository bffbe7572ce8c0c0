//! What a handler answers when it does not succeed.

use std::error::Error;
use std::time::Duration;

/// `Ok(())`: the effect, its inbox mark and the messages it published commit together.
pub type Handled = Result<(), Failure>;

/// Decides what happens to the message next. Any `?` in a handler is a [`Failure::Retry`].
#[derive(Debug)]
pub enum Failure {
    /// Again after the retry policy's delay; a dead letter when the attempts are used up. Where a cause of the error is that
    /// the database is away or has to be mended (a missing table or column, a missing permission, a read-only server, a full
    /// disk), no attempt is used up: the message waits, health and the log show it.
    Retry(Box<dyn Error + Send + Sync>),
    /// Never again: to the dead letters at once, with this reason.
    Reject(String),
    /// Again after this time, without using up an attempt.
    Later(Duration),
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Retry(Box::new(error))
    }
}

/// The error and its causes, outermost first, as one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Wrappers that print their source would say everything twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
