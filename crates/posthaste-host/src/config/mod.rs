//! What a process is told: flag > environment > `.env` > `posthaste.toml` > default, each value with
//! its origin.

mod account_keys;
mod build_urls;
pub(crate) mod check_value;
mod error;
pub mod keys;
mod nearest;
mod read_env_file;
pub mod show;
mod sources;
mod token_keys;
mod tuning;
mod warn_unused;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use error::{ConfigError, ConfigErrors, WrongValue};
pub(crate) use nearest::nearest;
pub use sources::{Origin, Sources};

use crate::redact;
use check_value::Wrong;
use keys::{Kind, Named};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value as text.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// The values of all keys. Cheap to clone.
#[derive(Clone)]
pub struct Settings(Arc<Inner>);

struct Inner {
    /// With the number of the place that each stands in.
    values: BTreeMap<String, (usize, Setting)>,
    /// For keys of a service that is not ours.
    sources: Sources,
}

impl Settings {
    /// The value of `name`, its default included; `None` where it has neither. A key that posthaste
    /// does not know is looked for in the environment and in `.env`.
    pub fn get(&self, name: &str) -> Option<String> {
        match self.0.values.get(name) {
            Some((_, setting)) => Some(setting.value.clone()),
            None => match default_of(name) {
                Some(default) => Some(default.to_owned()),
                None => self.0.sources.find(name).map(|(value, _)| value.to_owned()),
            },
        }
    }

    /// Whether `name` is true; `otherwise` where it is not set.
    ///
    /// # Errors
    /// When it is neither true nor false, which only a key that posthaste does not know can be.
    pub fn is_on(&self, name: &str, otherwise: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(otherwise);
        };
        check_value::boolean(&value)
            .map_err(|wrong| ConfigError::refused(format!("{name}={value}: {}", wrong.expected)))
    }

    /// The value of `name` where somebody has set it.
    fn set(&self, name: &str) -> Option<Setting> {
        self.0.values.get(name).map(|(_, setting)| setting.clone())
    }

    /// Of `names`, which say the same thing, the one that stands in the first place; in one place the first name.
    fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, Setting)> {
        let set = names.iter().filter_map(|name| Some((*name, self.0.values.get(*name)?)));
        let first = set.min_by_key(|(_, (place, _))| *place);
        first.map(|(name, (_, setting))| (name, setting.clone()))
    }

    /// The service link of Kubernetes that stands under the name of a key.
    fn service_link(&self, name: &str) -> Option<&str> {
        self.0.sources.service_link(name)
    }

    fn or_default(&self, name: &str) -> Setting {
        self.set(name).unwrap_or_else(|| Setting {
            value: default_of(name).unwrap_or_default().to_owned(),
            origin: Origin::Default,
        })
    }

    /// Whether a key that is true or false by its kind is true.
    fn on(&self, name: &str) -> bool {
        // Checked when it was read.
        matches!(self.is_on(name, false), Ok(true))
    }
}

fn default_of(name: &str) -> Option<&'static str> {
    keys::all().find(|key| key.name == name)?.default
}

/// Who may call the management routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody who reaches the listener.
    Open,
    /// Holders of an administrator's token.
    Enforced,
}

/// What one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleSet {
    /// The services' HTTP routes.
    pub api: bool,
    /// Consumers, retries, timers.
    pub worker: bool,
    /// Outbox publishing.
    pub relay: bool,
}

impl RoleSet {
    /// Everything.
    pub const ALL: Self = Self {
        api: true,
        worker: true,
        relay: true,
    };
}

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    /// Every key's value.
    pub settings: Settings,
    /// Where to listen; a host started with a listener of its own takes that one.
    pub listen: SocketAddr,
    /// Who may call the management routes.
    pub auth: Auth,
    /// What this process does.
    pub roles: RoleSet,
    /// Apply pending migrations at the start on any database.
    pub migrate: bool,
    services: Vec<String>,
    /// Settings that cannot be used and were passed over, a sentence each.
    ignored: Vec<String>,
}

