//! `Idempotency-Key` through a route and a real database.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use posthaste::idempotency::StoredResponse;
use posthaste::{CORE_MIGRATIONS, Store, StoreOptions};
use posthaste_host::auth::Gate;
use posthaste_host::http::{ApiError, ApiJsonRaw, IdempotencyKey, Limits, app, idempotent, serve_with};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::client::{Answer, DEADLINE, Server, request};

async fn create(
    State(store): State<Store>,
    key: Option<IdempotencyKey>,
    ApiJsonRaw(body, raw): ApiJsonRaw<Value>,
) -> Result<Response, ApiError> {
    idempotent(&store, "tests/create", key.as_ref(), &raw, |tx| {
        Box::pin(async move {
            if body["fail"] == true {
                return Err(ApiError::not_found("Asked for."));
            }
            tx.execute(
                "INSERT INTO effects (id) VALUES ($1)",
                vec![uuid::Uuid::now_v7().to_string().into()],
            )
            .await?;
            let made = tx.query("SELECT count(*) AS n FROM effects", vec![]).await?;
            let n: i64 = made[0].get("n")?;
            Ok(StoredResponse {
                status: 201,
                body: json!({ "n": n }).to_string().into_bytes(),
            })
        })
    })
    .await
}

async fn post_with(server: &Server, key: &str, body: &str) -> Answer {
    let key = if key.is_empty() {
        String::new()
    } else {
        format!("Idempotency-Key: {key}\r\n")
    };
    request(
        server,
        "POST",
        "/create",
        &format!("Content-Type: application/json\r\n{key}"),
        body,
    )
    .await
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(
        &format!("sqlite:{}/test.db", folder.path().display()),
        StoreOptions::default(),
    )
    .unwrap();
    store.migrate_up("core", CORE_MIGRATIONS).await.unwrap();
    store.execute("CREATE TABLE effects (id TEXT)", vec![]).await.unwrap();
    let system = Router::new().route("/create", post(create)).with_state(store);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = app("tests", "1", None, OpenApiRouter::new(), system, Gate::open());
    let ended = tokio::spawn(serve_with(listener, router, stop.clone(), DEADLINE, Limits::default()));
    let server = Server { address, stop, ended };

    let failed = post_with(&server, "k1", r#"{"fail":true}"#).await;
    assert_eq!(failed.status, 404);
    let first = post_with(&server, "k1", r#"{"a":1}"#).await;
    assert_eq!(
        (first.status, first.header("idempotent-replayed")),
        (201, None),
        "a failure forgets the key"
    );
    assert_eq!(first.json(), json!({"n": 1}));
    let again = post_with(&server, "\"k1\"", r#"{"a":1}"#).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.json(), json!({"n": 1}));
    let other = post_with(&server, "k1", r#"{"a":2}"#).await;
    assert_eq!(other.status, 422);
    let bare = post_with(&server, "", r#"{"a":1}"#).await;
    assert_eq!(bare.json(), json!({"n": 2}), "without a key each request acts");
    assert_eq!(post_with(&server, "bad key", "{}").await.status, 400);
}
