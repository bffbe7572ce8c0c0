//! `dead-letters list`, `show`, `replay`, `discard`: on the database itself, no server needed.

use clap::{Args, Subcommand};
use posthaste::dead_letter::{self, DeadLetter, Selection};
use posthaste::failure::chain;
use posthaste::{MessageId, Store, StoreError, Tx};
use serde_json::{Value, json};

use super::hide_secrets::{body_without_secrets, hide_secrets};
use super::{CliError, FileOption, choose, print};
use crate::config::Sources;
use crate::open_services::{Database, by_database, open};
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
    },
}

#[derive(Args)]
struct Which {
    /// Only the database of this service
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
    /// All of them (of the subscription, if one is named)
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    which: Which,
}

impl Chosen {
    fn selection(&self) -> Result<Selection, CliError> {
        if self.ids.is_empty() && !self.all && self.which.subscription.is_none() {
            return Err(CliError::Refused(
                "name message ids, a --subscription, or --all".to_owned(),
            ));
        }
        Ok(Selection {
            subscription: self.which.subscription.clone(),
            ids: self.ids.iter().copied().map(MessageId).collect(),
        })
    }
}

impl DeadLetters {
    pub(super) async fn run(self, services: &[Service]) -> Result<(), CliError> {
        match self.command {
            Command::List { which, limit, json } => {
                let selection = Selection {
                    subscription: which.subscription.clone(),
                    ids: Vec::new(),
                };
                let list = async |database: &Database| dead_letter::list(&database.store, &selection, limit).await;
                let asked = which.ask(services, list).await?;
                for (store, letters) in &asked.answers {
                    print(&if json { lines(letters) } else { table(store, letters) })?;
                }
                asked.end()
            }
            Command::Show { id, which } => {
                let selection = Selection {
                    subscription: which.subscription.clone(),
                    ids: vec![MessageId(id)],
                };
                let find = async |database: &Database| dead_letter::list(&database.store, &selection, 100).await;
                let asked = which.ask(services, find).await?;
                let mut found = false;
                for letter in asked.answers.iter().flat_map(|(_, letters)| letters) {
                    found = true;
                    print(&format!("{:#}\n", whole(letter)))?;
                }
                asked.end()?;
                if found {
                    Ok(())
                } else {
                    Err(CliError::Refused(format!("there is no dead letter {id}")))
                }
            }
            Command::Replay { chosen } => {
                let selection = chosen.selection()?;
                let replay = async |database: &Database| replay(database, services, &selection).await;
                report("replayed", chosen.which.ask(services, replay).await?)
            }
            Command::Discard { chosen } => {
                let selection = chosen.selection()?;
                let discard = async |database: &Database| discard(database, services, &selection).await;
                report("discarded", chosen.which.ask(services, discard).await?)
            }
        }
    }
}

async fn replay(database: &Database, services: &[Service], selection: &Selection) -> Result<u64, StoreError> {
    let mut tx = database.store.begin().await?;
    let count = dead_letter::replay_in(&mut tx, selection).await?;
    record(&tx, database, services, "dead_letters.replay", selection, count).await?;
    tx.commit().await?;
    Ok(count)
}

async fn discard(database: &Database, services: &[Service], selection: &Selection) -> Result<u64, StoreError> {
    let tx = database.store.begin().await?;
    let count = dead_letter::discard_in(&tx, selection).await?;
    record(&tx, database, services, "dead_letters.discard", selection, count).await?;
    tx.commit().await?;
    Ok(count)
}

/// Most ids that a record names.
const NAMED: usize = 20;

/// Has the services on `database` that keep a record note what was done to `count` letters.
async fn record(
    tx: &Tx,
    database: &Database,
    services: &[Service],
    action: &'static str,
    selection: &Selection,
    count: u64,
) -> Result<(), StoreError> {
    if count == 0 {
        return Ok(());
    }
    let mut detail = format!("{count} of");
    match &selection.subscription {
        Some(subscription) => detail.push_str(&format!(" {subscription}")),
        None => detail.push_str(" any subscription"),
    }
    for id in selection.ids.iter().take(NAMED) {
        detail.push_str(&format!(" {id}"));
    }
    if selection.ids.len() > NAMED {
        detail.push_str(" …");
    }
    let here = services
        .iter()
        .filter(|service| database.services.contains(&service.name));
    for audit in here.filter_map(|service| service.audit) {
        audit(tx, action, detail.clone()).await?;
    }
    Ok(())
}

