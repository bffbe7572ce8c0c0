//! `migrate up`, `migrate down`, `migrate status`.

use clap::{Args, Subcommand};
use posthaste::failure::chain;
use posthaste::store::MigrationState;

use super::{CliError, FileOption, choose, print};
use crate::config::Sources;
use crate::open_services::{Database, MigrationSet, databases};
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
    Down(Options),
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

impl Migrate {
    pub(super) async fn run(self, services: &[Service]) -> Result<(), CliError> {
        let (Command::Up(options) | Command::Down(options) | Command::Status(options)) = &self.command;
        let config = options.file.load(Sources::new(), services)?;
        let databases = databases(&choose(services, &options.services)?, &config)?;
        for database in &databases {
            match self.command {
                Command::Up(_) => up(database).await?,
                Command::Down(_) => down(database, !options.services.is_empty()).await?,
                Command::Status(_) => status(database).await?,
            }
            database.store.close().await;
        }
        Ok(())
    }
}

fn failed(database: &Database, error: &(dyn std::error::Error + 'static)) -> CliError {
    CliError::Refused(format!("{}: {}", database.store.display(), chain(error)))
}

async fn up(database: &Database) -> Result<(), CliError> {
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
    states.map_err(|error| failed(database, &error))
}

/// One step: of all sets the one that was applied last; `spare_core` where services were named.
async fn down(database: &Database, spare_core: bool) -> Result<(), CliError> {
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
    let taken = database.store.migrate_down(set, migrations).await;
    match taken.map_err(|error| failed(database, &error))? {
        Some(version) => print(&format!("{}: took back {set}/{version}\n", database.store.display())),
        None => print(&format!(
            "{}: the newest migration of {set} is unknown to this version; nothing was taken back\n",
            database.store.display()
        )),
    }
}

async fn status(database: &Database) -> Result<(), CliError> {
    print(&format!("{}\n", database.store.display()))?;
    for set in &database.sets {
        for state in states(database, *set).await? {
            let when = match state.applied_at {
                Some(at) => at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                None => "pending".to_owned(),
            };
            print(&format!(
                "  {:<30}  {when:<20}  {}\n",
                format!("{}/{}", set.0, state.version),
                state.name
            ))?;
        }
    }
    Ok(())
}
