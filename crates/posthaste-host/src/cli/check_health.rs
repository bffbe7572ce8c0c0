//! `healthcheck`: asks the process on this machine, without curl.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CliError, FileOption, print};
use crate::config::Sources;
use crate::service::Service;

/// A process that takes longer is not healthy.
const LIMIT: Duration = Duration::from_secs(4);

#[derive(Args)]
pub(super) struct CheckHealth {
    /// Ask this port (PORT)
    #[arg(long)]
    port: Option<String>,
    #[command(flatten)]
    file: FileOption,
}

impl CheckHealth {
    pub(super) async fn run(self, services: &[Service]) -> Result<ExitCode, CliError> {
        let port = self.port.map(|port| ("PORT".to_owned(), port, "--port".to_owned()));
        let address = match self.file.load(Sources::new().flags(port), services) {
            Ok(config) => reachable(config.listen),
            // Docker knows 0 and 1 only.
            Err(errors) => return Err(CliError::Refused(errors.to_string())),
        };
        let status = match tokio::time::timeout(LIMIT, ask(address)).await {
            Ok(answer) => answer.map_err(|error| CliError::Refused(format!("{address} does not answer: {error}")))?,
            Err(_elapsed) => return Err(CliError::Refused(format!("{address} does not answer within {LIMIT:?}"))),
        };
        if status == "200" {
            print("ready\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(CliError::Refused(format!("{address} is not ready: {status}")))
    }
}

/// From this machine an unspecified address is reached through the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The status of `/readyz`.
async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // The first line is all that matters.
    let mut start = (&mut stream).take(1024);
    start.read_to_end(&mut head).await?;
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    match (words.next(), words.next()) {
        (Some(protocol), Some(status)) if protocol.starts_with("HTTP/") => Ok(status.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP")),
    }
}
