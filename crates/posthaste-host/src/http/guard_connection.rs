//! What hyper leaves open about a connection: a keep-alive limit apart from the head's, a limit on a client that
//! takes no answer, and the proof that a chunked request had no Content-Length.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Request;
use http::header::TRANSFER_ENCODING;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Most bytes of a request's head; beyond it hyper answers 431.
pub(super) const HEAD_LIMIT: usize = 16 * 1024;

/// What one connection's socket, timer and service tell each other. All three run in its one task;
/// beside it only the search for an idle connection takes the lock.
#[derive(Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// hyper waits for a head; what is read now belongs to it.
    awaiting_head: bool,
    /// The request in `head` went to its handler; the next read begins another.
    dispatched: bool,
    /// Reads while a head was awaited.
    reads: u64,
    head: Vec<u8>,
}

impl Watch {
    fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self, bytes: &[u8]) {
        self.with(|seen| {
            if !seen.awaiting_head || bytes.is_empty() {
                return;
            }
            seen.reads += 1;
            if seen.dispatched {
                seen.dispatched = false;
                seen.head.clear();
            }
            let room = HEAD_LIMIT.saturating_sub(seen.head.len());
            seen.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        });
    }

    /// Of a connection that waits for a request.
    #[cfg(test)]
    pub(super) fn idle() -> Self {
        let watch = Self::default();
        watch.with(|seen| seen.awaiting_head = true);
        watch
    }

    /// Whether no request is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.with(|seen| seen.awaiting_head)
    }

    /// Notes that hyper read a whole head.
    pub(super) fn dispatch(&self) {
        self.with(|seen| {
            seen.awaiting_head = false;
            seen.dispatched = true;
        });
    }

    /// Whether `request` may be a smuggled one: it has other transfer encodings than `chunked` once, or it is chunked and
    /// had a Content-Length beside that, or its head was pipelined such that nobody can tell. hyper drops such a
    /// Content-Length without a trace and looks at the last encoding only, a proxy in front may have believed the rest.
    pub(super) fn is_ambiguous<B>(&self, request: &Request<B>) -> bool {
        let mut encodings = request.headers().get_all(TRANSFER_ENCODING).iter();
        let Some(first) = encodings.next() else { return false };
        let plain = first.as_bytes().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
        !plain || !self.with(|seen| is_head_without_length(&seen.head, request.method().as_str(), request.uri()))
    }
}

fn is_head_without_length(mut bytes: &[u8], method: &str, uri: &http::Uri) -> bool {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let mut line = || {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = bytes.split_at(end);
        bytes = &rest[1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    if line().is_none_or(|line| line != format!("{method} {target} HTTP/1.1").as_bytes()) {
        return false;
    }
    while let Some(line) = line() {
        if line.is_empty() {
            return true;
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.trim_ascii().eq_ignore_ascii_case(b"content-length") {
            return false;
        }
    }
    false
}

/// hyper's timer for heads. hyper has one limit from the end of an answer to the end of the next head; this one
/// allows `idle` until the first byte and `head` from there.
pub(super) struct HeadTimer {
    pub(super) watch: Arc<Watch>,
    pub(super) head: Duration,
    pub(super) idle: Duration,
}

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let reads = self.watch.with(|seen| {
            seen.awaiting_head = true;
            seen.reads
        });
        // Who connects has something to say: the first head has no idle time before it.
        let begun = reads == 0;
        let limit = if begun { self.head } else { self.idle };
        let sleep = Box::pin(tokio::time::sleep(limit));
        Box::pin(HeadSleep {
            sleep,
            watch: self.watch.clone(),
            head: self.head,
            reads,
            begun,
        })
    }
}

struct HeadSleep {
    sleep: Pin<Box<Sleep>>,
    watch: Arc<Watch>,
    head: Duration,
    reads: u64,
    begun: bool,
}

impl hyper::rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.watch.with(|seen| seen.reads) != self.reads {
            self.begun = true;
            let deadline = tokio::time::Instant::now() + self.head;
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

/// A socket that reports to its [`Watch`] and gives up on a client that takes nothing for `stall`.
pub(super) struct Guarded<S> {
    pub(super) socket: S,
    pub(super) watch: Arc<Watch>,
    pub(super) stall: Duration,
    pub(super) stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        ready!(
            self.stalled
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)))
                .as_mut()
                .poll(cx)
        );
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes no answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.watch.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(cx);
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.written(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proves_that_a_head_has_no_length() {
        let uri: http::Uri = "/a?b=1".parse().unwrap();
        let proven = |head: &str| is_head_without_length(head.as_bytes(), "POST", &uri);
        assert!(proven(
            "POST /a?b=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        assert!(proven("POST /a?b=1 HTTP/1.1\nHost: x\n\nContent-Length: in the body"));
        assert!(!proven("POST /a?b=1 HTTP/1.1\r\nHost: x\r\ncONTENT-lENGTH : 5\r\n\r\n"));
        assert!(!proven("POST /a?b=1 HTTP/1.1\r\nHost: x\r\n"), "cut off");
        assert!(
            !proven("POST /other HTTP/1.1\r\nHost: x\r\n\r\n"),
            "another request's head"
        );
        assert!(!proven(""));
    }
}
