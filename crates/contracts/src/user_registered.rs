use chrono::{DateTime, Utc};
use posthaste::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::object::object_only;

/// A user has registered. Who it is, accounts tells those who may know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct UserRegistered {
    /// The new user.
    pub user_id: Uuid,
    /// When the user came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<DateTime<Utc>>,
}

object_only!(UserRegistered);

impl Event for UserRegistered {
    const TYPE: &'static str = "user.registered";
    const TOPIC: &'static str = "user.registered";

    fn key(&self) -> Option<String> {
        Some(self.user_id.to_string())
    }
}
