//! Keeps what the program writes, and what it sends to a collector of traces.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What was written so far, by the program or to the collector.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub fn add(&self, bytes: &[u8]) {
        if let Ok(mut all) = self.0.lock() {
            all.extend_from_slice(bytes);
        }
    }

    pub fn text(&self) -> String {
        let all = self.0.lock().map(|all| all.clone()).unwrap_or_default();
        String::from_utf8_lossy(&all).into_owned()
    }

    pub fn collect(&self, pipe: impl AsyncRead + Send + Unpin + 'static) {
        let own = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).split(b'\n');
            while let Ok(Some(mut line)) = lines.next_segment().await {
                line.push(b'\n');
                own.add(&line);
            }
        });
    }
}

/// A collector of traces that keeps what it is sent. Answers its address.
pub async fn collector(kept: Written) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            // An exporter that hangs up is its own business.
            tokio::spawn(async move { drop(take(stream, kept).await) });
        }
    });
    Ok(format!("http://{address}"))
}

async fn take(mut stream: TcpStream, kept: Written) -> Result<()> {
    let mut request = Vec::new();
    loop {
        let mut part = [0; 16_384];
        let n = stream.read(&mut part).await?;
        request.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, _)) = text.split_once("\r\n\r\n") else {
            ensure!(n > 0, "half a request");
            continue;
        };
        let length = head.to_ascii_lowercase();
        let length = length
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if n == 0 || request.len() >= head.len() + 4 + length.unwrap_or(0) {
            kept.add(&request);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await?;
            return Ok(());
        }
    }
}