fn report(what: &str, asked: Asked<u64>) -> Result<(), CliError> {
    let count: u64 = asked.answers.iter().map(|(_, count)| count).sum();
    if count > 0 {
        print(&format!("{what} {count}\n"))?;
    }
    asked.end()?;
    if count == 0 {
        return Err(CliError::Refused(format!("nothing was {what}: no dead letter matches")));
    }
    Ok(())
}

/// What databases have answered. One that is away keeps nobody from the letters of the others.
struct Asked<T> {
    answers: Vec<(Store, T)>,
    failures: Vec<String>,
}

impl<T> Asked<T> {
    /// Fails if a database did.
    fn end(self) -> Result<(), CliError> {
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(CliError::Refused(self.failures.join("\n")))
        }
    }
}

impl Which {
    /// Asks each database that a chosen service stands on; no other one is opened.
    async fn ask<T>(
        &self,
        services: &[Service],
        work: impl AsyncFn(&Database) -> Result<T, StoreError>,
    ) -> Result<Asked<T>, CliError> {
        let config = self.file.load(Sources::new(), services)?;
        let names: Vec<String> = self.service.clone().into_iter().collect();
        let chosen: Vec<&str> = choose(services, &names)?.iter().map(|service| service.name).collect();
        config.check_services(&chosen)?;
        // What is done to the letters of a database is done to those of all services on it.
        let mut known = services.to_vec();
        known.retain(|service| config.database_url(service.name).is_ok());
        let mut asked = Asked {
            answers: Vec::new(),
            failures: Vec::new(),
        };
        for (url, on) in by_database(&known, &config)? {
            if !on.iter().any(|service| chosen.contains(&service.name)) {
                continue;
            }
            match open(&url, &on) {
                Ok(database) => match work(&database).await {
                    Ok(answer) => asked.answers.push((database.store, answer)),
                    Err(error) => asked.failures.push(explain(&database.store, &error)),
                },
                Err(error) => asked.failures.push(error.to_string()),
            }
        }
        Ok(asked)
    }
}

fn explain(store: &Store, error: &StoreError) -> String {
    let hint = if error.is_unavailable() {
        ""
    } else {
        "; is its schema there (`migrate status` says)?"
    };
    format!("{}: {}{hint}", store.display(), chain(error))
}

fn table(store: &Store, letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return format!("{}: no dead letters\n", store.display());
    }
    let mut text = format!("{}\n", store.display());
    for letter in letters {
        let at = letter.last_failed_at.unwrap_or(letter.received_at);
        text.push_str(&format!(
            "{}  {}  {}  {} attempts  {}\n    {}\n",
            letter.message.id,
            at.format("%Y-%m-%d %H:%M:%SZ"),
            redact::escape(&letter.subscription),
            letter.attempts,
            redact::escape(&letter.message.event_type),
            redact::escape(&letter.error),
        ));
    }
    text
}

fn lines(letters: &[DeadLetter]) -> String {
    letters.iter().map(|letter| format!("{}\n", brief(letter))).collect()
}

fn brief(letter: &DeadLetter) -> Value {
    let message = &letter.message;
    json!({
        "id": message.id.to_string(),
        "subscription": letter.subscription,
        "type": message.event_type,
        "topic": message.topic,
        "key": message.key,
        "correlation_id": message.correlation_id,
        "causation_id": message.causation_id,
        "attempts": letter.attempts,
        "error": letter.error,
        "received_at": letter.received_at,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
    })
}

fn whole(letter: &DeadLetter) -> Value {
    let mut value = brief(letter);
    value["headers"] = json!(letter.message.headers);
    hide_secrets(&mut value["headers"]);
    value["content_type"] = json!(letter.message.content_type);
    value["body"] = body_without_secrets(&letter.message.body);
    value
}
