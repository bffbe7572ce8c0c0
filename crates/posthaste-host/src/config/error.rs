//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use super::sources::Origin;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file has a key that nothing reads.
    #[error("unknown key {key} ({origin}){}", meant(.nearest.as_deref()))]
    Unknown {
        /// The key as it was written.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The known key it resembles.
        nearest: Option<String>,
    },
    /// A value that cannot be used.
    #[error(transparent)]
    Value(Box<WrongValue>),
    /// A secret was given twice.
    #[error("{key} ({origin}) and {key}_FILE ({file_origin}) are both set; keep one of them")]
    Twice {
        /// The key.
        key: String,
        /// Where the value stands.
        origin: Origin,
        /// Where the file is named.
        file_origin: Origin,
    },
    /// A file that was named, or that exists, cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// A name on the command line that is no service of this binary.
    #[error("no service {name} here{}; this binary has {}", meant(.nearest.as_deref()), .known.join(", "))]
    Service {
        /// The name as it was written.
        name: String,
        /// The services there are.
        known: Vec<String>,
        /// The service it resembles.
        nearest: Option<String>,
    },
    /// A service cannot work with its settings.
    #[error("{0}")]
    Refused(String),
}

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={shown} ({origin}): {expected}{}", meant(.nearest.as_deref()))]
pub struct WrongValue {
    /// The key.
    pub key: String,
    /// The value, masked where it is a secret.
    pub shown: String,
    /// Where it stands.
    pub origin: Origin,
    /// What was expected.
    pub expected: String,
    /// The valid value nearest to it.
    pub nearest: Option<String>,
}

impl From<WrongValue> for ConfigError {
    fn from(wrong: WrongValue) -> Self {
        Self::Value(Box::new(wrong))
    }
}

impl ConfigError {
    /// A service's own refusal, in a sentence that names the key.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// All that is wrong, so that it is put right in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}configuration: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}
