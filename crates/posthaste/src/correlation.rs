//! The correlation id of the running task, and the trace context it was called with.

use std::future::Future;

tokio::task_local! {
    static CURRENT: String;
    static TRACEPARENT: String;
}

/// Runs `work` with `id` as its correlation id: messages published and lines logged inside carry it.
pub async fn scope<F: Future>(id: String, work: F) -> F::Output {
    CURRENT.scope(id, work).await
}

/// The correlation id of the running task, if it has one.
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs `work` with the W3C `traceparent` of its caller: where no tracer is installed, messages pass it
/// on as it came.
pub async fn traced<F: Future>(traceparent: String, work: F) -> F::Output {
    TRACEPARENT.scope(traceparent, work).await
}

/// The `traceparent` that the running task was called with.
pub fn traceparent() -> Option<String> {
    TRACEPARENT.try_with(Clone::clone).ok()
}

/// Whether a client's id may be taken over: `[A-Za-z0-9._-]{1,128}`.
pub fn acceptable(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_break_a_log_line() {
        assert!(acceptable("req-1.A_b"));
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(!acceptable(bad), "{bad:?}");
        }
    }
}