impl Config {
    /// Reads and checks `sources` for a binary with `services`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: Sources, services: &[&str]) -> Result<Self, ConfigErrors> {
        let known = keys::known(services);
        let mut errors = unknown_keys(&sources, &known);
        let (mut values, mut ignored) = (BTreeMap::new(), Vec::new());
        for named in &known {
            match read(&sources, named) {
                Ok(Some((place, setting))) => match check_value::check(named.key.kind, &setting.value) {
                    Ok(()) => {
                        values.insert(named.name.clone(), (place, setting));
                    }
                    // OpenTelemetry's rule: these are set for whole clusters, for programs that know more than this one.
                    Err(wrong) if named.name.starts_with("OTEL_") => {
                        let refused = refuse(&named.name, named.key.secret, &setting, wrong);
                        ignored.push(format!("{refused}; it is ignored"));
                    }
                    Err(wrong) => errors.push(refuse(&named.name, named.key.secret, &setting, wrong)),
                },
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let settings = Settings(Arc::new(Inner { values, sources }));
        let address = settings.or_default("BIND_ADDRESS").value;
        let port = settings.or_default("PORT").value;
        let (Ok(address), Ok(port)) = (check_value::address(&address), check_value::port(&port)) else {
            return Err(ConfigError::refused("BIND_ADDRESS or PORT cannot be read").into());
        };
        Ok(Self {
            auth: auth(&settings, address),
            listen: SocketAddr::new(address, port),
            settings,
            roles: RoleSet::ALL,
            migrate: false,
            services: services.iter().map(|service| (*service).to_owned()).collect(),
            ignored,
        })
    }

    /// The database of `service`.
    ///
    /// # Errors
    /// When its parts make no URL, or this build cannot open it.
    pub fn database_url(&self, service: &str) -> Result<Setting, ConfigError> {
        let (name, setting) = build_urls::database(&self.settings, Some(service))?;
        check_value::can_open_database(&setting.value).map_err(|wrong| refuse(&name, true, &setting, wrong))?;
        Ok(setting)
    }

    /// The transport of `service`.
    ///
    /// # Errors
    /// As [`Config::database_url`].
    pub fn broker_url(&self, service: &str) -> Result<Setting, ConfigError> {
        let (name, setting) = build_urls::broker(&self.settings, Some(service))?;
        check_value::can_open_broker(&setting.value).map_err(|wrong| refuse(&name, true, &setting, wrong))?;
        Ok(setting)
    }

    /// Checks what depends on which services run: that their databases and transports can be opened.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn check_services(&self, services: &[&str]) -> Result<(), ConfigErrors> {
        let mut errors: Vec<ConfigError> = Vec::new();
        for service in services {
            errors.extend(self.database_url(service).err());
            errors.extend(self.broker_url(service).err());
        }
        errors.dedup();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Whether everybody may call the management routes of a process that others can reach.
    pub fn is_openly_reachable(&self) -> bool {
        self.auth == Auth::Open && !self.listen.ip().is_loopback()
    }

    /// The process's name in answers and telemetry: `APP_NAME`, else the service that runs alone.
    pub fn app_name(&self, services: &[&str]) -> String {
        match (self.settings.get("APP_NAME"), services) {
            (Some(name), _) => name,
            (None, [one]) => (*one).to_owned(),
            (None, _) => "posthaste".to_owned(),
        }
    }

    /// The services of the binary.
    pub fn known_services(&self) -> Vec<&str> {
        self.services.iter().map(String::as_str).collect()
    }

    /// Whether somebody has set `name`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.settings.set(name).is_some()
    }

    /// Whether a key that takes true and false is true.
    pub(crate) fn on(&self, name: &str) -> bool {
        self.settings.on(name)
    }
}

/// `open` where nobody else can reach the process, unless it is said otherwise.
fn auth(settings: &Settings, address: IpAddr) -> Auth {
    match settings.get("POSTHASTE_AUTH") {
        Some(word) if word.eq_ignore_ascii_case("open") => Auth::Open,
        Some(_) => Auth::Enforced,
        None if address.is_loopback() => Auth::Open,
        None => Auth::Enforced,
    }
}

fn unknown_keys(sources: &Sources, known: &[Named]) -> Vec<ConfigError> {
    let mut allowed: Vec<String> = known.iter().map(|named| named.name.clone()).collect();
    allowed.extend(
        known
            .iter()
            .filter(|named| named.key.secret)
            .map(|named| format!("{}_FILE", named.name)),
    );
    sources
        .strict_keys()
        .filter(|(key, _)| !allowed.iter().any(|name| name == key))
        .map(|(key, origin)| ConfigError::Unknown {
            key: key.to_owned(),
            origin: origin.clone(),
            nearest: nearest(key, allowed.iter().map(String::as_str)).map(str::to_owned),
        })
        .collect()
}

/// The value of one key and the number of its place, read from its file where `<NAME>_FILE` names one.
fn read(sources: &Sources, named: &Named) -> Result<Option<(usize, Setting)>, ConfigError> {
    let own = sources.find_place(&named.name);
    let file_key = format!("{}_FILE", named.name);
    let file = if named.key.secret {
        sources.find_place(&file_key)
    } else {
        None
    };
    if let (Some((own, _, origin)), Some((file, _, file_origin))) = (own, file)
        && own == file
    {
        return Err(ConfigError::Twice {
            key: named.name.clone(),
            origin: origin.clone(),
            file_origin: file_origin.clone(),
        });
    }
    let is_first = |place: usize| own.is_none_or(|(own, ..)| place < own);
    if let Some((place, path, origin)) = file.filter(|(place, ..)| is_first(*place)) {
        return match std::fs::read_to_string(path) {
            Ok(text) => {
                let setting = Setting {
                    // Some editors put a mark at the beginning of a file.
                    value: text
                        .trim_start_matches('\u{feff}')
                        .trim_end_matches(['\r', '\n'])
                        .to_owned(),
                    origin: Origin::SecretFile(path.to_owned(), Box::new(origin.clone())),
                };
                Ok(Some((place, setting)))
            }
            Err(error) => Err(ConfigError::File {
                path: format!("{file_key}={path} ({origin})"),
                reason: error.to_string(),
            }),
        };
    }
    Ok(own.map(|(place, value, origin)| {
        // Around a password a space may be meant; around anything else it is a slip.
        let value = if named.key.kind == Kind::Text {
            value
        } else {
            value.trim()
        };
        let setting = Setting {
            value: value.to_owned(),
            origin: origin.clone(),
        };
        (place, setting)
    }))
}

fn refuse(name: &str, secret: bool, setting: &Setting, wrong: Wrong) -> ConfigError {
    WrongValue {
        key: name.to_owned(),
        // Of any kind: a URL may have a password in it, or somebody wrote one into the wrong line.
        shown: if secret || setting.value.contains(['@', '?']) {
            redact::secret_value(&setting.value)
        } else {
            setting.value.clone()
        },
        origin: setting.origin.clone(),
        expected: wrong.expected,
        nearest: wrong.nearest,
    }
    .into()
}
