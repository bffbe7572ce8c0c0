//! The connection loop: hyper with the limits that `axum::serve` does not have.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::client_address::{Peer, TrustedProxies};
use super::guard_connection::{Guarded, HEAD_LIMIT, HeadTimer, Watch};
use super::problem::ApiError;
use super::request_context::{RequestLimit, secure};
use super::share_connections::{Place, Shares};

/// How long a part of an exchange may take, and how many clients there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sending a request's head, from its first byte (for the first one: from the connection).
    pub head: Duration,
    /// Between an answer and the first byte of the next request.
    pub idle: Duration,
    /// Sending a request's body.
    pub body: Duration,
    /// From the whole head to the beginning of the answer.
    pub request: Duration,
    /// Without the client taking a single byte of an answer.
    pub stall: Duration,
    /// Connections at once; for more an idle one is closed. Where none is idle they wait in the listener's backlog.
    pub connections: usize,
    /// Connections at once of one address (IPv6: of one /64); for more the longest idle one is closed. 0: no limit.
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body: Duration::from_secs(15),
            request: RequestLimit::DEFAULT.0,
            stall: Duration::from_secs(30),
            connections: 1024,
            per_address: 128,
        }
    }
}

/// How long to wait before accepting again when the process has no file handle left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often one more connection is closed while a new one waits for room.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown`; then lets requests at work finish for at most `drain`.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, drain: Duration) {
    serve_with(listener, router, shutdown, drain, Limits::default()).await;
}

/// [`serve`] with other limits.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
    limits: Limits,
) {
    serve_shared(listener, router, shutdown, drain, limits, None).await;
}

/// [`serve`] where `proxies`, and this machine, have the connections of many clients.
pub(crate) async fn serve_for(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
    per_address: usize,
    proxies: TrustedProxies,
) {
    let limits = Limits {
        per_address,
        ..Limits::default()
    };
    serve_shared(listener, router, shutdown, drain, limits, Some(proxies)).await;
}

async fn serve_shared(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
    limits: Limits,
    proxies: Option<TrustedProxies>,
) {
    let shares = Shares::new(limits.per_address, proxies);
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    // Accepted, and not served before there is room for it.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&listener), if waiting.is_none() => match accepted {
                Ok(client) => waiting = Some(client),
                Err(error) => {
                    tracing::warn!(%error, "no connection accepted");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
            permit = room_for(&room, &shares), if waiting.is_some() => {
                let Some((socket, peer)) = waiting.take() else { continue };
                let watch = Arc::new(Watch::default());
                let Some(place) = shares.take(peer.ip(), &watch) else {
                    continue;
                };
                let (router, stop) = (router.clone(), shutdown.child_token());
                connections.spawn(async move {
                    connection(socket, peer, router, stop, limits, place, watch).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "connections cut off");
        connections.shutdown().await;
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = listener.accept().await?;
    socket.set_nodelay(true)?;
    Ok((socket, peer))
}

/// Room for one more connection; idle ones are closed for it.
async fn room_for(room: &Arc<Semaphore>, shares: &Shares) -> Option<OwnedSemaphorePermit> {
    loop {
        match room.clone().try_acquire_owned() {
            Ok(permit) => return Some(permit),
            Err(TryAcquireError::NoPermits) => shares.make_room(),
            // Nobody closes it.
            Err(TryAcquireError::Closed) => return None,
        }
        if let Ok(permit) = tokio::time::timeout(ROOM_PAUSE, room.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
    limits: Limits,
    place: Place,
    watch: Arc<Watch>,
) {
    let place = Arc::new(place);
    let timer = HeadTimer {
        watch: watch.clone(),
        head: limits.head,
        idle: limits.idle,
    };
    let socket = Guarded {
        socket,
        watch: watch.clone(),
        stall: limits.stall,
        stalled: None,
    };
    let door = Door {
        router,
        watch: watch.clone(),
        limits,
        peer: Peer(peer.ip()),
        place: place.clone(),
    };
    let served = http1::Builder::new()
        .timer(timer)
        // The timer decides which limit holds; this only makes hyper ask it.
        .header_read_timeout(limits.idle)
        .max_header_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(socket), door);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        // Cut off where nothing is at work; a request that is under way has its answer first.
        () = place.evicted() => {
            if watch.is_idle() {
                return;
            }
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // A client that went away or broke the protocol: nothing that an operator could act on.
        tracing::debug!(%error, "connection ended");
    }
}

/// A connection's way into the router: refuses what is ambiguous, and times the body.
struct Door {
    router: Router,
    watch: Arc<Watch>,
    limits: Limits,
    peer: Peer,
    place: Arc<Place>,
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<<Router as Service<Request<Body>>>::Future, Ready<Result<Response, Infallible>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.watch.dispatch();
        self.place.touch();
        if let Some(reason) = self.refuse(&request) {
            return Either::Right(ready(Ok(refusal(reason))));
        }
        let limit = self.limits.body;
        let mut request = request.map(|body| {
            // An empty body needs neither a timer nor a box.
            if hyper::body::Body::is_end_stream(&body) {
                return Body::empty();
            }
            Body::new(TimedBody {
                body,
                limit,
                late: None,
            })
        });
        request.extensions_mut().insert(self.peer);
        if self.limits.request != RequestLimit::DEFAULT.0 {
            request.extensions_mut().insert(RequestLimit(self.limits.request));
        }
        Either::Left(Service::call(&mut self.router.clone(), request))
    }
}

impl Door {
    fn refuse<B>(&self, request: &Request<B>) -> Option<&'static str> {
        let mut hosts = request.headers().get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (None, _) if request.version() == Version::HTTP_11 => return Some("The request has no Host."),
            (Some(_), Some(_)) => return Some("The request has more than one Host."),
            _ => {}
        }
        self.watch.is_ambiguous(request).then_some(
            "A request has either Transfer-Encoding or Content-Length, and is not pipelined with the former.",
        )
    }
}

fn refusal(reason: &'static str) -> Response {
    tracing::debug!(reason, "request refused");
    let mut response = ApiError::of(StatusCode::BAD_REQUEST).detail(reason).into_response();
    secure(response.headers_mut());
    // Where one request is ambiguous, so is the beginning of the next.
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request's body did not arrive within [`Limits::body`].
#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
pub(super) struct BodyTimeout;

struct TimedBody {
    body: Incoming,
    limit: Duration,
    /// Set when the body is waited for the first time: nearly every one is there already.
    late: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = pin!(self.body.frame()).poll(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = self.limit;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        late.as_mut().poll(cx).map(|()| Some(Err(BodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
