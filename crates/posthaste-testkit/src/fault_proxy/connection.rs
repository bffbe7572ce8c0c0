//! One client and its connection to the server, until one of them ends or is ended.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::carry_bytes::{Ended, Pipe};
use super::{Chance, Cut, Direction, Weather};

/// How long the server may take to accept, and how long a finished connection is drained.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    pub(super) upstream: SocketAddr,
    pub(super) weather: watch::Receiver<Weather>,
    pub(super) chance: Chance,
}

impl Connection {
    pub(super) async fn run(mut self, mut client: TcpStream) {
        let connecting = tokio::time::timeout(LIMIT, TcpStream::connect(self.upstream));
        let Ok(Ok(mut server)) = connecting.await else {
            reset(&client);
            return;
        };
        // What is held back is held back by us, not by the kernel.
        for stream in [&client, &server] {
            if stream.set_nodelay(true).is_err() {
                return;
            }
        }
        let mut pipe = |direction| Pipe::new(direction, self.weather.clone(), Chance(self.chance.next()));
        let (to_server, to_client) = (pipe(Direction::ToServer), pipe(Direction::ToClient));
        let ended = {
            let (client_reads, client_writes) = client.split();
            let (server_reads, server_writes) = server.split();
            tokio::try_join!(
                to_server.carry(client_reads, server_writes),
                to_client.carry(server_reads, client_writes)
            )
        };
        match ended {
            Ok(_both_finished) => {}
            Err(Ended(Cut::Reset)) => {
                reset(&client);
                reset(&server);
            }
            Err(Ended(Cut::Finish)) => {
                tokio::join!(finish(&mut client), finish(&mut server));
            }
        }
    }
}

/// Closing the stream will send RST.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::error!(%error, "a connection cannot be reset");
    }
}

/// Ends the stream, and reads on until the peer ends it too: closing with bytes unread would reset it.
async fn finish(stream: &mut TcpStream) {
    let ending = async {
        stream.shutdown().await?;
        tokio::io::copy(stream, &mut tokio::io::sink()).await
    };
    // A peer that does not end it is reset by the close.
    drop(tokio::time::timeout(LIMIT, ending).await);
}
