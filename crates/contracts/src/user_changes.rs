//! What happens to users after they came to be, and to those that were made by hand. No event carries an address or a
//! name: events are stored by others and stay there when the user is gone. Accounts tells them those who may know.

use chrono::{DateTime, Utc};
use posthaste::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::object::object_only;

/// A user was made by hand, not by signing up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct UserCreated {
    /// The new user.
    pub user_id: Uuid,
    /// Whether it may sign in.
    pub is_active: bool,
    /// When the user came to be.
    pub created_at: DateTime<Utc>,
}

object_only!(UserCreated);

/// A user has changed: what it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct UserUpdated {
    /// Which user.
    pub user_id: Uuid,
    /// Whether it may sign in.
    pub is_active: bool,
    /// Rises with every change: of two events the one with the higher version holds.
    pub version: i64,
    /// When it changed.
    pub updated_at: DateTime<Utc>,
}

object_only!(UserUpdated);

/// A user is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct UserDeleted {
    /// Which user.
    pub user_id: Uuid,
    /// When it went.
    pub deleted_at: DateTime<Utc>,
}

object_only!(UserDeleted);

impl Event for UserCreated {
    const TYPE: &'static str = "user.created";
    const TOPIC: &'static str = "user.created";
    const AGGREGATE: Option<&'static str> = Some("User");

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }
}

impl Event for UserUpdated {
    const TYPE: &'static str = "user.updated";
    const TOPIC: &'static str = "user.updated";
    const AGGREGATE: Option<&'static str> = Some("User");

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }
}

impl Event for UserDeleted {
    const TYPE: &'static str = "user.deleted";
    const TOPIC: &'static str = "user.deleted";
    const AGGREGATE: Option<&'static str> = Some("User");

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }
}
