//! Who calls: bearer tokens, the guard in front of routes, and how a token is found to be good.
//!
//! A [`Gate`] stands in front of all routes of a process: what a service does not declare open
//! ([`ServiceParts::open`](crate::ServiceParts)) needs a token. A service takes [`Guard`] from its context into its
//! router's state and names in each handler whom it answers: [`Caller`], [`Admin`], [`SignedIn`] or [`Visitor`]. The
//! accounts service knows which tokens are good ([`Verifier`]); a process without it asks over HTTP. API keys of
//! programs are in the database of the service that they open.

mod api_key;
mod ask_accounts;
mod gate;
mod guard;
mod read_bearer;
mod verifier;
mod verify_token;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use api_key::KeyHolder;
pub(crate) use ask_accounts::accounts_over_http;
pub(crate) use gate::pass_gate;
pub use gate::{Gate, OpenRoute};
pub use guard::{Admin, Caller, Guard, SignedIn, Visitor};
pub use verifier::{Verifier, Verifying};
pub use verify_token::{AccessClaims, Forged, TokenHeader, TokenRules, UnverifiedToken, decode_part, encode_part};

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See and change what is their own.
    User,
    /// See and change everything.
    Admin,
}

/// A user with a good token, as of this request: the role is the one they have now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Principal {
    /// The user.
    pub user_id: Uuid,
    /// The session that the token belongs to.
    pub session_id: Uuid,
    /// The token.
    pub token_id: Uuid,
    /// What they may do.
    pub role: Role,
    /// When the token ends, in seconds since 1970.
    pub expires_at: i64,
}

/// Why a token does not open a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is forged, expired or revoked, or its user is gone.
    #[error("the token is not valid")]
    Invalid,
    /// Nobody can say now whether it is revoked; without that it is not let in.
    #[error("the token cannot be checked")]
    Unavailable,
}
