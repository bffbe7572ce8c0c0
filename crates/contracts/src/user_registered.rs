use chrono::{DateTime, Utc};
use posthaste::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::object::object_only;
use crate::text::check_line;

/// A user has registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct UserRegistered {
    /// The new user.
    pub user_id: Uuid,
    /// Its address as it was given.
    pub email: String,
    /// Given name.
    #[serde(default)]
    pub first_name: String,
    /// Family name.
    #[serde(default)]
    pub last_name: String,
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

    fn validate(&self) -> Result<(), String> {
        check_line(&self.email, 255).map_err(|rule| rule.of("email"))?;
        for (member, name) in [("first_name", &self.first_name), ("last_name", &self.last_name)] {
            if !name.is_empty() {
                check_line(name, 100).map_err(|rule| rule.of(member))?;
            }
        }
        Ok(())
    }
}
