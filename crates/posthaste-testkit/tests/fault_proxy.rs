//! Each fault of the proxy in front of a real TCP server that sends back what it gets.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use posthaste_testkit::{Cut, Direction, Fault, FaultProxy, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);
/// How long nothing has to come for "nothing comes".
const SILENCE: Duration = Duration::from_millis(200);

async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.shutdown().await);
                }
            });
        }
    });
    Ok(address)
}

async fn proxy() -> Result<FaultProxy> {
    FaultProxy::start(echo().await?, 7).await
}

async fn bounce(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut back))
        .await
        .context("no echo")??;
    ensure!(back == text, "not what was sent");
    Ok(())
}

async fn connect(proxy: &FaultProxy) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy.address()).await?;
    bounce(&mut stream, b"hello").await?;
    Ok(stream)
}

/// Everything up to the end of the stream, and the error that ended it.
async fn read_to_end(stream: &mut TcpStream) -> Result<(Vec<u8>, Option<ErrorKind>)> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = tokio::time::timeout(LIMIT, stream.read(&mut piece)).await;
        match read.context("the stream does not end")? {
            Ok(0) => return Ok((all, None)),
            Ok(size) => all.extend_from_slice(&piece[..size]),
            Err(error) => return Ok((all, Some(error.kind()))),
        }
    }
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SILENCE, stream.read(&mut [0; 64])).await.is_err()
}

async fn connections(proxy: &FaultProxy, number: usize) -> Result<()> {
    wait_until("the number of connections", LIMIT, || async {
        (proxy.connections() == number).then_some(())
    })
    .await
}

#[tokio::test]
async fn carries_both_ways_and_counts() -> Result<()> {
    let proxy = proxy().await?;
    assert!(proxy.address().port() < 32_768);
    let mut one = connect(&proxy).await?;
    let mut two = connect(&proxy).await?;
    connections(&proxy, 2).await?;
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (mut read, mut write) = one.split();
    let send = async {
        write.write_all(&large).await?;
        write.shutdown().await
    };
    let mut back = Vec::new();
    tokio::time::timeout(LIMIT, async { tokio::try_join!(send, read.read_to_end(&mut back)) }).await??;
    assert_eq!(back, large);
    drop(one);
    connections(&proxy, 1).await?;
    bounce(&mut two, b"still there").await?;
    assert_eq!(proxy.accepted(), 2);
    drop(proxy);
    let (rest, _) = read_to_end(&mut two).await?;
    assert!(rest.is_empty());
    Ok(())
}

#[tokio::test]
async fn latency_counts_each_way() -> Result<()> {
    let proxy = proxy().await?;
    let mut stream = connect(&proxy).await?;
    proxy.inject(Fault::Latency {
        delay: Duration::from_millis(60),
        jitter: Duration::from_millis(20),
    });
    let start = Instant::now();
    bounce(&mut stream, b"slow").await?;
    assert!(start.elapsed() >= Duration::from_millis(120), "{:?}", start.elapsed());
    proxy.heal();
    bounce(&mut stream, b"quick again").await
}

#[tokio::test]
async fn a_drip_lets_a_few_bytes_through_at_a_time() -> Result<()> {
    let proxy = proxy().await?;
    let mut stream = connect(&proxy).await?;
    proxy.inject(Fault::Drip {
        bytes: 3,
        every: Duration::from_millis(40),
    });
    let start = Instant::now();
    bounce(&mut stream, b"twelve bytes").await?;
    // Three pauses between four drips, at least.
    assert!(start.elapsed() >= Duration::from_millis(120), "{:?}", start.elapsed());
    proxy.heal();
    bounce(&mut stream, &[1; 4000]).await
}

#[tokio::test]
async fn a_cut_comes_after_the_bytes_it_was_told() -> Result<()> {
    for (by, error) in [(Cut::Finish, None), (Cut::Reset, Some(ErrorKind::ConnectionReset))] {
        let proxy = proxy().await?;
        let mut stream = connect(&proxy).await?;
        proxy.inject(Fault::Cut {
            direction: Direction::ToClient,
            after: 100..101,
            by,
        });
        stream.write_all(&[5; 4000]).await?;
        let (read, ended) = read_to_end(&mut stream).await?;
        // A reset may overtake bytes that the client has not read.
        assert!(
            read.len() == 100 || (by == Cut::Reset && read.len() < 100),
            "{}",
            read.len()
        );
        assert_eq!(ended, error);
        drop(stream);
        // The next connection is cut as well, counted anew; "hello" is let through.
        let mut next = connect(&proxy).await?;
        proxy.heal();
        bounce(&mut next, &[5; 4000]).await?;
        connections(&proxy, 1).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_cut_after_no_bytes_ends_what_is_connected() -> Result<()> {
    let proxy = proxy().await?;
    let mut streams = vec![connect(&proxy).await?, connect(&proxy).await?];
    proxy.inject(Fault::Cut {
        direction: Direction::ToServer,
        after: 0..1,
        by: Cut::Reset,
    });
    for stream in &mut streams {
        assert_eq!(read_to_end(stream).await?.1, Some(ErrorKind::ConnectionReset));
    }
    connections(&proxy, 0).await
}

#[tokio::test]
async fn half_open_keeps_connections_and_swallows_all() -> Result<()> {
    let proxy = proxy().await?;
    let (mut busy, mut idle) = (connect(&proxy).await?, connect(&proxy).await?);
    proxy.inject(Fault::HalfOpen);
    busy.write_all(b"into the void").await?;
    let mut new = TcpStream::connect(proxy.address()).await?;
    new.write_all(b"me too").await?;
    assert!(is_silent(&mut busy).await);
    assert!(is_silent(&mut new).await);
    connections(&proxy, 3).await?;
    proxy.heal();
    for stream in [&mut busy, &mut new] {
        assert_eq!(read_to_end(stream).await?.1, Some(ErrorKind::ConnectionReset));
    }
    // What lost nothing goes on.
    bounce(&mut idle, b"fine").await?;
    connect(&proxy).await?;
    Ok(())
}

#[tokio::test]
async fn one_way_drops_are_one_way() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = FaultProxy::start(server.local_addr()?, 7).await?;
    let mut client = TcpStream::connect(proxy.address()).await?;
    let (mut accepted, _) = server.accept().await?;
    proxy.inject(Fault::Drop(Direction::ToClient));
    // The other direction carries; once it has, the fault is in force.
    client.write_all(b"up").await?;
    let mut up = [0; 2];
    tokio::time::timeout(LIMIT, accepted.read_exact(&mut up)).await??;
    assert_eq!(&up, b"up");
    accepted.write_all(b"down").await?;
    assert!(is_silent(&mut client).await);
    // That the server has gone is not seen either.
    drop(accepted);
    assert!(is_silent(&mut client).await);
    proxy.heal();
    assert_eq!(read_to_end(&mut client).await?.1, Some(ErrorKind::ConnectionReset));
    Ok(())
}

#[tokio::test]
async fn refuses_and_listens_again_on_the_same_port() -> Result<()> {
    let proxy = proxy().await?;
    let mut before = connect(&proxy).await?;
    proxy.inject(Fault::Refuse);
    wait_until("connections to be refused", LIMIT, || async {
        let error = TcpStream::connect(proxy.address()).await.err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await?;
    bounce(&mut before, b"not concerned").await?;
    proxy.heal();
    wait_until("connections to be taken", LIMIT, || async {
        connect(&proxy).await.ok().map(drop)
    })
    .await
}
