//! The one secret that is not in the database: it seals the signing keys there and derives refresh tokens.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthaste::store::make_private_folder;
use posthaste_host::http::IdempotencyKey;
use posthaste_host::{ConfigError, ServiceContext};
use uuid::Uuid;

use crate::email_address::EmailAddress;
use crate::secret_token::SecretToken;

/// Fewest characters of the secret: 128 bits in hexadecimal, 192 in base64.
const SHORTEST: usize = 32;
const FILE: &str = "accounts.secret";
const NONCE: usize = 12;

/// What is derived from the secret; the secret itself is not kept.
pub(crate) struct ServerSecret {
    seal: [u8; 32],
    refresh: hmac::Key,
    ids: hmac::Key,
}

impl ServerSecret {
    /// The secret of `ACCOUNTS_SECRET`, or of the file beside the SQLite database (`data/` for other databases),
    /// which is made where it is missing.
    ///
    /// # Errors
    /// When it is too short, or there is no file and none can be made.
    pub fn of(context: &ServiceContext) -> Result<Self, ConfigError> {
        let (secret, name) = match context.settings.get("ACCOUNTS_SECRET") {
            Some(secret) => (secret, "ACCOUNTS_SECRET".to_owned()),
            // Nothing will be sealed with it.
            None if context.is_rehearsal => return Ok(Self::derive(&[])),
            None => {
                let path = folder(context.store.display()).join(FILE);
                let secret = read_or_make(&path).map_err(|error| {
                    ConfigError::refused(format!(
                        "ACCOUNTS_SECRET is not set and {} cannot be read or made ({error}): set ACCOUNTS_SECRET or \
                         ACCOUNTS_SECRET_FILE, the same for all replicas; openssl rand -base64 32 makes one",
                        path.display()
                    ))
                })?;
                check_modes(&path);
                (secret, path.display().to_string())
            }
        };
        if secret.chars().count() < SHORTEST {
            return Err(ConfigError::refused(format!(
                "{name}: the secret must have {SHORTEST} characters at least; openssl rand -base64 32 makes one"
            )));
        }
        let known = secret == SAMPLE && !context.guard().is_open();
        if known || distinct(&secret) < FEWEST {
            return Err(ConfigError::refused(format!(
                "{name}: everybody can guess this secret; openssl rand -base64 32 makes one"
            )));
        }
        Ok(Self::derive(secret.as_bytes()))
    }

    fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(HMAC_SHA256, secret);
        let part = |purpose: &str| {
            let mut key = [0; 32];
            key.copy_from_slice(hmac::sign(&secret, purpose.as_bytes()).as_ref());
            key
        };
        Self {
            seal: part("posthaste accounts: signing keys"),
            refresh: hmac::Key::new(HMAC_SHA256, &part("posthaste accounts: refresh tokens")),
            ids: hmac::Key::new(HMAC_SHA256, &part("posthaste accounts: ids and pseudonyms")),
        }
    }

    /// The one refresh token that follows `token`, which is number `generation` of `session`: whoever presents it at
    /// the same time gets the same one, and it is stored nowhere.
    pub fn successor(&self, session: Uuid, generation: i64, token: &str) -> String {
        let mut tag = hmac::Context::with_key(&self.refresh);
        tag.update(session.as_bytes());
        tag.update(&generation.to_be_bytes());
        tag.update(token.as_bytes());
        URL_SAFE_NO_PAD.encode(tag.sign())
    }

    /// The id of a new user. With a key a repeat means the same user, also where nothing could be stored of the first
    /// attempt. Without the secret nobody can tell from an address which id it would have got.
    pub fn id_for_key(&self, scope: &str, key: Option<&IdempotencyKey>, email: &EmailAddress) -> Uuid {
        let Some(key) = key else {
            return Uuid::now_v7();
        };
        let tag = hmac::sign(&self.ids, format!("{scope} {} {email}", key.as_str()).as_bytes());
        let mut bytes = [0; 16];
        for (byte, tag) in bytes.iter_mut().zip(tag.as_ref()) {
            *byte = *tag;
        }
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// A name for `email` from which nobody without the secret finds it again.
    pub fn pseudonym(&self, email: &EmailAddress) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.ids, email.as_str().as_bytes()))
    }

    /// `plain` under the secret, for the key called `name`.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<String, Unspecified> {
        let mut bytes = plain.to_vec();
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.seal)?;
        let nonce = key.seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut bytes)?;
        let whole = [nonce.as_ref().as_slice(), &bytes].concat();
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// What was sealed for `name`; `None` where that was under another secret.
    pub fn open(&self, name: &str, sealed: &str) -> Option<Vec<u8>> {
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, bytes) = whole.split_at_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.seal).ok()?;
        let mut bytes = bytes.to_vec();
        let plain = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut bytes).ok()?;
        Some(plain.to_vec())
    }
}

