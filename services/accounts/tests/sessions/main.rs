//! Signing in and staying signed in, as an attacker meets it: HTTP from outside, a database looked at from outside. What
//! each test stands for is in docs/security.md.

#[macro_use]
#[path = "../stage/on_databases.rs"]
mod on_databases;
#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need the rest of it")]
mod stage;

mod bound_growth;
mod busy_hashing;
mod change_meanwhile;
mod forge_tokens;
mod forger;
mod forgotten_password;
mod house;
mod log_in;
mod make_keys;
mod race_revocations;
mod refresh_session;
mod revoke;
mod separate_process;
mod with_redis;

const STACK: stage::Stack = stage::Stack::Embedded;
