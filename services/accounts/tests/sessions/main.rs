//! Signing in and staying signed in, as an attacker meets it: HTTP from outside, a database looked at from outside. What
//! each test stands for is in docs/security.md.

mod bound_growth;
mod change_meanwhile;
mod forge_tokens;
mod forgotten_password;
mod house;
mod log_in;
mod make_keys;
mod refresh_session;
mod revoke;
mod separate_process;
mod with_redis;
