//! The commands that services add: `posthaste create-admin EMAIL`.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

use super::{CliError, FileOption, print};
use crate::config::Sources;
use crate::open_services;
use crate::service::{Service, ServiceCommand};

/// `command` with those of `services`.
pub(super) fn with_commands(command: Command, services: &[Service]) -> Command {
    let own = services.iter().flat_map(|service| service.commands);
    own.fold(command, |command, one| {
        let argument = Arg::new("argument").value_name(one.argument).required(true);
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read this file instead of posthaste.toml");
        command.subcommand(Command::new(one.name).about(one.about).arg(argument).arg(config))
    })
}

/// The command of a service that `matches` names, and whose it is.
pub(super) fn find<'a>(
    services: &'a [Service],
    matches: &'a ArgMatches,
) -> Option<(Service, &'a ServiceCommand, &'a ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    services.iter().find_map(|service| {
        let command = service.commands.iter().find(|command| command.name == name)?;
        Some((*service, command, matches))
    })
}

/// Runs `command` on the database of its service.
pub(super) async fn run(
    service: Service,
    command: &ServiceCommand,
    matches: &ArgMatches,
    services: &[Service],
) -> Result<(), CliError> {
    let file = FileOption {
        config: matches.get_one("config").cloned(),
    };
    let config = file.load(Sources::new(), services)?;
    let databases = open_services::databases(&[service], &config)?;
    let contexts = open_services::contexts(&[service], &databases, &config)?;
    let argument = matches.get_one::<String>("argument").cloned().unwrap_or_default();
    let done = match contexts.into_iter().next() {
        Some(context) => (command.run)(context, argument).await,
        None => Ok(String::new()),
    };
    for database in &databases {
        database.store.close().await;
    }
    print(&done.map_err(CliError::Refused)?)
}
