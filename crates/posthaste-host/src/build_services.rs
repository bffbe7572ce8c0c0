//! Makes services from their settings: for a start, or to find out what one would refuse.

use crate::auth::{Verifier, accounts_over_http};
use crate::config::{Config, ConfigError, ConfigErrors};
use crate::open_services::{OpenError, by_database, contexts, open};
use crate::service::{Service, ServiceContext, ServiceParts};

/// The parts of each of `services`, whose `contexts` are in the same order; their guard knows who can tell good tokens.
///
/// # Errors
/// All that the services refuse.
pub(crate) fn build(
    services: &[Service],
    contexts: &[ServiceContext],
    config: &Config,
) -> Result<Vec<ServiceParts>, ConfigErrors> {
    let (mut built, mut refused): (Vec<ServiceParts>, Vec<ConfigError>) = (Vec::new(), Vec::new());
    for (service, context) in services.iter().zip(contexts) {
        match (service.build)(context) {
            Ok(mut parts) => {
                if let Some(verifier) = parts.verifier.take() {
                    context.guard.learn(verifier);
                }
                built.push(parts);
            }
            Err(error) => refused.push(error),
        }
    }
    if !refused.is_empty() {
        return Err(ConfigErrors(refused));
    }
    if let Some(context) = contexts.first()
        && config.roles.api
        && context.guard.needs_verifier()
    {
        let verifier = accounts_over_http(&config.settings)?;
        if verifier.is_none() && !context.is_rehearsal {
            tracing::warn!(
                "POSTHASTE_AUTH=enforced, and nothing here knows which access tokens are good: only API keys are let in. \
                 Run the accounts service in this process, too, or set ACCOUNTS_URL to where it is (http://HOST:PORT)"
            );
        }
        context.guard.learn(verifier.unwrap_or_else(Verifier::of_nobody));
    }
    Ok(built)
}

/// A database that is not there: a pool connects when it is asked, and nobody asks.
const NOWHERE: &str = "postgres://nowhere.invalid/nothing";

/// The parts of `services`; refuses what a start would refuse of the configuration. No database is asked, no file made,
/// nobody called.
///
/// # Errors
/// What is wrong.
pub(crate) fn rehearse(services: &[Service], config: &Config) -> Result<Vec<ServiceParts>, OpenError> {
    let names: Vec<&str> = services.iter().map(|service| service.name).collect();
    config.check_services(&names)?;
    config.tuning().map_err(ConfigErrors::from)?;
    let mut databases = Vec::new();
    for (url, on) in by_database(services, config)? {
        // Opening would make the file.
        let url = if url.starts_with("sqlite:") { NOWHERE } else { &url };
        databases.push(open(url, &on)?);
    }
    let mut contexts = contexts(services, &databases, config)?;
    for context in &mut contexts {
        context.is_rehearsal = true;
    }
    Ok(build(services, &contexts, config)?)
}
