//! A socket with deadlines: the tests send bytes that a proper client would not.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use posthaste_host::auth::Gate;
use posthaste_host::http::{
    ApiError, ApiJson, ApiPath, ApiQuery, BodyLimit, FieldError, Limits, Validate, app, serve_with,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::observations::observed;

/// No answer takes longer in these tests. As generous to a busy machine as it can be: what is closed by a limit that a test
/// has shortened must not be closed by the default, which is 30 s.
pub const DEADLINE: Duration = Duration::from_secs(28);

/// What a test waits for a limit to strike; all others stay at their defaults.
pub const SHORT: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Note {
    text: String,
    count: Option<u8>,
    extra: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    free: Option<serde_json::Map<String, Value>>,
}

impl Validate for Note {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.text.is_empty() {
            errors.push(FieldError::new("/text", "too_short", "must not be empty"));
        }
        if self.count.is_some_and(|count| count > 100) {
            errors.push(FieldError::new("/count", "range", "must be at most 100"));
        }
    }
}

#[derive(Deserialize)]
struct Page {
    limit: Option<u16>,
}

impl Validate for Page {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
            errors.push(FieldError::new("/limit", "range", "must be 1 to 100"));
        }
    }
}

#[utoipa::path(post, path = "/notes", request_body = Note, responses((status = 200, description = "The note")))]
async fn echo(ApiJson(note): ApiJson<Note>) -> axum::Json<Note> {
    axum::Json(note)
}

#[utoipa::path(
    get,
    path = "/notes/",
    params(
        ("cursor" = Option<String>, Query),
        ("other" = Option<String>, Query),
        ("Idempotency-Key" = Option<String>, Header)
    ),
    responses((status = 200, description = "Notes"))
)]
async fn list(ApiQuery(page): ApiQuery<Page>) -> String {
    format!("{:?}", page.limit)
}

#[utoipa::path(post, path = "/lenient", request_body = Note, responses((status = 200, description = "The note"), (status = 401, description = "No token")))]
async fn lenient(ApiJson(note): ApiJson<Note, 400>) -> axum::Json<Note> {
    axum::Json(note)
}

#[utoipa::path(post, path = "/large", request_body = Note, security(()), responses((status = 200, description = "Its length"), (status = 401, description = "Wrong password")))]
async fn large(ApiJson(note): ApiJson<Note>) -> String {
    note.text.len().to_string()
}

#[utoipa::path(get, path = "/things/{id}", responses((status = 200, description = "The id")))]
async fn thing(ApiPath(id): ApiPath<uuid::Uuid>) -> String {
    id.to_string()
}

#[utoipa::path(get, path = "/names/{name}", responses((status = 200, description = "The name")))]
async fn name(ApiPath(name): ApiPath<String>) -> String {
    name
}

#[utoipa::path(get, path = "/panic", responses((status = 500, description = "Always")))]
async fn panic() -> String {
    panic!("the handler's secret")
}

#[utoipa::path(get, path = "/hang", responses((status = 503, description = "Always")))]
async fn hang() -> String {
    std::future::pending().await
}

#[utoipa::path(get, path = "/correlation", responses((status = 200, description = "The request's id")))]
async fn correlation() -> String {
    posthaste::correlation::current().unwrap_or_default()
}

#[utoipa::path(get, path = "/broken", responses((status = 409, description = "Always"), (status = 500, description = "Own", body = Note)))]
async fn broken() -> ApiError {
    ApiError::new(http::StatusCode::CONFLICT, "Taken")
        .detail("Somebody has it.")
        .retry_after(Duration::from_millis(5))
}

/// The server under test.
pub struct Server {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub ended: JoinHandle<()>,
}

pub async fn start(limits: Limits) -> Server {
    // Before the first request, whose measurements would go nowhere for ever.
    observed();
    let routes = OpenApiRouter::new()
        .routes(routes!(echo))
        .routes(routes!(list))
        .routes(routes!(lenient))
        .routes(routes!(large).layer(axum::Extension(BodyLimit(200_000))))
        .routes(routes!(thing))
        .routes(routes!(name))
        .routes(routes!(panic))
        .routes(routes!(hang))
        .routes(routes!(correlation))
        .routes(routes!(broken));
    // A foreign rejection: axum's own extractor answers in plain text.
    let system = Router::new()
        .route("/health", get(async || "ok"))
        .route("/foreign", get(async |_: axum::extract::Query<u8>| "never"));
    let router = app(
        "tests",
        "1.2.3",
        Some("MIT OR Apache-2.0"),
        routes,
        system,
        Gate::open(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let ended = tokio::spawn(serve_with(listener, router, stop.clone(), DEADLINE * 2, limits));
    Server { address, stop, ended }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub async fn connect(server: &Server) -> Self {
        Self(TcpStream::connect(server.address).await.unwrap())
    }

    /// From another address of this machine.
    pub async fn connect_from(address: [u8; 4], server: &Server) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        Self(socket.connect(server.address).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        tokio::time::timeout(DEADLINE, self.0.write_all(bytes.as_ref()))
            .await
            .unwrap()
            .unwrap();
    }

    /// Reads one answer.
    pub async fn answer(&mut self) -> Answer {
        tokio::time::timeout(DEADLINE, self.read_answer())
            .await
            .expect("no answer in time")
    }

    async fn read_answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert_ne!(self.0.read_buf(&mut bytes).await.unwrap(), 0, "closed after {bytes:?}");
        };
        let mut body = bytes.split_off(end + 4);
        let head = String::from_utf8(bytes).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        let length: usize = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while body.len() < length {
            assert_ne!(self.0.read_buf(&mut body).await.unwrap(), 0, "closed within the body");
        }
        answer.body = body;
        answer
    }

    /// Waits for the server to close the connection; answers what it sent before.
    pub async fn closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match tokio::time::timeout(DEADLINE, self.0.read_to_end(&mut rest))
            .await
            .expect("not closed in time")
        {
            Ok(_) => rest,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => rest,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends one request on a connection of its own; `headers` are full lines.
pub async fn request(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut client = Client::connect(server).await;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    client
        .send(format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}{length}\r\n{body}"
        ))
        .await;
    client.answer().await
}

pub async fn get_path(server: &Server, path: &str) -> Answer {
    request(server, "GET", path, "", "").await
}

pub async fn post_json(server: &Server, path: &str, body: &str) -> Answer {
    request(server, "POST", path, "Content-Type: application/json\r\n", body).await
}
