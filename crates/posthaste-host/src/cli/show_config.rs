//! `config show` and `config check`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{CliError, FileOption, print};
use crate::build_services::rehearse;
use crate::config::Sources;
use crate::config::show::{effective, table};
use crate::service::Service;

#[derive(Args)]
pub(super) struct ShowConfig {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every key with its value and where that stands; secrets masked
    Show {
        /// How to write it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        file: FileOption,
    },
    /// Exits 78 and says why if something is wrong; says what has no effect
    Check {
        #[command(flatten)]
        file: FileOption,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Columns
    Text,
    /// One object by key
    Json,
}

impl ShowConfig {
    pub(super) fn run(self, services: &[Service]) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Show { format, file } => {
                let lines = effective(&file.load(Sources::new(), services)?);
                match format {
                    Format::Text => print(&table(&lines))?,
                    Format::Json => {
                        let all: Map<String, Value> = lines
                            .into_iter()
                            .map(|line| {
                                let set = !line.origin.is_empty();
                                let value = if set { json!(line.value) } else { Value::Null };
                                let origin = if set { line.origin.as_str() } else { "not set" };
                                let mut shown = json!({ "value": value, "origin": origin, "meaning": line.meaning });
                                if let Some(note) = line.note {
                                    shown["note"] = note.into();
                                }
                                (line.name, shown)
                            })
                            .collect();
                        print(&format!("{:#}\n", Value::Object(all)))?;
                    }
                }
            }
            Command::Check { file } => {
                let config = file.load(Sources::new(), services)?;
                let parts = rehearse(services, &config)?;
                let warnings = parts.into_iter().flat_map(|parts| parts.warnings);
                for warning in config.warnings().into_iter().chain(warnings) {
                    print(&format!("warning: {warning}\n"))?;
                }
                print("the configuration is fine\n")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
