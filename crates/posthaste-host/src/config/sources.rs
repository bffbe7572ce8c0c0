//! Where values come from: flags, environment, `.env`, `posthaste.toml`, in this order.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use super::error::{ConfigError, ConfigErrors, WrongValue};
use super::read_env_file::read_env_file;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag(String),
    /// The environment.
    Environment,
    /// A file: `.env`, `posthaste.toml`.
    File(String),
    /// The file that a `<NAME>_FILE` names, and where that stands.
    SecretFile(String, Box<Origin>),
    /// Made from other keys, the first of which stands there.
    Built(String, Box<Origin>),
    /// Set nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => f.write_str(path),
            Self::SecretFile(path, origin) => write!(f, "file {path}, named in {origin}"),
            Self::Built(key, origin) => write!(f, "from {key}, {origin}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The values of one place, by upper-case key.
#[derive(Clone, Debug)]
struct Layer {
    values: BTreeMap<String, (String, Origin)>,
    /// Service links of Kubernetes under the name of a key; they count as not set.
    links: BTreeMap<String, String>,
    /// A key that is not known is an error here; the environment is full of other people's.
    strict: bool,
}

/// All places, the first one that has a key wins. An empty value counts as not set, as in Compose
/// files that pass everything on.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    layers: Vec<Layer>,
}

impl Sources {
    /// No places: everything has its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds flags: `(key, value, flag)`.
    #[must_use]
    pub fn flags(self, flags: impl IntoIterator<Item = (String, String, String)>) -> Self {
        let values = flags
            .into_iter()
            .map(|(key, value, flag)| (key, (value, Origin::Flag(flag))));
        self.layer(values, false)
    }

    /// Adds the environment, or what stands for it in a test.
    ///
    /// Kubernetes puts `RABBITMQ_PORT=tcp://10.96.0.12:5672` into every container beside a Service named `rabbitmq`.
    /// Such a value of a `…_PORT` counts as not set, and the next place is asked.
    #[must_use]
    pub fn environment(self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let (links, values): (Vec<_>, Vec<_>) = variables
            .into_iter()
            .partition(|(key, value)| is_service_link(key, value));
        let values = values
            .into_iter()
            .map(|(key, value)| (key, (value, Origin::Environment)));
        let mut sources = self.layer(values, false);
        if let Some(layer) = sources.layers.last_mut() {
            layer.links = links.into_iter().collect();
        }
        sources
    }

    /// Adds a `.env` file if it is there. Nothing is substituted in its values.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn env_file(self, path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let unreadable = |reason: String| ConfigError::File {
            path: name.clone(),
            reason,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(error) => return Err(unreadable(error.to_string()).into()),
        };
        let pairs = read_env_file(&bytes).map_err(|bad| unreadable(bad.to_string()))?;
        let values = pairs
            .into_iter()
            .map(|(key, value)| (key, (value, Origin::File(name.clone()))));
        Ok(self.layer(values, false))
    }

    /// Adds a TOML file. A table is a prefix: `[orders] database_url` is `ORDERS_DATABASE_URL`.
    ///
    /// # Errors
    /// When it cannot be read, or is missing and `required`.
    pub fn toml_file(self, path: &Path, required: bool) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(self),
            Err(error) => {
                return Err(ConfigError::File {
                    path: name,
                    reason: error.to_string(),
                }
                .into());
            }
        };
        self.toml(&name, &text)
    }

    /// Adds the text of a TOML file.
    ///
    /// # Errors
    /// When it is no TOML, or has an array or a time, which no key takes.
    pub fn toml(self, name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::File {
            path: name.to_owned(),
            // Its full text quotes the line, which may hold a secret.
            reason: toml_reason(&error, text),
        })?;
        let mut values = Vec::new();
        let mut errors = Vec::new();
        flatten("", &table, name, &mut values, &mut errors);
        if errors.is_empty() {
            Ok(self.layer(values, true))
        } else {
            Err(ConfigErrors(errors))
        }
    }

    fn layer(mut self, values: impl IntoIterator<Item = (String, (String, Origin))>, strict: bool) -> Self {
        let values = values.into_iter().filter(|(_, (value, _))| !value.is_empty()).collect();
        self.layers.push(Layer {
            values,
            links: BTreeMap::new(),
            strict,
        });
        self
    }

    /// The value of `key` in the first place that has it.
    pub(crate) fn find(&self, key: &str) -> Option<(&str, &Origin)> {
        self.find_place(key).map(|(_, value, origin)| (value, origin))
    }

    /// The same with the number of the place; a lower one wins.
    pub(super) fn find_place(&self, key: &str) -> Option<(usize, &str, &Origin)> {
        self.layers.iter().enumerate().find_map(|(place, layer)| {
            let (value, origin) = layer.values.get(key)?;
            Some((place, value.as_str(), origin))
        })
    }

    /// The service link that stands under the name of `key`.
    pub(super) fn service_link(&self, key: &str) -> Option<&str> {
        self.layers
            .iter()
            .find_map(|layer| layer.links.get(key))
            .map(String::as_str)
    }

    /// The keys in places where each has to be known.
    pub(crate) fn strict_keys(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.layers
            .iter()
            .filter(|layer| layer.strict)
            .flat_map(|layer| layer.values.iter())
            .map(|(key, (_, origin))| (key.as_str(), origin))
    }
}

/// `<SERVICE>_PORT=tcp://ADDRESS:PORT`.
fn is_service_link(key: &str, value: &str) -> bool {
    let Some((protocol, address)) = value.split_once("://") else {
        return false;
    };
    key.ends_with("_PORT") && matches!(protocol, "tcp" | "udp" | "sctp") && address.parse::<SocketAddr>().is_ok()
}

fn toml_reason(error: &toml::de::Error, text: &str) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    file: &str,
    values: &mut Vec<(String, (String, Origin))>,
    errors: &mut Vec<ConfigError>,
) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.to_ascii_uppercase().replace('-', "_"));
        let text = match value {
            toml::Value::Table(inner) => {
                flatten(&format!("{name}_"), inner, file, values, errors);
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            toml::Value::Array(_) | toml::Value::Datetime(_) => {
                let wrong = WrongValue {
                    key: name,
                    shown: format!("a TOML {}", value.type_str()),
                    origin: Origin::File(file.to_owned()),
                    expected: "write a text, a number or true/false".to_owned(),
                    nearest: None,
                };
                errors.push(wrong.into());
                continue;
            }
        };
        values.push((name, (text, Origin::File(file.to_owned()))));
    }
}
