//! A load client that costs less than what it measures: prepared requests, keep-alive, no general HTTP parser.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

/// One answer may take this long.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Sends each of `bodies` once to `path` over `connections` connections at once; answers per second.
///
/// # Errors
/// When a connection breaks, an answer is late or its status is not 2xx.
pub async fn post(port: u16, path: &str, bodies: &[String], connections: usize) -> Result<f64> {
    send(port, path, bodies, connections, None).await
}

/// The same, but each body leaves at its own time, `rate` of them per second, whatever became of those before it.
///
/// # Errors
/// As [`post`]; and when fewer than 95 % of `rate` came out: then they waited for answers after all.
pub async fn post_at(port: u16, path: &str, bodies: &[String], connections: usize, rate: usize) -> Result<f64> {
    let reached = send(port, path, bodies, connections, Some(rate as f64)).await?;
    ensure!(
        reached >= 0.95 * rate as f64,
        "{reached:.0} requests per second instead of {rate}: the machine is too busy"
    );
    Ok(reached)
}

async fn send(port: u16, path: &str, bodies: &[String], connections: usize, rate: Option<f64>) -> Result<f64> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = timeout(ANSWER_LIMIT, TcpStream::connect(("127.0.0.1", port))).await??;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let shares: Vec<Vec<Vec<u8>>> = (0..connections)
        .map(|number| {
            let own = bodies.iter().skip(number).step_by(connections);
            own.map(|body| request(path, body)).collect()
        })
        .collect();
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for (number, (stream, share)) in streams.into_iter().zip(shares).enumerate() {
        let times = rate.map(|rate| Times {
            first: start + Duration::from_secs_f64(number as f64 / rate),
            step: Duration::from_secs_f64(connections as f64 / rate),
        });
        senders.spawn(send_share(stream, share, times));
    }
    while let Some(sent) = senders.join_next().await {
        sent.context("a sender panicked")??;
    }
    Ok(bodies.len() as f64 / start.elapsed().as_secs_f64())
}

fn request(path: &str, body: &str) -> Vec<u8> {
    let head = "Host: 127.0.0.1\r\nContent-Type: application/json";
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// When one connection's requests leave.
struct Times {
    first: Instant,
    step: Duration,
}

async fn send_share(mut stream: TcpStream, share: Vec<Vec<u8>>, times: Option<Times>) -> Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    for (number, request) in (0..).zip(&share) {
        if let Some(times) = &times {
            sleep_until((times.first + times.step * number).into()).await;
        }
        timeout(ANSWER_LIMIT, exchange(&mut stream, request, &mut buffer))
            .await
            .context("an answer is late")??;
    }
    Ok(())
}

async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await?;
        ensure!(read > 0, "the server closed the connection");
        if let Some(length) = answer_length(buffer)?
            && buffer.len() >= length
        {
            ensure!(buffer.len() == length, "more than one answer to one request");
            return Ok(());
        }
    }
}

/// Bytes of head and body, once the head is there.
fn answer_length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    ensure!(head.starts_with("HTTP/1.1 2"), "refused: {head}");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("an answer without Content-Length")?;
    Ok(Some(end + 4 + length.1.trim().parse::<usize>()?))
}

#[cfg(test)]
mod tests {
    use super::answer_length;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let head = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n";
        assert_eq!(answer_length(head).unwrap(), Some(head.len() + 2));
        assert_eq!(answer_length(&head[..20]).unwrap(), None);
        assert!(answer_length(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
