//! Traces, as a collector and an operator see them.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Child;

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::{api_of, signal};

/// So that spans leave at once; the SDK reads it.
const AT_ONCE: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

async fn ends(child: &mut Child) -> Result<()> {
    signal(child, "-TERM").await?;
    let status = tokio::time::timeout(LIMIT, child.wait()).await??;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_at_the_stop() -> Result<()> {
    let program = Program::new()?;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let endpoint = format!("http://{nobody}");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), AT_ONCE];
    let mut child = program.command(&["--port", "0"], &variables).spawn()?;
    let api = api_of(&mut child).await?;
    let mut log = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let told = |line: &str| line.contains("the collector takes no spans");
    let first = async {
        while let Some(line) = log.next_line().await? {
            if told(&line) {
                return Ok(line);
            }
        }
        anyhow::bail!("it ended without a word")
    };
    let asked = async {
        loop {
            reqwest::get(format!("{api}openapi.json")).await?;
            tokio::task::yield_now().await;
        }
    };
    let line = tokio::time::timeout(LIMIT, async {
        tokio::select! {
            line = first => line,
            failed = asked => failed,
        }
    })
    .await??;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    ensure!(line["level"] == "WARN" && line["fields"]["error"].is_string(), "{line}");
    let metrics = reqwest::get(format!("{api}metrics")).await?.text().await?;
    let lost = metrics
        .lines()
        .find_map(|line| line.strip_prefix("posthaste_spans_lost_total "));
    ensure!(lost.is_some_and(|lost| lost != "0"), "{metrics}");
    reqwest::get(format!("{api}openapi.json")).await?;
    ends(&mut child).await?;
    let mut rest = Vec::new();
    while let Some(line) = log.next_line().await? {
        rest.push(line);
    }
    ensure!(!rest.iter().any(|line| told(line)), "{rest:?}");
    let lost = |line: &&String| line.contains("spans were lost") && line.contains("\"spans\":");
    ensure!(rest.iter().filter(lost).count() == 1, "{rest:?}");
    Ok(())
}

#[tokio::test]
async fn spans_are_compressed_where_that_is_asked_for() -> Result<()> {
    let program = Program::new()?;
    let collector = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", collector.local_addr()?);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20one"),
        AT_ONCE,
    ];
    let mut child = program.command(&["--port", "0"], &variables).spawn()?;
    let api = api_of(&mut child).await?;
    reqwest::get(format!("{api}openapi.json")).await?;
    let received = async {
        let (mut stream, _) = collector.accept().await?;
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            let read = stream.read_buf(&mut request).await?;
            ensure!(read > 0, "{request:?}");
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        Ok(String::from_utf8_lossy(&request).to_ascii_lowercase())
    };
    let request = tokio::time::timeout(LIMIT, received).await??;
    for header in ["content-encoding: gzip", "x-tenant: blue one"] {
        ensure!(request.contains(header), "{header}: {request}");
    }
    drop(collector);
    ends(&mut child).await
}
