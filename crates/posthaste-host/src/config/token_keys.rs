//! The keys about tokens and sessions.

use super::keys::{Key, Kind, key, secret};

/// In the order in which they are shown.
pub(super) const TOKEN_KEYS: &[Key] = &[
    key(
        "ACCOUNTS_URL",
        None,
        Kind::HttpUrl,
        "http://HOST:PORT of the accounts service, for a process without it where tokens are asked for",
    ),
    secret(
        "ACCOUNTS_SECRET",
        None,
        Kind::Text,
        "accounts: 32 characters or more, the same for all replicas; without it, a file made beside the SQLite \
         database or in data/",
    ),
    key(
        "TOKEN_ISSUER",
        Some("posthaste"),
        Kind::Text,
        "accounts: iss of access tokens",
    ),
    key(
        "TOKEN_AUDIENCE",
        Some("posthaste"),
        Kind::Text,
        "accounts: aud of access tokens",
    ),
    key(
        "ACCESS_TOKEN_SECONDS",
        Some("300"),
        Kind::Number,
        "accounts: life of access tokens, 60 to 900",
    ),
    key(
        "REFRESH_GRACE_SECONDS",
        Some("10"),
        Kind::Number,
        "accounts: how long a refresh may be repeated, 0 to 60",
    ),
    key(
        "SESSION_IDLE_SECONDS",
        Some("604800"),
        Kind::Number,
        "accounts: a session ends after so long without a refresh",
    ),
    key(
        "SESSION_SECONDS",
        Some("2592000"),
        Kind::Number,
        "accounts: a session ends so long after the login",
    ),
    key(
        "TRUSTED_PROXIES",
        None,
        Kind::Text,
        "addresses and networks (10.0.0.0/8) whose X-Forwarded-For is believed, separated by commas",
    ),
];
