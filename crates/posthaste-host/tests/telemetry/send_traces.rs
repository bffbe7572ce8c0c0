//! Spans reach a collector, over the protocol that collectors speak.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste_host::telemetry::{self, logs::Target};
use posthaste_host::{Config, Sources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(90);

/// The one test that installs telemetry for its whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_sent_at_the_stop_without_secrets() -> Result<()> {
    let collector = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", collector.local_addr()?);
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"),
        ("OTEL_SERVICE_NAME", "traced-service"),
        ("LOGGING_ENABLED", "false"),
    ];
    let pairs = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = Config::load(Sources::new().environment(pairs), &["ledger"])?;
    let running = telemetry::install(&config, &["ledger"], Target::Stderr)?;

    let received = tokio::spawn(async move {
        let (mut stream, _) = collector.accept().await?;
        let mut request = Vec::new();
        loop {
            let mut part = [0; 4096];
            let n = stream.read(&mut part).await?;
            request.extend_from_slice(&part[..n]);
            if n == 0 || is_whole(&request) {
                break;
            }
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        anyhow::Ok(String::from_utf8_lossy(&request).into_owned())
    });
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    {
        let span = tracing::info_span!("charge_card", password = "canary", route = "/pay");
        posthaste::telemetry::continue_trace(&span, parent);
        let _in_span = span.enter();
        let own = posthaste::telemetry::current_traceparent().unwrap_or_default();
        ensure!(
            own.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && own != parent,
            "{own}"
        );
        tracing::info!(token = "canary", "charged");
    }
    running.stop().await;
    let request = tokio::time::timeout(LIMIT, received).await???;
    ensure!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
    for part in [
        "application/x-protobuf",
        "x-tenant: blue",
        "traced-service",
        "service.version",
        "charge_card",
        "/pay",
    ] {
        ensure!(request.contains(part), "{part} is missing in {request}");
    }
    ensure!(!request.contains("canary"), "{request}");
    Ok(())
}

/// Whether the whole body has come.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| request.len() >= head.len() + 4 + length)
}
