//! Mail through a server that takes it, is away, or refuses it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use posthaste_testkit::servers::{ReservedPort, reserve_port};
use posthaste_testkit::wait_until;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::mailbox::{Accounts, LIMIT};
use crate::stage::Stage;

/// Where mail servers listen that go away and come back: nobody else gets the port meanwhile.
fn port() -> Result<ReservedPort> {
    reserve_port(24_500)
}

/// A mail server that keeps what it takes.
struct Server {
    mails: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// What a server answers.
#[derive(Clone, Copy)]
struct Manner {
    greeting: &'static str,
    login: &'static str,
    /// In the addresses of recipients that it does not know.
    refused: &'static str,
}

const TAKES_ALL: Manner = Manner {
    greeting: "220 test\r\n",
    login: "235 welcome\r\n",
    refused: "nobody",
};

impl Server {
    /// It answers recipients whose address contains `refused` with a permanent failure.
    async fn listen(port: u16, refused: &'static str) -> Result<Self> {
        Self::listen_as(port, Manner { refused, ..TAKES_ALL }).await
    }

    async fn listen_as(port: u16, manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = mails.clone();
        let task = tokio::spawn(async move {
            // They end with the server.
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let kept = kept.clone();
                // A client that hangs up is its own business.
                clients.spawn(async move { drop(talk(socket, kept, manner).await) });
            }
        });
        Ok(Self { mails, task })
    }

    fn mails(&self) -> Vec<String> {
        self.mails.lock().map(|mails| mails.clone()).unwrap_or_default()
    }
}

