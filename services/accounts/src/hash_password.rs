//! Argon2id, a few at a time: each hash takes 19 MiB and tens of milliseconds of a core.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use posthaste_host::http::ApiError;
use posthaste_host::{ConfigError, Settings};
use tokio::sync::Semaphore;

use crate::password::Password;

/// Whoever waits longer for its turn is asked to come again.
const WAIT: Duration = Duration::from_secs(2);
/// KiB and passes that are no weaker than what OWASP asks for at the least.
const LEAST: [(u32, u32); 2] = [(19_456, 2), (47_104, 1)];

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    /// Too many others wait.
    #[error("too many passwords are being hashed")]
    Busy,
    /// The library or the runtime refused.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy => Self::unavailable("Too many passwords are being checked now."),
            HashError::Failed(reason) => {
                tracing::error!(error = reason, "a password could not be hashed");
                Self::of(http::StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

/// What a password was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// It is the right one.
    pub right: bool,
    /// Its hash is weaker than new ones are: to be made again while the password is known.
    pub outdated: bool,
}

/// Hashes passwords; as many at a time as there are cores. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PasswordHashing {
    turns: Arc<Semaphore>,
    params: Params,
}

impl PasswordHashing {
    /// Hashing with `PASSWORD_HASH_MEMORY_KIB` and `PASSWORD_HASH_PASSES`.
    ///
    /// # Errors
    /// When they are weaker than what is recommended at the least.
    pub fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let number = |name: &str| {
            let text = settings.get(name).unwrap_or_default();
            text.parse::<u32>()
                .map_err(|_no_number| ConfigError::refused(format!("{name}={text}: write a whole number")))
        };
        let (memory, passes) = (number("PASSWORD_HASH_MEMORY_KIB")?, number("PASSWORD_HASH_PASSES")?);
        let params = Params::new(memory, passes, 1, None)
            .ok()
            .filter(|_| LEAST.iter().any(|least| memory >= least.0 && passes >= least.1))
            .ok_or_else(|| {
                ConfigError::refused(format!(
                    "PASSWORD_HASH_MEMORY_KIB={memory}, PASSWORD_HASH_PASSES={passes}: \
                     write at least 19456 and 2, or 47104 and 1"
                ))
            })?;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            turns: Arc::new(Semaphore::new(cores)),
            params,
        })
    }

    /// The hash of `password` under a salt of its own, as a PHC string.
    ///
    /// # Errors
    /// [`HashError::Busy`] after two seconds without a turn.
    pub async fn hash(&self, password: Password) -> Result<String, HashError> {
        let argon2 = self.argon2();
        self.in_turn(move || match argon2.hash_password(password.as_bytes()) {
            Ok(hash) => Ok(hash.to_string()),
            Err(error) => Err(HashError::Failed(error.to_string())),
        })
        .await?
    }

    /// Whether `password` is the one behind `hash`. Without a hash (an unknown user, or one without a password) the
    /// same work is done for nothing, so that the answer takes as long.
    ///
    /// # Errors
    /// As [`PasswordHashing::hash`].
    pub async fn verify(&self, password: Password, hash: Option<String>) -> Result<Verified, HashError> {
        let (argon2, params) = (self.argon2(), self.params.clone());
        // A hash that came by a queue may cost anything: beyond what is bearable it is none.
        let hash = hash.filter(|hash| is_bearable(hash, &params));
        let known = hash.is_some();
        let nobodys = self.nobodys();
        self.in_turn(move || {
            let parse = |hash: &str| PasswordHash::new(hash).map_err(|error| HashError::Failed(error.to_string()));
            let nobodys = parse(&nobodys)?;
            let hash = match &hash {
                Some(hash) => parse(hash)?,
                None => nobodys.clone(),
            };
            // The work first: `known` must not spare it.
            let right = argon2.verify_password(password.as_bytes(), &hash).is_ok() && known;
            let old = Params::try_from(&hash).map_or(true, |old| weaker(&old, &params));
            if old && !right {
                // A right password is hashed anew; a wrong one must not be told from an unknown user by being quick.
                std::hint::black_box(argon2.verify_password(password.as_bytes(), &nobodys).is_ok());
            }
            let outdated = right && old;
            Ok(Verified { right, outdated })
        })
        .await?
    }

    /// A hash that no password has, as costly to check as a new one.
    fn nobodys(&self) -> String {
        format!(
            "$argon2id$v=19$m={},t={},p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            self.params.m_cost(),
            self.params.t_cost()
        )
    }

    fn argon2(&self) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let turn = match tokio::time::timeout(WAIT, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) | Err(_) => return Err(HashError::Busy),
        };
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work and not by the request, which may be given up meanwhile.
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| HashError::Failed(error.to_string()))
    }
}