/// What compose.yaml and .env.example have.
const SAMPLE: &str = "a-secret-for-development-only-0123456789";
/// Fewest different characters of a secret.
const FEWEST: usize = 8;

fn distinct(secret: &str) -> usize {
    secret.chars().collect::<std::collections::BTreeSet<_>>().len()
}

/// Warns where others on this machine can read the secret; it was private when it was made.
#[cfg(unix)]
fn check_modes(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let others = |path: &Path, bits: u32| {
        let data = fs::metadata(path).ok();
        data.is_some_and(|data| data.permissions().mode() & bits != 0)
    };
    if others(path, 0o077) || path.parent().is_some_and(|folder| others(folder, 0o022)) {
        tracing::warn!(
            file = %path.display(),
            "others on this machine can read the secret of the accounts service, or replace it: chmod 600, and 700 for its folder"
        );
    }
}

#[cfg(not(unix))]
fn check_modes(_path: &Path) {}

/// Beside a SQLite file; `data` for a database that is a server.
fn folder(database: &str) -> PathBuf {
    let path = database.strip_prefix("sqlite:").map(|rest| {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        rest.split('?').next().unwrap_or(rest)
    });
    match path.map(Path::new) {
        Some(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
        None => PathBuf::from("data"),
    }
}

/// The secret in `path`. Made whole under another name first: of two processes that start together one wins, and the
/// other one reads what that one wrote.
fn read_or_make(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(folder) = path.parent() {
        make_private_folder(folder)?;
    }
    let draft = path.with_extension(format!("{}.part", Uuid::new_v4()));
    let secret = SecretToken::new().map_err(io::Error::other)?;
    write_private(&draft, secret.reveal())?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_under_the_same_secret_and_name_only() {
        let secret = ServerSecret::derive(&[1; 32]);
        let sealed = secret.seal("k1", b"private").unwrap();
        assert_eq!(secret.open("k1", &sealed).as_deref(), Some(b"private".as_slice()));
        assert_ne!(sealed, secret.seal("k1", b"private").unwrap(), "never the same twice");
        assert_eq!(secret.open("k2", &sealed), None);
        assert_eq!(ServerSecret::derive(&[2; 32]).open("k1", &sealed), None);
        for broken in ["", "AAAA", &sealed[1..], "not base64 !"] {
            assert_eq!(secret.open("k1", broken), None);
        }
    }

    #[test]
    fn a_token_has_one_successor() {
        let (secret, session) = (ServerSecret::derive(&[1; 32]), Uuid::from_u128(1));
        let next = secret.successor(session, 1, "token");
        assert_eq!(next, secret.successor(session, 1, "token"));
        assert_eq!(next.len(), 43);
        for other in [
            secret.successor(session, 2, "token"),
            secret.successor(session, 1, "other"),
            secret.successor(Uuid::from_u128(2), 1, "token"),
            ServerSecret::derive(&[2; 32]).successor(session, 1, "token"),
        ] {
            assert_ne!(next, other);
        }
    }

    #[test]
    fn the_file_stands_beside_the_database() {
        assert_eq!(folder("sqlite:data/posthaste.db"), Path::new("data"));
        assert_eq!(folder("sqlite:///var/x/a.db?mode=rwc"), Path::new("/var/x"));
        assert_eq!(folder("postgres://u:***@h/n"), Path::new("data"));
    }

    #[test]
    fn the_file_is_made_once_and_only_its_owner_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/accounts.secret");
        let made: Vec<String> = std::thread::scope(|scope| {
            let many: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_make(&path).unwrap())).collect();
            many.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(
            made.iter().all(|secret| *secret == made[0] && secret.len() == 43),
            "{made:?}"
        );
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no drafts are left"
        );
    }
}
