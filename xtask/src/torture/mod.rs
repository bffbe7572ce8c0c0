//! `cargo xtask torture`: what the system promises under load, kills and full tables, as figures with limits. Tests never
//! assert a time; this does, so it is no test.

mod figure;
mod fill_inbox;
mod hot_key;
mod medium_load;
mod memory;
mod one_of_a_million;
mod place;
mod read_proc;
mod refused_destination;
mod take_over;
mod waiting_head;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use figure::Figure;
use place::{Database, Place};

/// No scenario takes longer on one database.
const LIMIT: Duration = Duration::from_secs(900);

#[derive(Parser)]
pub struct Arguments {
    /// Only these; all but memory_many if none is named
    scenarios: Vec<Scenario>,
    /// Say what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// Only on this database
    #[arg(long)]
    store: Option<Database>,
    /// This build of posthaste, instead of a release build made first
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// One promise that is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scenario {
    RefusedDestination,
    HotKey,
    WaitingHead,
    OneOfAMillion,
    TakeOver,
    MediumLoad,
    Memory,
    MemoryMany,
}

impl Scenario {
    /// What it does, and what must hold.
    fn about(self) -> &'static str {
        match self {
            Self::RefusedDestination => {
                "10 000 messages, due now or scheduled, for a queue that takes none delay those for other queues by less than 1 s"
            }
            Self::HotKey => {
                "one sender at twice the rate that rows can be handled one by one, its worker killed: stored as fast as it \
                 arrives again within 30 s, in order"
            }
            Self::WaitingHead => {
                "100 000 inbox rows behind one that waits cost less than 5 % of a core and 1 MB/s written"
            }
            Self::OneOfAMillion => {
                "one of 1 000 000 dead letters is replayed or discarded, and a page listed, in 50 ms"
            }
            Self::TakeOver => {
                "a worker killed, stopped or cut off while it has locks is replaced within 15 s; SQLite works again \
                 5 s after kill -9"
            }
            Self::MediumLoad => {
                "120 orders/s for 60 s beside long transactions: one row and one outcome each, in order, p99 below 1 s"
            }
            Self::Memory => "400 messages of 2 MB and 40 of 16 MB are handled in less than 300 MB, over each transport",
            Self::MemoryMany => "the same of 1 000 messages of 16 MB; takes 20 GB of disk",
        }
    }

    /// The databases it runs on.
    fn databases(self) -> &'static [Database] {
        match self {
            Self::RefusedDestination | Self::HotKey | Self::WaitingHead | Self::OneOfAMillion | Self::TakeOver => {
                &[Database::Postgres, Database::Sqlite, Database::Mysql]
            }
            // SQLite has one writer: what is held open there holds up everything.
            Self::MediumLoad => &[Database::Postgres, Database::Mysql],
            // A statement of 16 MB is more than MySQL takes as it comes.
            Self::Memory | Self::MemoryMany => &[Database::Postgres, Database::Sqlite],
        }
    }

    /// Those of [`Self::databases`] that it runs on unless one is named.
    fn usual_databases(self) -> &'static [Database] {
        match self {
            Self::TakeOver => self.databases(),
            _ => &[Database::Postgres],
        }
    }

    async fn run(self, place: &Place) -> Result<Vec<Figure>> {
        match self {
            Self::RefusedDestination => refused_destination::run(place).await,
            Self::HotKey => hot_key::run(place).await,
            Self::WaitingHead => waiting_head::run(place).await,
            Self::OneOfAMillion => one_of_a_million::run(place).await,
            Self::TakeOver => take_over::run(place).await,
            Self::MediumLoad => medium_load::run(place).await,
            Self::Memory => memory::run(place).await,
            Self::MemoryMany => memory::run_many(place).await,
        }
    }
}

/// Runs what `arguments` name, one line for each figure; fails when one is missed.
///
/// # Errors
/// When the release build fails or there is no runtime.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        for scenario in Scenario::value_variants() {
            println!("{:20} {}", name(*scenario), scenario.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let binary = match &arguments.binary {
        Some(path) => path.canonicalize().with_context(|| format!("no {}", path.display()))?,
        None => build()?,
    };
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants()
            .iter()
            .filter(|scenario| **scenario != Scenario::MemoryMany)
            .copied()
            .collect(),
        named => named.to_vec(),
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let mut held = true;
    for scenario in scenarios {
        let databases = match &arguments.store {
            Some(one) => scenario
                .databases()
                .iter()
                .filter(|database| *database == one)
                .copied()
                .collect(),
            None => scenario.usual_databases().to_vec(),
        };
        for database in databases {
            held &= runtime.block_on(run_on(scenario, database, &binary));
        }
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the figures of one scenario on one database; whether all hold.
async fn run_on(scenario: Scenario, database: Database, binary: &Path) -> bool {
    let title = format!("{} · {}", name(scenario), name(database));
    let whole = async {
        let place = Place::prepare(binary, database, &name(scenario)).await?;
        let figures = scenario.run(&place).await;
        let folder = place.folder().to_owned();
        let figures = figures.with_context(|| format!("the logs are in {}", folder.display()))?;
        place.finish().await?;
        anyhow::Ok(figures)
    };
    let done = tokio::time::timeout(LIMIT, whole).await;
    match done.with_context(|| format!("not done within {LIMIT:?}")).flatten() {
        Ok(figures) => {
            for figure in &figures {
                println!("{title} · {figure}");
            }
            figures.iter().all(Figure::holds)
        }
        Err(error) => {
            println!("{title} · – · {error:#} · – · FAILED");
            false
        }
    }
}

fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// The release build of the binary, with the features it is delivered with.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let built = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release", "-p", "posthaste-app"])
        .status()
        .context("cargo does not start")?;
    ensure!(built.success(), "the release build failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/posthaste"))
}

#[cfg(test)]
mod tests {
    use super::{Scenario, ValueEnum};

    #[test]
    fn every_scenario_runs_somewhere_and_says_what_it_does() {
        for scenario in Scenario::value_variants() {
            let (all, usual) = (scenario.databases(), scenario.usual_databases());
            assert!(!usual.is_empty() && usual.iter().all(|database| all.contains(database)));
            assert!(!scenario.about().is_empty());
        }
    }
}