/// By how much a stored hash may cost more than a new one: whoever has lowered the settings still gets in.
const BEARABLE: u64 = 16;

/// Whether checking `hash` takes at most [`BEARABLE`] times the memory and the work of a hash with `params`.
fn is_bearable(hash: &str, params: &Params) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        return false;
    };
    hash.salt.is_some() && hash.hash.is_some() && Params::try_from(&hash).is_ok_and(|asked| is_within(&asked, params))
}

fn is_within(asked: &Params, params: &Params) -> bool {
    let work = |params: &Params| u64::from(params.m_cost()) * u64::from(params.t_cost());
    let memory = u64::from(params.m_cost()) * BEARABLE;
    asked.p_cost() == 1 && u64::from(asked.m_cost()) <= memory && work(asked) <= work(params) * BEARABLE
}

/// Whether `hash` is one of argon2id that a process with the usual settings would check at all.
pub(crate) fn is_acceptable(hash: &str) -> bool {
    let usual = Params::new(USUAL.0, USUAL.1, 1, None);
    hash.starts_with("$argon2id$v=19$") && hash.len() <= 255 && usual.is_ok_and(|usual| is_bearable(hash, &usual))
}

/// Memory in KiB and passes where nothing is set.
const USUAL: (u32, u32) = (19_456, 2);

fn weaker(old: &Params, new: &Params) -> bool {
    old.m_cost() < new.m_cost() || old.t_cost() < new.t_cost()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(memory: u32, passes: u32, lanes: u32) -> String {
        let (salt, bytes) = ("c2FsdHNhbHRzYWx0c2FsdA", "A".repeat(43));
        format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${bytes}")
    }

    #[test]
    fn a_hash_from_elsewhere_costs_little_more_than_one_of_ours() {
        for (memory, passes) in [USUAL, (47_104, 1), (65_536, 3), (8, 1)] {
            assert!(is_acceptable(&hash(memory, passes, 1)), "{memory} {passes}");
        }
        for (memory, passes) in [(1_048_576, 1), (19_456, 120), (8, 4_000_000), (4_294_967_295, 1)] {
            assert!(!is_acceptable(&hash(memory, passes, 1)), "{memory} {passes}");
        }
        assert!(!is_acceptable(&hash(19_456, 2, 8)));
        for no_hash in [
            "",
            "$argon2id$v=19$",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$argon2i$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$AAAA",
        ] {
            assert!(!is_acceptable(no_hash), "{no_hash}");
        }
    }

    #[tokio::test]
    async fn an_unknown_user_costs_as_much_as_a_known_one() -> Result<(), Box<dyn std::error::Error>> {
        let hashing = PasswordHashing {
            turns: Arc::new(Semaphore::new(1)),
            params: Params::new(USUAL.0, USUAL.1, 1, None)?,
        };
        let known = hashing
            .hash(serde_json::from_str("\"plumber otter vivid canal\"")?)
            .await?;
        let (known, nobodys) = (PasswordHash::new(&known)?, hashing.nobodys());
        let nobodys = PasswordHash::new(&nobodys)?;
        assert_eq!(Params::try_from(&known)?, Params::try_from(&nobodys)?);
        assert_eq!((known.algorithm, known.version), (nobodys.algorithm, nobodys.version));
        let lengths = |hash: &PasswordHash| {
            let (salt, output) = (hash.salt.as_ref(), hash.hash.as_ref());
            (salt.map(|salt| salt.len()), output.map(|output| output.len()))
        };
        assert_eq!(lengths(&known), lengths(&nobodys));
        Ok(())
    }
}
