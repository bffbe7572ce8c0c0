//! Mail on its way out: through SMTP, or into files where no server is configured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use posthaste::store::make_private_folder;
use posthaste::{Failure, Handled, MessageId};
use posthaste_host::{ConfigError, Settings};
use tokio::io::AsyncWriteExt;

/// How long a server may take for one mail; less than its handler may.
const LIMIT: Duration = Duration::from_secs(20);

/// Most characters of a line, its end not counted.
const LINE: usize = 998;

/// A mail to one user.
pub(crate) struct Mail {
    /// The message that asked for it: a mail that is sent twice after a crash has the same `Message-ID` both times.
    pub id: MessageId,
    /// The canonical address.
    pub to: String,
    /// ASCII.
    pub subject: &'static str,
    /// ASCII, in lines of at most 998 characters.
    pub text: String,
}

/// Why a mail was not sent; without the address and the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    /// It cannot be written as a mail.
    #[error("the mail cannot be written: {0}")]
    Unwritable(String),
    /// The server does not take this mail, now or ever.
    #[error("the mail server refused the mail for good")]
    RefusedForGood,
    /// The server did not take it.
    #[error("the mail server did not take the mail: {0}")]
    Refused(&'static str),
    /// The server did not answer in time.
    #[error("the mail server did not take the mail within {LIMIT:?}")]
    Late,
    /// The file could not be written.
    #[error("the mail could not be written to {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
}

/// Refuses to send a password to a server that may not speak TLS, and warns where mails go in clear to another machine:
/// each has a link in it that opens an account.
fn check_tls(url: &str) -> Result<(), ConfigError> {
    // What is no URL is refused by whoever connects.
    let Ok(parsed) = url::Url::parse(url) else {
        return Ok(());
    };
    let required = parsed
        .query_pairs()
        .any(|(name, value)| name == "tls" && value == "required");
    if parsed.scheme() == "smtps" || required {
        return Ok(());
    }
    let host = parsed
        .host_str()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let here = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if here {
        return Ok(());
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(ConfigError::refused(
            "SMTP_URL: the password would go out in clear where the server does not offer TLS; write \
             smtp://USER:PASSWORD@HOST:587?tls=required or smtps://…",
        ));
    }
    tracing::warn!("SMTP_URL: mails, and the links in them, may go out in clear; ?tls=required keeps them from that");
    Ok(())
}

/// Removes mails from `MAIL_DIR` that were written longer than `kept` ago.
pub(crate) async fn purge_files(settings: &Settings, kept: Duration) {
    if settings.get("SMTP_URL").is_some() {
        return;
    }
    let folder = PathBuf::from(settings.get("MAIL_DIR").unwrap_or_default());
    // There is none before the first mail.
    let Ok(mut entries) = tokio::fs::read_dir(&folder).await else {
        return;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        let written = entry.metadata().await.and_then(|data| data.modified());
        let age = written.ok().and_then(|at| at.elapsed().ok());
        let is_old = path.extension().is_some_and(|kind| kind == "eml") && age.is_some_and(|age| age > kept);
        if is_old && let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::info!(%error, file = %path.display(), "an old mail was not removed");
        }
    }
}

impl MailError {
    fn unwritable(error: impl std::fmt::Display) -> Self {
        Self::Unwritable(error.to_string())
    }
}

/// Sends mail, and knows under which URL people reach the service. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    public_url: String,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Files(PathBuf),
}

