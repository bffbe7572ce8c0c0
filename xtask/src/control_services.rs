//! `cargo xtask services`: the servers that the tests run against.

use anyhow::{Context, Result};
use clap::Subcommand;
use posthaste_testkit::servers::{self, Server};

/// What to do with them.
#[derive(Subcommand)]
pub enum Command {
    /// Start the named servers (all of them without a name) and leave them running
    Up {
        /// postgres, mysql, rabbitmq, kafka, redis
        names: Vec<String>,
    },
    /// Stop all of them and remove their data
    Down,
    /// Stop one in good order; its data stays
    Stop {
        /// postgres, mysql, rabbitmq, kafka, redis
        name: String,
    },
    /// Start one
    Start {
        /// postgres, mysql, rabbitmq, kafka, redis
        name: String,
    },
    /// Kill all processes of one at once, as a power failure would
    Kill {
        /// postgres, mysql, rabbitmq, kafka, redis
        name: String,
    },
    /// Print the variables of those that run, for `eval "$(cargo xtask services env)"`
    Env,
}

/// Does it.
///
/// # Errors
/// When a name is unknown or a server does not do as it is told.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { names } => {
            for server in selection(&names)? {
                start(server)?;
            }
        }
        Command::Down => {
            for server in Server::ALL {
                server
                    .remove()
                    .with_context(|| format!("{} is not down", server.name()))?;
            }
        }
        Command::Stop { name } => named(&name)?.stop()?,
        Command::Start { name } => start(named(&name)?)?,
        Command::Kill { name } => named(&name)?.kill()?,
        Command::Env => {
            for server in Server::ALL {
                if let Some(url) = server.running()? {
                    println!("export {}={url}", server.variable());
                }
            }
        }
    }
    Ok(())
}

fn start(server: Server) -> Result<()> {
    let started = server.start().with_context(|| format!("{} is not up", server.name()))?;
    println!("export {}={}", server.variable(), started.url);
    eprintln!(
        "{} is up; its data and log are in {}",
        server.name(),
        servers::directory()?.display()
    );
    Ok(())
}

fn selection(names: &[String]) -> Result<Vec<Server>> {
    if names.is_empty() {
        return Ok(Server::ALL.to_vec());
    }
    names.iter().map(|name| named(name)).collect()
}

fn named(name: &str) -> Result<Server> {
    Server::named(name).with_context(|| {
        let known: Vec<&str> = Server::ALL.into_iter().map(Server::name).collect();
        format!("there is no server called {name}; known: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use posthaste_testkit::servers::Server;

    use super::selection;

    #[test]
    fn no_name_means_all_and_a_wrong_one_is_answered_with_the_right_ones() {
        assert_eq!(selection(&[]).unwrap(), Server::ALL);
        assert_eq!(selection(&["postgres".to_owned()]).unwrap(), [Server::Postgres]);
        assert!(
            selection(&["postgers".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("known: postgres, mysql, rabbitmq, kafka, redis")
        );
    }
}
