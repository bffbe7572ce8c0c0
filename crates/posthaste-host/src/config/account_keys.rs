//! The keys about sign-up, mail and passwords.

use super::keys::{Key, Kind, key, secret};

/// In the order in which they are shown.
pub(super) const ACCOUNT_KEYS: &[Key] = &[
    secret(
        "SMTP_URL",
        None,
        Kind::SmtpUrl,
        "accounts: where mail leaves; without it, files under MAIL_DIR",
    ),
    key(
        "MAIL_DIR",
        Some("data/mail"),
        Kind::Text,
        "accounts: the folder for mail where SMTP_URL is not set",
    ),
    key(
        "MAIL_FROM",
        Some("posthaste <no-reply@localhost>"),
        Kind::Text,
        "accounts: who the mail is from",
    ),
    key(
        "PUBLIC_URL",
        None,
        Kind::BaseUrl,
        "accounts: where people reach it, for links in mail; BIND_ADDRESS and PORT where unset",
    ),
    key(
        "AUDIT_DAYS",
        Some("365"),
        Kind::Number,
        "accounts: for how many days it is kept who did what, 1 at least",
    ),
    key(
        "PASSWORD_HASH_MEMORY_KIB",
        Some("19456"),
        Kind::Number,
        "accounts: memory of one argon2id hash, in KiB",
    ),
    key(
        "PASSWORD_HASH_PASSES",
        Some("2"),
        Kind::Number,
        "accounts: passes of one argon2id hash; 1 with at least 47104 KiB",
    ),
    key(
        "ONBOARDING_ATTEMPTS",
        Some("10"),
        Kind::Number,
        "accounts: attempts at a sign-up in all; the first three follow each other at once",
    ),
    key(
        "ONBOARDING_RETRY_MS",
        Some("2000"),
        Kind::Millis,
        "accounts: delay before the fourth attempt, doubled for each further one",
    ),
    key(
        "ONBOARDING_RETRY_MAX_MS",
        Some("10000"),
        Kind::Millis,
        "accounts: the longest such delay",
    ),
];
