//! `api-keys create`, `list`, `revoke`: on the databases themselves, no server needed.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use posthaste::api_keys::{self, ApiKey, LONGEST_NAME, LONGEST_SCOPES, NewKey};
use posthaste::failure::chain;
use posthaste::{Store, StoreError};

use super::{CliError, FileOption, choose, print};
use crate::config::{Config, Sources};
use crate::open_services::{Database, by_database, open};
use crate::redact;
use crate::service::Service;

/// Scopes that are about the process and no service.
const OF_THE_PROCESS: [&str; 4] = ["metrics:read", "ops:view", "ops:operate", "ops:admin"];
/// Most keys of one database that are listed.
const LISTED: u32 = 1000;

#[derive(Args)]
pub(super) struct ApiKeys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make one; it is printed once
    Create {
        /// What it is for, for whoever lists them
        name: String,
        /// What it may do: orders:read, events:write, metrics:read…; may be repeated
        #[arg(long = "scope", required = true, value_delimiter = ',', value_name = "SCOPE")]
        scopes: Vec<String>,
        /// After so many days it opens nothing
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
        expires_in: Option<u16>,
        /// Only for this service's database; for metrics and ops, whose scopes are no service's
        #[arg(long)]
        service: Option<String>,
        #[command(flatten)]
        file: FileOption,
    },
    /// All of them, the newest first; the keys themselves are known to nobody
    List {
        #[command(flatten)]
        file: FileOption,
    },
    /// Make one worthless, within seconds and everywhere
    Revoke {
        /// Its id
        id: uuid::Uuid,
        #[command(flatten)]
        file: FileOption,
    },
}

impl ApiKeys {
    pub(super) async fn run(self, services: &[Service]) -> Result<(), CliError> {
        match self.command {
            Command::Create {
                name,
                scopes,
                expires_in,
                service,
                file,
            } => {
                check(&name, &scopes, services)?;
                let config = file.load(Sources::new(), services)?;
                let databases = databases(&targets(&scopes, service.as_deref(), services)?, &config)?;
                let expires_at = expires_in.map(|days| Utc::now() + TimeDelta::days(days.into()));
                create(&databases, &name, &scopes, expires_at).await
            }
            Command::List { file } => {
                let databases = databases(services, &file.load(Sources::new(), services)?)?;
                let mut failed = Vec::new();
                for Database { store, .. } in &databases {
                    match api_keys::list(store, LISTED).await {
                        Ok(keys) => print(&table(store, &keys))?,
                        Err(error) => failed.push(explain(store, &error).to_string()),
                    }
                }
                all_done(&failed)
            }
            Command::Revoke { id, file } => {
                let databases = databases(services, &file.load(Sources::new(), services)?)?;
                let (mut revoked, mut failed) = (Vec::new(), Vec::new());
                // All are tried: a database that is away is no reason to leave a key good in another one.
                for Database { store, .. } in &databases {
                    match api_keys::revoke(store, id).await {
                        Ok(true) => revoked.push(store.display()),
                        Ok(false) => {}
                        Err(error) => failed.push(explain(store, &error).to_string()),
                    }
                }
                if revoked.is_empty() && failed.is_empty() {
                    return Err(CliError::Refused(format!("there is no API key {id} that is good")));
                }
                if failed.is_empty() {
                    print(&format!("revoked {id}; within 5 seconds it opens nothing any more\n"))?;
                } else if !revoked.is_empty() {
                    let places = revoked.join(", ");
                    print(&format!(
                        "revoked {id} in {places}; within 5 seconds it opens nothing there any more\n"
                    ))?;
                }
                all_done(&failed)
            }
        }
    }
}

fn check(name: &str, scopes: &[String], services: &[Service]) -> Result<(), CliError> {
    let refuse = |reason: String| Err(CliError::Refused(reason));
    if !(1..=LONGEST_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return refuse(format!(
            "the name must have 1 to {LONGEST_NAME} characters and no control characters"
        ));
    }
    let mut known: Vec<String> = OF_THE_PROCESS.map(str::to_owned).into();
    for service in services {
        known.extend(["read", "write"].map(|right| format!("{}:{right}", service.area)));
    }
    for scope in scopes {
        if !known.contains(scope) {
            return refuse(format!("{scope} is no scope; there are {}", known.join(", ")));
        }
    }
    if scopes.join(" ").len() > LONGEST_SCOPES {
        return refuse(format!("the scopes must have at most {LONGEST_SCOPES} characters"));
    }
    Ok(())
}

/// The services whose databases have to know the key: those that the scopes are about, and all where one is about the
/// process; or the named one.
fn targets(scopes: &[String], named: Option<&str>, services: &[Service]) -> Result<Vec<Service>, CliError> {
    if let Some(name) = named {
        return Ok(choose(services, &[name.to_owned()])?);
    }
    if scopes.iter().any(|scope| OF_THE_PROCESS.contains(&scope.as_str())) {
        return Ok(services.to_vec());
    }
    let is_meant = |service: &&Service| {
        let area = |scope: &String| scope.split(':').next() == Some(service.area);
        scopes.iter().any(area)
    };
    Ok(services.iter().filter(is_meant).copied().collect())
}

fn databases(services: &[Service], config: &Config) -> Result<Vec<Database>, CliError> {
    let names: Vec<&str> = services.iter().map(|service| service.name).collect();
    config.check_services(&names)?;
    let urls = by_database(services, config)?;
    Ok(urls.iter().map(|(url, on)| open(url, on)).collect::<Result<_, _>>()?)
}

async fn create(
    databases: &[Database],
    name: &str,
    scopes: &[String],
    expires_at: Option<DateTime<Utc>>,
) -> Result<(), CliError> {
    let key =
        NewKey::random().map_err(|error| CliError::Refused(format!("the system gives no random numbers: {error}")))?;
    for Database { store, .. } in databases {
        let added = key.add_to(store, name, scopes, expires_at).await;
        added.map_err(|error| explain(store, &error))?;
    }
    // The key alone on standard output, so that a script can take it; the rest is for people.
    print(&format!("{}\n", key.reveal()))?;
    let until = expires_at.map_or("until it is revoked".to_owned(), |at| format!("until {}", day(at)));
    eprint(&format!(
        "API key {} for {}, good {until}. It is not shown again.\n",
        key.id,
        scopes.join(" ")
    ));
    Ok(())
}

/// Writes to standard error.
fn eprint(text: &str) {
    use std::io::Write as _;
    // Where nobody listens there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn explain(store: &Store, error: &StoreError) -> CliError {
    let hint = if error.is_unavailable() {
        ""
    } else {
        "; is its schema complete (`migrate status` says)?"
    };
    CliError::Refused(format!("{}: {}{hint}", store.display(), chain(error)))
}

/// Says which databases `failed`, after what could be done elsewhere.
fn all_done(failed: &[String]) -> Result<(), CliError> {
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!("not done everywhere: {}", failed.join("; "))))
}

fn table(store: &Store, keys: &[ApiKey]) -> String {
    if keys.is_empty() {
        return format!("{}: no API keys\n", store.display());
    }
    let mut text = format!("{}\n", store.display());
    for key in keys {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {}", day(at)),
            (None, Some(at)) if at <= Utc::now() => format!("expired {}", day(at)),
            (None, Some(at)) => format!("until {}", day(at)),
            (None, None) => "good".to_owned(),
        };
        text.push_str(&format!(
            "{}  {}  {state}  {}  {}\n",
            key.id,
            day(key.created_at),
            key.scopes.join(" "),
            redact::escape(&key.name),
        ));
    }
    text
}

fn day(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%Y-%m-%d")
}
