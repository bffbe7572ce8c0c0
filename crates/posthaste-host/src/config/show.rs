//! The effective configuration for people: every key, its value, its origin; secrets masked.

use super::keys::{self, Kind};
use super::{Config, Setting, build_urls};
use crate::redact;

/// One line of `config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The key.
    pub name: String,
    /// The value, masked where it is a secret; empty where it is not set.
    pub value: String,
    /// Where it stands; empty where it is not set.
    pub origin: String,
    /// What else is to be known of it: a value that was passed over.
    pub note: Option<String>,
    /// What the key does.
    pub meaning: &'static str,
}

/// Every key with its effective value.
pub fn effective(config: &Config) -> Vec<Shown> {
    let services = config.known_services();
    keys::known(&services)
        .into_iter()
        .map(|named| {
            let setting = value_of(config, &named.name);
            let (value, origin) = match setting {
                // A URL of any kind may have a password in it.
                Some(setting) if named.key.secret || named.key.kind == Kind::HttpUrl => {
                    (mask(named.key.kind, &setting.value), setting.origin.to_string())
                }
                Some(setting) => (redact::escape(&setting.value), setting.origin.to_string()),
                None => (String::new(), String::new()),
            };
            let link = config.settings.service_link(&named.name);
            Shown {
                name: named.name,
                value,
                origin,
                note: link.map(|link| format!("{} is a service link of Kubernetes, not used", redact::escape(link))),
                meaning: named.key.meaning,
            }
        })
        .collect()
}

fn value_of(config: &Config, name: &str) -> Option<Setting> {
    let built = match name {
        "DATABASE_URL" => build_urls::database(&config.settings, None),
        "BROKER_URL" => build_urls::broker(&config.settings, None),
        _ => {
            let setting = config.settings.or_default(name);
            return (!setting.value.is_empty()).then_some(setting);
        }
    };
    built.ok().map(|(_, setting)| setting)
}

fn mask(kind: Kind, value: &str) -> String {
    match kind {
        Kind::DatabaseUrl | Kind::BrokerUrl | Kind::RedisUrl | Kind::HttpUrl | Kind::BaseUrl | Kind::SmtpUrl => {
            redact::secret_value(value)
        }
        _ => "***".to_owned(),
    }
}

/// The lines of `config show` in columns.
pub fn table(lines: &[Shown]) -> String {
    let width = |text: fn(&Shown) -> &str, most: usize| {
        lines
            .iter()
            .map(|line| text(line).chars().count())
            .max()
            .unwrap_or(0)
            .min(most)
    };
    let (names, values) = (width(|line| &line.name, 40), width(|line| &line.value, 60));
    lines
        .iter()
        .map(|line| {
            let origin = if line.origin.is_empty() {
                "not set"
            } else {
                &line.origin
            };
            let note = line.note.as_ref().map_or_else(String::new, |note| format!("; {note}"));
            format!("{:names$}  {:values$}  {origin}{note}\n", line.name, line.value)
        })
        .collect()
}
