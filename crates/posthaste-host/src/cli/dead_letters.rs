//! `dead-letters list`, `show`, `replay`, `discard`: on the database itself, no server needed.

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use posthaste::dead_letter::{self, Act, DeadLetter, Operator, Owner, Place, Progress, Selection, Summary, Unsent};
use posthaste::{Message, MessageId, Store, StoreError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::ask_person::agree;
use super::find_databases::{failed, on_each};
use super::hide_secrets::{body_without_secrets, hide_secrets};
use super::show_progress::ShowProgress;
use super::{CliError, FileOption, choose, print};
use crate::build_services::rehearse;
use crate::config::{Config, Sources};
use crate::open_services::Database;
use crate::redact;
use crate::service::Service;

#[derive(Args)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The newest ones
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many from each database
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only those that died before: a time (2026-01-31T12:00:00Z), or what the last page ended with
        #[arg(long, value_name = "TIME[/ID[/OWNER]]", value_parser = place)]
        before: Option<Place>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// All of one: headers, body, causes
    Show {
        /// Its message id
        id: uuid::Uuid,
        #[command(flatten)]
        which: Which,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Hand them to their handlers again
    Replay {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Give them up for good
    Discard {
        #[command(flatten)]
        chosen: Chosen,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
struct Which {
    /// Only those of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those of this subscription
    #[arg(long)]
    subscription: Option<String>,
    #[command(flatten)]
    file: FileOption,
}

#[derive(Args)]
struct Chosen {
    /// These messages
    ids: Vec<uuid::Uuid>,
    /// All of them (of the service or subscription, if one is named)
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Reads what `list` prints at the end of a page.
fn place(text: &str) -> Result<Place, String> {
    let mut parts = text.splitn(3, '/');
    let at = parts.next().unwrap_or_default();
    let at = DateTime::parse_from_rfc3339(at).map_err(|error| format!("{at} is not a time ({error})"))?;
    let mut place = Place::before(at.to_utc());
    if let Some(id) = parts.next() {
        place.id = id
            .parse()
            .map_err(|error| format!("{id} is not a message id ({error})"))?;
    }
    place.owner = parts.next().unwrap_or_default().to_owned();
    Ok(place)
}

/// As [`place`] reads it.
fn place_text(place: &Place) -> String {
    let at = place.at.to_rfc3339_opts(SecondsFormat::Micros, true);
    format!("{at}/{}/{}", place.id, place.owner)
}

impl DeadLetters {
    pub(super) async fn run(self, services: &[Service]) -> Result<(), CliError> {
        match self.command {
            Command::List {
                which,
                limit,
                before,
                json,
            } => which.list(services, limit, before, json).await,
            Command::Show { id, which, json } => which.show(services, id, json).await,
            Command::Replay { chosen } => chosen.settle(services, Act::Replay, true).await,
            Command::Discard { chosen, yes } => chosen.settle(services, Act::Discard, yes).await,
        }
    }
}

impl Which {
    /// The configuration, the services whose databases are asked, and what is asked of them.
    fn resolve(&self, services: &[Service]) -> Result<(Config, Vec<&'static str>, Selection), CliError> {
        let config = self.file.load(Sources::new(), services)?;
        let names: Vec<String> = self.service.clone().into_iter().collect();
        let chosen = choose(services, &names)?;
        let mut selection = match &self.subscription {
            Some(subscription) => Selection::of_subscription(subscription),
            None => Selection::default(),
        };
        if self.service.is_some() {
            let own = subscriptions(&chosen, &config)?;
            selection.subscriptions = Some(match selection.subscriptions {
                Some(asked) => asked.into_iter().filter(|name| own.contains(name)).collect(),
                None => {
                    selection.outboxes = Some(names);
                    own
                }
            });
        }
        Ok((config, chosen.iter().map(|service| service.name).collect(), selection))
    }

    async fn list(&self, services: &[Service], limit: u32, before: Option<Place>, json: bool) -> Result<(), CliError> {
        let (config, chosen, selection) = self.resolve(services)?;
        let work = async |database: &Database| {
            let letters = dead_letter::page(&database.store, &selection, before.as_ref(), limit).await;
            letters.map_err(|error| failed(&database.store, &error))
        };
        let done = on_each(services, &chosen, &config, work).await?;
        for (store, letters) in &done.answers {
            print(&if json {
                lines(letters)
            } else {
                table(store, letters, limit)
            })?;
        }
        done.tell_absent();
        done.end()
    }

    async fn show(&self, services: &[Service], id: uuid::Uuid, json: bool) -> Result<(), CliError> {
        let (config, chosen, mut selection) = self.resolve(services)?;
        selection.ids = vec![MessageId(id)];
        let work = async |database: &Database| {
            let found = async {
                let letters = dead_letter::list(&database.store, &selection, 100).await?;
                let unsent = dead_letter::list_unsent(&database.store, &selection, 100).await?;
                Ok(letters
                    .iter()
                    .map(whole)
                    .chain(unsent.iter().map(whole_unsent))
                    .collect::<Vec<Value>>())
            };
            found.await.map_err(|error: StoreError| failed(&database.store, &error))
        };
        let done = on_each(services, &chosen, &config, work).await?;
        let mut found = false;
        for value in done.answers.iter().flat_map(|(_, values)| values) {
            found = true;
            print(&if json {
                format!("{value}\n")
            } else {
                format!("{value:#}\n")
            })?;
        }
        done.tell_absent();
        done.end()?;
        if found {
            Ok(())
        } else {
            Err(CliError::NothingMatched(format!("there is no dead letter {id}")))
        }
    }
}

impl Chosen {
    async fn settle(&self, services: &[Service], act: Act, yes: bool) -> Result<(), CliError> {
        if self.ids.is_empty() && !self.all && self.which.subscription.is_none() {
            let text = "name message ids, a --subscription, or --all";
            return Err(CliError::Usage(text.to_owned()));
        }
        let (config, chosen, mut selection) = self.which.resolve(services)?;
        selection.ids = self.ids.iter().copied().map(MessageId).collect();
        let what = match act {
            Act::Replay => "replayed",
            Act::Discard => "discarded",
        };
        // Ids are few, and somebody has typed them.
        let asks = act == Act::Discard && self.ids.is_empty();
        let operator = operator(self.reason.clone());
        let stop = stop_at_signal();
        let work = async |database: &Database| {
            let store = &database.store;
            let lost = |error: StoreError| failed(store, &error);
            if asks {
                let count = dead_letter::count(store, &selection).await.map_err(lost)?;
                if count > 0 {
                    let question = format!("{}: discard {count} dead letters for good", store.display());
                    agree(yes, &question)?;
                }
            }
            let mut progress = ShowProgress::new(what);
            let on_page = |now| progress.show(now);
            let done = dead_letter::settle(store, act, &selection, &operator, &stop, on_page).await;
            progress.end();
            let done = done.map_err(lost)?;
            if stop.is_cancelled() && done.done < done.total {
                let Progress { done, total } = done;
                let text = format!("{}: stopped, {what} {done} of {total}", store.display());
                return Err(CliError::Refused(text));
            }
            Ok(done)
        };
        let done = on_each(services, &chosen, &config, work).await?;
        let count: u64 = done.answers.iter().map(|(_, progress)| progress.done).sum();
        if self.json {
            for (store, progress) in &done.answers {
                let line = json!({
                    "action": act.name(),
                    "database": store.display(),
                    "done": progress.done,
                    "total": progress.total,
                });
                print(&format!("{line}\n"))?;
            }
        } else if count > 0 {
            print(&format!("{what} {count}\n"))?;
        }
        done.tell_absent();
        done.end()?;
        if count == 0 {
            let text = format!("nothing was {what}: no dead letter matches");
            return Err(CliError::NothingMatched(text));
        }
        Ok(())
    }
}

/// The names of the subscriptions of `services`.
fn subscriptions(services: &[Service], config: &Config) -> Result<Vec<String>, CliError> {
    let mut config = config.clone();
    // Routes may need what a command has no use for.
    config.roles.api = false;
    let parts = rehearse(services, &config)?;
    let subscriptions = parts.into_iter().flat_map(|parts| parts.subscriptions);
    Ok(subscriptions.map(|subscription| subscription.name).collect())
}

/// Whoever runs the command.
fn operator(reason: Option<String>) -> Operator {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    Operator {
        actor: user
            .filter(|user| !user.is_empty())
            .unwrap_or_else(|| "command line".to_owned()),
        address: Some("command line".to_owned()),
        reason,
    }
}

/// Cancelled by the first Ctrl-C: the page in hand is finished. The second one ends the process.
fn stop_at_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    stop
}

fn table(store: &Store, letters: &[Summary], limit: u32) -> String {
    if letters.is_empty() {
        return format!("{}: no dead letters\n", store.display());
    }
    let mut text = format!("{}\n", store.display());
    for letter in letters {
        let owner = match &letter.owner {
            Owner::Subscription(name) => name.clone(),
            Owner::Outbox(service) => format!("outbox of {service}"),
        };
        text.push_str(&format!(
            "{}  {}  {}  {} attempts  {}\n    {}\n",
            letter.id,
            letter.last_failed_at.format("%Y-%m-%d %H:%M:%SZ"),
            redact::escape(&owner),
            letter.attempts,
            redact::escape(&letter.event_type),
            redact::escape(&letter.error),
        ));
    }
    if let Some(last) = letters.last()
        && letters.len() == limit as usize
    {
        let place = redact::escape(&place_text(&Place::of(last))).to_string();
        text.push_str(&format!("older ones: --before {place}\n"));
    }
    text
}

fn lines(letters: &[Summary]) -> String {
    letters.iter().map(|letter| format!("{}\n", brief(letter))).collect()
}

fn brief(letter: &Summary) -> Value {
    let (subscription, outbox) = match &letter.owner {
        Owner::Subscription(name) => (Some(name), None),
        Owner::Outbox(service) => (None, Some(service)),
    };
    json!({
        "id": letter.id.to_string(),
        "subscription": subscription,
        "outbox": outbox,
        "type": letter.event_type,
        "topic": letter.topic,
        "key": letter.key,
        "correlation_id": letter.correlation_id,
        "attempts": letter.attempts,
        "error": letter.error,
        "received_at": letter.received_at,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "before": place_text(&Place::of(letter)),
    })
}

fn whole(letter: &DeadLetter) -> Value {
    let mut value = message(&letter.message, &letter.error);
    value["subscription"] = json!(letter.subscription);
    value["attempts"] = json!(letter.attempts);
    value["received_at"] = json!(letter.received_at);
    value["first_failed_at"] = json!(letter.first_failed_at);
    value["last_failed_at"] = json!(letter.last_failed_at);
    value
}

fn whole_unsent(letter: &Unsent) -> Value {
    let mut value = message(&letter.message, &letter.error);
    value["outbox"] = json!(letter.service);
    value["created_at"] = json!(letter.created_at);
    value["last_failed_at"] = json!(letter.failed_at);
    value
}

fn message(message: &Message, error: &str) -> Value {
    let mut headers = json!(message.headers);
    hide_secrets(&mut headers);
    json!({
        "id": message.id.to_string(),
        "type": message.event_type,
        "topic": message.topic,
        "key": message.key,
        "correlation_id": message.correlation_id,
        "causation_id": message.causation_id,
        "error": error,
        "headers": headers,
        "content_type": message.content_type,
        "body": body_without_secrets(&message.body),
    })
}