async fn talk(socket: TcpStream, kept: Arc<Mutex<Vec<String>>>, manner: Manner) -> Result<()> {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(manner.greeting.as_bytes()).await?;
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-test\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n",
            "AUTH" => manner.login,
            "RCPT" if line.contains(manner.refused) => "550 no such mailbox\r\n",
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    mail.push_str(&line);
                    mail.push('\n');
                }
                kept.lock().map(|mut mails| mails.push(mail)).ok().context("poisoned")?;
                "250 kept\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "250 fine\r\n",
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_through_the_server_also_one_that_comes_later() -> Result<()> {
    let reserved = port()?;
    let port = reserved.number;
    let server = Server::listen(port, "nobody").await?;
    let url = format!("smtp://127.0.0.1:{port}");
    let settings = [
        ("SMTP_URL", url.as_str()),
        ("MAIL_FROM", "Accounts <hello@example.com>"),
    ];
    let stage = Stage::open().await?;
    let accounts = Accounts::start_with(&stage, &settings).await?;
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    let mail = wait_until("the mail", LIMIT, || async { server.mails().first().cloned() }).await?;
    for line in [
        "From: Accounts <hello@example.com>",
        "To: ann@example.com",
        "Subject: Welcome: please confirm your address",
        "Content-Transfer-Encoding: 7bit",
    ] {
        assert!(mail.lines().any(|found| found == line), "{line}: {mail}");
    }
    assert!(
        mail.lines()
            .any(|line| line.starts_with("Message-ID: <") && line.ends_with("@example.com>")),
        "{mail}"
    );
    assert!(
        mail.lines()
            .any(|line| line.starts_with("https://accounts.example/verify-email#token=")),
        "{mail}"
    );

    server.task.abort();
    assert!(server.task.await.is_err());
    assert_eq!(accounts.sign_up("bob@example.com").await?.status, 201);
    accounts
        .count_is(
            "inbox_messages WHERE status IN ('retrying', 'waiting') AND subscription = 'accounts.mail_user'",
            1,
        )
        .await?;
    let server = Server::listen(port, "nobody").await?;
    let mail = wait_until("the mail", LIMIT, || async { server.mails().first().cloned() }).await?;
    assert!(mail.contains("\nTo: bob@example.com\n"), "{mail}");
    accounts.settled().await?;
    // What is refused for good is given up at once, and the user is there all the same.
    assert_eq!(accounts.sign_up("nobody@example.com").await?.status, 201);
    accounts.count_is("inbox_messages WHERE status = 'dead'", 1).await?;
    let sql = "SELECT error FROM inbox_messages WHERE status = 'dead'";
    let error: String = accounts
        .service
        .store()
        .query(sql, vec![])
        .await?
        .first()
        .context("a row")?
        .get("error")?;
    assert!(
        error.contains("refused the mail for good") && !error.contains("nobody"),
        "{error}"
    );
    assert!(accounts.mails()?.is_empty(), "no file beside it");
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_hangs_holds_nobody_up() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("smtp://127.0.0.1:{}", silent.local_addr()?.port());
    let stage = Stage::open().await?;
    let accounts = Accounts::start_with(&stage, &[("SMTP_URL", &url)]).await?;
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    // It is connected to, and does not say a word.
    let (connection, _) = tokio::time::timeout(LIMIT, silent.accept()).await??;
    let started = Instant::now();
    for n in 0..5 {
        let reply = accounts.sign_up(&format!("user{n}@example.com")).await?;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    // Worked off, on a database that has one writer.
    let done = "inbox_messages WHERE subscription = 'accounts.onboard_user' AND status = 'processed'";
    accounts.count_is(done, 6).await?;
    assert!(started.elapsed() < Duration::from_secs(19), "{:?}", started.elapsed());
    drop(connection);
    accounts.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_mail_that_cannot_be_kept_is_given_up() -> Result<()> {
    let stage = Stage::open().await?;
    let accounts = Accounts::start(&stage).await?;
    accounts
        .service
        .refuse_rows("inbox_messages", "status", "retrying")
        .await?;
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    let dead = "inbox_messages WHERE status = 'dead' AND subscription = 'accounts.mail_user'";
    accounts.count_is(dead, 1).await?;
    accounts.settled().await?;
    accounts.stop().await?;
    stage.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_was_not_taken_is_tried_again() -> Result<()> {
    let reserved = port()?;
    let port = reserved.number;
    let server = Server::listen(port, "nobody").await?;
    let url = format!("smtp://127.0.0.1:{port}");
    let stage = Stage::open().await?;
    let accounts = Accounts::start_with(&stage, &[("SMTP_URL", &url)]).await?;
    assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
    wait_until("the mail", LIMIT, || async { server.mails().first().cloned() }).await?;
    accounts.settled().await?;
    server.task.abort();
    assert!(server.task.await.is_err());
    assert_eq!(accounts.register("ann@example.com").await?.status, 202);
    let parked = "inbox_messages WHERE status IN ('retrying', 'waiting') AND subscription = 'accounts.mail_user' AND error IS NOT NULL";
    accounts.count_is(parked, 1).await?;
    let server = Server::listen(port, "nobody").await?;
    let mail = wait_until("the notice", LIMIT, || async { server.mails().first().cloned() }).await?;
    assert!(mail.contains("You have an account already"), "{mail}");
    accounts.stop().await?;
    stage.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_let_us_in_costs_no_mail() -> Result<()> {
    let password = Manner {
        login: "535 5.7.8 the password is another one since today\r\n",
        ..TAKES_ALL
    };
    let blocked = Manner {
        greeting: "554 5.7.1 not from your address\r\n",
        ..TAKES_ALL
    };
    let unknown = Manner {
        login: "550 5.7.1 not from your address\r\n",
        ..TAKES_ALL
    };
    for manner in [password, blocked, unknown] {
        let reserved = port()?;
        let port = reserved.number;
        let server = Server::listen_as(port, manner).await?;
        let url = format!("smtp://hello:old-password@127.0.0.1:{port}");
        let stage = Stage::open().await?;
        let accounts = Accounts::start_with(&stage, &[("SMTP_URL", &url)]).await?;
        assert_eq!(accounts.sign_up("ann@example.com").await?.status, 201);
        let tried = "inbox_messages WHERE subscription = 'accounts.mail_user' AND error IS NOT NULL";
        accounts.count_is(tried, 1).await?;
        server.task.abort();
        assert!(server.task.await.is_err());
        let server = Server::listen_as(port, TAKES_ALL).await?;
        let mail = wait_until("the mail", LIMIT, || async { server.mails().first().cloned() }).await?;
        assert!(mail.contains("\nTo: ann@example.com\n"), "{mail}");
        accounts.stop().await?;
        stage.finish().await?;
    }
    Ok(())
}