impl Mailer {
    /// The way that `SMTP_URL` or, without it, `MAIL_DIR` says; `MAIL_FROM` and `PUBLIC_URL` for what is in the mails.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let from = settings.get("MAIL_FROM").unwrap_or_default();
        let way = match settings.get("SMTP_URL") {
            Some(url) => {
                check_tls(&url)?;
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url);
                let builder = builder.map_err(|_may_quote_it| {
                    ConfigError::refused("SMTP_URL: write smtp://USER:PASSWORD@HOST:587?tls=required or smtps://…")
                })?;
                Way::Smtp(builder.timeout(Some(LIMIT)).build())
            }
            None => Way::Files(settings.get("MAIL_DIR").unwrap_or_default().into()),
        };
        Ok(Self {
            from: from
                .parse()
                .map_err(|error| ConfigError::refused(format!("MAIL_FROM={from}: {error}")))?,
            public_url: public_url(settings),
            way,
        })
    }

    /// A mailer into files under `folder`, for tests.
    ///
    /// # Errors
    /// Never; the address is fixed.
    pub fn into_files(folder: &Path) -> Result<Self, lettre::address::AddressError> {
        Ok(Self {
            from: Mailbox::new(None, "no-reply@localhost".parse()?),
            public_url: "http://localhost:8000".to_owned(),
            way: Way::Files(folder.to_owned()),
        })
    }

    /// Where people reach the service, without a slash at the end. It comes from the configuration and never from a
    /// request: whoever sends one could have others click on any host.
    pub(crate) fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Sends `mail`; once this answers `Ok` the server has it, or the file is written.
    pub(crate) async fn send(&self, mail: Mail) -> Handled {
        match self.deliver(mail).await {
            Err(error @ MailError::RefusedForGood) => Err(Failure::Reject(error.to_string())),
            delivered => Ok(delivered?),
        }
    }

    async fn deliver(&self, mail: Mail) -> Result<(), MailError> {
        let id = mail.id;
        let message = self.message(mail)?;
        match &self.way {
            Way::Smtp(transport) => {
                let sent = tokio::time::timeout(LIMIT, submit(transport, message)).await;
                sent.map_err(|_elapsed| MailError::Late)??;
                tracing::info!(message_id = %id, "mail sent");
            }
            Way::Files(folder) => {
                let path = folder.join(format!("{id}.eml"));
                write(folder, &path, &message.formatted())
                    .await
                    .map_err(|error| MailError::File(path.clone(), error))?;
                tracing::info!(message_id = %id, file = %path.display(), "mail written to a file; SMTP_URL is not set");
            }
        }
        Ok(())
    }

    fn message(&self, mail: Mail) -> Result<Message, MailError> {
        let to: Address = mail.to.parse().map_err(MailError::unwritable)?;
        if !mail.text.is_ascii() || mail.text.lines().any(|line| line.len() > LINE) {
            return Err(MailError::Unwritable("its text is not plain".to_owned()));
        }
        // Left to choose, the library would break a long link in two.
        let text = mail.text.replace('\n', "\r\n").into_bytes();
        let body = Body::dangerous_pre_encoded(text, ContentTransferEncoding::SevenBit);
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .date_now()
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(body))
            .map_err(MailError::unwritable)
    }
}

/// Hands `message` to the server. The library does not tell which command a refusal answers, and servers refuse a whole
/// connection with the codes of a mailbox too: it is the mail's own only where the server lets us in.
async fn submit(transport: &AsyncSmtpTransport<Tokio1Executor>, message: Message) -> Result<(), MailError> {
    let Err(error) = transport.send(message).await else {
        return Ok(());
    };
    if code(&error).is_some_and(|code| (550..=554).contains(&code))
        && matches!(transport.test_connection().await, Ok(true))
    {
        return Err(MailError::RefusedForGood);
    }
    Err(MailError::Refused(kind(&error)))
}

fn code(error: &SmtpError) -> Option<u16> {
    error.status().map(u16::from)
}

/// What went wrong, without what the server said: it may quote the address.
fn kind(error: &SmtpError) -> &'static str {
    if matches!(code(error), Some(530 | 534 | 535)) {
        "it does not accept the user and password of SMTP_URL"
    } else if error.is_transient() || error.is_permanent() {
        "it refused for now"
    } else if error.is_timeout() {
        "it did not answer"
    } else if error.is_tls() {
        "TLS failed"
    } else {
        "the connection failed"
    }
}

/// Writes a file that only its owner reads, whole or not at all.
async fn write(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || make_private_folder(&folder)).await??;
    let draft = path.with_extension("part");
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&draft).await?;
    file.write_all(bytes).await?;
    file.sync_all().await?;
    drop(file);
    tokio::fs::rename(&draft, path).await
}

/// `PUBLIC_URL`, or where the process listens.
fn public_url(settings: &Settings) -> String {
    if let Some(url) = settings.get("PUBLIC_URL") {
        return url.trim_end_matches('/').to_owned();
    }
    let address = settings.get("BIND_ADDRESS").unwrap_or_default();
    let port = settings.get("PORT").unwrap_or_default();
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) if !address.is_unspecified() => format!("http://[{address}]:{port}"),
        Ok(std::net::IpAddr::V4(address)) if !address.is_unspecified() => format!("http://{address}:{port}"),
        Ok(_) | Err(_) => format!("http://localhost:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_to_no_server_that_may_not_speak_tls() {
        for refused in [
            "smtp://u:p@mail.example",
            "smtp://u:p@mail.example?tls=opportunistic",
            "smtp://u@mail.example:587",
            "smtp://u:p@10.0.0.1:25",
        ] {
            let error = check_tls(refused).unwrap_err().to_string();
            assert!(error.contains("tls=required") && !error.contains("u:p"), "{error}");
        }
        for taken in [
            "smtps://u:p@mail.example",
            "smtp://u:p@mail.example:587?tls=required",
            "smtp://mail.example",
            "smtp://u:p@127.0.0.1:1025",
            "smtp://u:p@[::1]:1025",
        ] {
            assert!(check_tls(taken).is_ok(), "{taken}");
        }
    }
}
