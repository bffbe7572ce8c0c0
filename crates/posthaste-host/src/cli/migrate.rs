//! `migrate up`, `migrate down`, `migrate status`.

use clap::{Args, Subcommand};
use posthaste::Store;
use posthaste::failure::chain;
use posthaste::store::{MigrateError, MigrationState, mask};

use super::ask_person::agree;
use super::find_databases::failed as failed_on;
use super::{CliError, FileOption, choose, print};
use crate::config::Sources;
use crate::open_services::{Database, MigrationSet, by_database, databases, open, sets};
use crate::service::Service;

#[derive(Args)]
pub(super) struct Migrate {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply everything that is pending
    Up(Options),
    /// Take back the newest migration of each database, its data included
    Down(Down),
    /// Show what is applied and what is pending
    Status(Options),
}

#[derive(Args)]
struct Options {
    /// Only these services
    services: Vec<String>,
    #[command(flatten)]
    file: FileOption,
}

#[derive(Args)]
struct Down {
    #[command(flatten)]
    options: Options,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Migrate {
    pub(super) async fn run(self, services: &[Service]) -> Result<(), CliError> {
        let (Command::Up(options) | Command::Down(Down { options, .. }) | Command::Status(options)) = &self.command;
        let config = options.file.load(Sources::new(), services)?;
        let chosen = choose(services, &options.services)?;
        if matches!(self.command, Command::Up(_)) {
            for database in &databases(&chosen, &config)? {
                up(database).await?;
                database.store.close().await;
            }
            return Ok(());
        }
        // Opening would create the file.
        for (url, on) in by_database(&chosen, &config)? {
            let absent = Store::is_absent(&url);
            let absent = absent.map_err(|error| CliError::Refused(error.to_string()))?;
            if absent {
                print(&format!("{}: no database there\n", mask(&url)))?;
                if matches!(self.command, Command::Status(_)) {
                    print_pending(&sets(&on))?;
                }
                continue;
            }
            let database = open(&url, &on)?;
            match &self.command {
                Command::Down(Down { yes, .. }) => down(&database, !options.services.is_empty(), *yes).await?,
                Command::Status(_) | Command::Up(_) => status(&database).await?,
            }
            database.store.close().await;
        }
        Ok(())
    }
}

fn failed(database: &Database, error: &MigrateError) -> CliError {
    match error {
        MigrateError::Store(error) => failed_on(&database.store, error),
        error => CliError::Refused(format!("{}: {}", database.store.display(), chain(error))),
    }
}

async fn up(database: &Database) -> Result<(), CliError> {
    for (set, migrations) in &database.sets {
        let checked = database.store.check_tables(set, migrations).await;
        checked.map_err(|error| failed(database, &error))?;
    }
    let mut any = false;
    for (set, migrations) in &database.sets {
        let applied = database.store.migrate_up(set, migrations).await;
        for version in applied.map_err(|error| failed(database, &error))? {
            any = true;
            let name = migrations
                .iter()
                .find(|migration| migration.version == version)
                .map_or("", |one| one.name);
            print(&format!(
                "{}: applied {set}/{version} {name}\n",
                database.store.display()
            ))?;
        }
    }
    if !any {
        print(&format!("{}: nothing to do\n", database.store.display()))?;
    }
    Ok(())
}

async fn states(database: &Database, set: MigrationSet) -> Result<Vec<MigrationState>, CliError> {
    let states = database.store.migration_state(set.0, set.1).await;
    states.map_err(|error| failed_on(&database.store, &error))
}

/// One step: of all sets the one that was applied last; `spare_core` where services were named.
async fn down(database: &Database, spare_core: bool, yes: bool) -> Result<(), CliError> {
    let mut newest = None;
    for set in database.sets.iter().filter(|set| !(spare_core && set.0 == "core")) {
        let applied = states(database, *set)
            .await?
            .into_iter()
            .filter_map(|state| state.applied_at)
            .max();
        // Of two with one time the later set goes first: it stands on the earlier one.
        if let Some(at) = applied
            && newest.is_none_or(|(latest, _)| at >= latest)
        {
            newest = Some((at, *set));
        }
    }
    let Some((_, (set, migrations))) = newest else {
        return print(&format!("{}: nothing to do\n", database.store.display()));
    };
    let version = states(database, (set, migrations)).await?;
    let version = version.iter().rfind(|state| state.applied_at.is_some());
    if let Some(MigrationState { version, name, .. }) = version {
        let display = database.store.display();
        agree(
            yes,
            &format!("{display}: take back {set}/{version} {name} with all of its data"),
        )?;
    }
    let taken = database.store.migrate_down(set, migrations).await;
    match taken.map_err(|error| failed(database, &error))? {
        Some(version) => print(&format!("{}: took back {set}/{version}\n", database.store.display())),
        None => print(&format!(
            "{}: the newest migration of {set} is unknown to this version; nothing was taken back\n",
            database.store.display()
        )),
    }
}

/// What is pending where nothing is applied.
fn print_pending(sets: &[MigrationSet]) -> Result<(), CliError> {
    for (set, migrations) in sets {
        for migration in *migrations {
            print(&line(set, migration.version, "pending", migration.name))?;
        }
    }
    Ok(())
}

fn line(set: &str, version: i64, when: &str, name: &str) -> String {
    format!("  {:<30}  {when:<20}  {name}\n", format!("{set}/{version}"))
}

async fn status(database: &Database) -> Result<(), CliError> {
    print(&format!("{}\n", database.store.display()))?;
    for set in &database.sets {
        for state in states(database, *set).await? {
            let when = match state.applied_at {
                Some(at) => at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                None => "pending".to_owned(),
            };
            print(&line(set.0, state.version, &when, &state.name))?;
        }
    }
    Ok(())
}
