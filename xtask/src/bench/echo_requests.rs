//! The limit of A2: the least that an axum server does with a body.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};

/// Answers every `POST /api/events` with its own body until the process is ended.
pub async fn serve(port: u16) -> Result<()> {
    let routes = Router::new()
        .route("/api/events", post(|body: Bytes| async move { body }))
        .route("/readyz", get(|| async { "ready" }));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, routes).await.context("the echo ended")
}
