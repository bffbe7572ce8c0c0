//! The databases that a command works on: those that are there and have the schema. None is created.

use posthaste::{CORE_MIGRATIONS, Store, StoreError};

use super::{CliError, note};
use crate::config::{Config, Origin};
use crate::open_services::{Database, by_database, open};
use crate::service::Service;

/// What was done to databases. One that is away keeps nobody from the others.
pub(super) struct Done<T> {
    /// What came of those that are there.
    pub answers: Vec<(Store, T)>,
    /// Why the others failed.
    failures: Vec<String>,
    /// All failures are servers that are away.
    away: bool,
    /// Databases that are not there, and for which somebody asked by name.
    absent: Vec<String>,
}

impl<T> Done<T> {
    /// Fails if a database did.
    pub fn end(self) -> Result<(), CliError> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let text = self.failures.join("\n");
        Err(if self.away {
            CliError::Away(text)
        } else {
            CliError::Refused(text)
        })
    }

    /// Says what is not there, where that matters.
    pub fn tell_absent(&self) {
        for database in &self.absent {
            note(&format!("{database}\n"));
        }
    }
}

/// Does `work` to each database of a `chosen` service, one after another.
pub(super) async fn on_each<T>(
    services: &[Service],
    chosen: &[&str],
    config: &Config,
    mut work: impl AsyncFnMut(&Database) -> Result<T, CliError>,
) -> Result<Done<T>, CliError> {
    config.check_services(chosen)?;
    let mut chosen_services = services.to_vec();
    chosen_services.retain(|service| chosen.contains(&service.name));
    let mut done = Done {
        answers: Vec::new(),
        failures: Vec::new(),
        away: true,
        absent: Vec::new(),
    };
    let mut assumed = Vec::new();
    for (url, on) in by_database(&chosen_services, config)? {
        // Where nobody has named it, it need not be there.
        let is_assumed = on.iter().all(|service| {
            let url = config.database_url(service.name);
            url.is_ok_and(|setting| matches!(setting.origin, Origin::Default))
        });
        let absent = if is_assumed { &mut assumed } else { &mut done.absent };
        match Store::is_absent(&url) {
            Ok(false) => {}
            Ok(true) => {
                absent.push(format!("{}: no database there", posthaste::store::mask(&url)));
                continue;
            }
            Err(error) => {
                done.away = false;
                done.failures.push(error.to_string());
                continue;
            }
        }
        let database = open(&url, &on)?;
        let worked = match has_schema(&database).await {
            Ok(true) => work(&database).await,
            Ok(false) => {
                let text = "no tables of posthaste there; `posthaste migrate up` creates them";
                absent.push(format!("{}: {text}", database.store.display()));
                database.store.close().await;
                continue;
            }
            Err(error) => Err(error),
        };
        match worked {
            Ok(answer) => done.answers.push((database.store.clone(), answer)),
            // Said once, and for all databases.
            Err(usage @ CliError::Usage(_)) => return Err(usage),
            Err(error) => {
                done.away &= matches!(error, CliError::Away(_));
                done.failures.push(error.to_string());
            }
        }
        database.store.close().await;
    }
    if done.answers.is_empty() && done.failures.is_empty() {
        done.absent.append(&mut assumed);
    }
    Ok(done)
}

/// Whether the core's tables are there; fails where they are those of an older version.
async fn has_schema(database: &Database) -> Result<bool, CliError> {
    let state = database.store.migration_state("core", CORE_MIGRATIONS).await;
    let state = state.map_err(|error| failed(&database.store, &error))?;
    let applied = state.iter().filter(|one| one.applied_at.is_some()).count();
    if applied > 0 && applied < state.len() {
        let text = "its tables are those of an older version; run `posthaste migrate up`";
        return Err(CliError::Refused(format!("{}: {text}", database.store.display())));
    }
    Ok(applied > 0)
}

/// What went wrong on `store`.
pub(super) fn failed(store: &Store, error: &StoreError) -> CliError {
    let text = format!("{}: {}", store.display(), posthaste::failure::chain(error));
    if error.is_unavailable() {
        CliError::Away(text)
    } else {
        CliError::Refused(text)
    }
}
