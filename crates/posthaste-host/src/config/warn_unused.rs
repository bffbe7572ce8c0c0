//! What is set and has no effect, so that nobody has to find out by what does not happen.

use super::sources::Origin;
use super::{Config, Settings};

/// Parts of a URL that build nothing without what names the host.
struct Parts {
    parts: &'static [&'static str],
    host: &'static str,
    /// Each of these makes the parts superfluous, which is nobody's slip.
    instead: &'static [&'static str],
    /// What holds for want of a host.
    whole: &'static str,
}

const BROKERS: &[&str] = &[
    "BROKER_URL",
    "AMQP_URL",
    "RABBITMQ_URL",
    "MQ_HOST",
    "RABBITMQ_HOST",
    "KAFKA_BOOTSTRAP_SERVERS",
];

const PARTS: &[Parts] = &[
    Parts {
        parts: &["DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_KIND"],
        host: "DB_HOST",
        instead: &["DATABASE_URL", "DB_HOST"],
        whole: "DATABASE_URL",
    },
    Parts {
        parts: &["MQ_PORT", "MQ_USER", "MQ_PASSWORD"],
        host: "MQ_HOST",
        instead: BROKERS,
        whole: "BROKER_URL",
    },
    Parts {
        parts: &[
            "RABBITMQ_PORT",
            "RABBITMQ_USER",
            "RABBITMQ_USERNAME",
            "RABBITMQ_PASSWORD",
        ],
        host: "RABBITMQ_HOST",
        instead: BROKERS,
        whole: "BROKER_URL",
    },
];

impl Config {
    /// What a person should know who has set something that has no effect, a sentence each. None of it keeps a process
    /// from starting.
    pub fn warnings(&self) -> Vec<String> {
        let ignored = self.ignored.iter().cloned();
        let unused = PARTS.iter().filter_map(|parts| parts.unused(&self.settings));
        ignored.chain(unused).chain(self.settings.unsubstituted()).collect()
    }
}

impl Parts {
    fn unused(&self, settings: &Settings) -> Option<String> {
        if self.instead.iter().any(|key| settings.set(key).is_some()) {
            return None;
        }
        let set: Vec<String> = self
            .parts
            .iter()
            .filter_map(|key| Some(format!("{key} ({})", settings.set(key)?.origin)))
            .collect();
        let whole = settings.or_default(self.whole);
        (!set.is_empty()).then(|| {
            format!(
                "{} not used, because {} is not set; {} is {} ({})",
                is_or_are(&set),
                self.host,
                self.whole,
                whole.value,
                whole.origin
            )
        })
    }
}

fn is_or_are(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

impl Settings {
    /// Other programs put another variable in the place of `${NAME}` in a file.
    fn unsubstituted(&self) -> impl Iterator<Item = String> {
        let from_files = self.0.values.iter().filter(|(_, (_, setting))| {
            let in_file = matches!(setting.origin, Origin::File(_));
            in_file && setting.value.contains("${")
        });
        from_files.map(|(name, (_, setting))| {
            let origin = &setting.origin;
            format!("{name} ({origin}) has ${{…}} in it, which is not replaced by anything")
        })
    }
}
