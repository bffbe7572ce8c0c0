//! A user, and what is shown of it.

use chrono::{DateTime, Utc};
use contracts::check_line;
use posthaste_host::http::FieldError;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::email_address::{EmailAddress, hides_something, trim_blanks};

/// The role that may manage others.
pub(crate) const ADMIN: &str = "admin";
/// Everybody's role.
pub(crate) const USER: &str = "user";

/// Whether the owner of the address has said that it is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Verification {
    /// Not yet.
    Pending,
    /// Yes.
    Verified,
}

impl Verification {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Verified => "VERIFIED",
        }
    }
}

/// A row of `users` that is not deleted, without what must not leave the repository.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub id: Uuid,
    /// The canonical address.
    pub email: String,
    pub first_name: String,
    pub last_name: String,
    pub bio: Option<String>,
    pub is_active: bool,
    pub verification: Verification,
    /// Rises with every change that [`UserView`] shows, except sign-ins.
    pub version: i64,
    pub last_login: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// Its version as an `ETag`.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }
}

/// What a user is shown as.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserView {
    id: Uuid,
    /// The canonical address.
    #[schema(example = "ann@example.com")]
    email: String,
    #[schema(example = "Ann")]
    first_name: String,
    #[schema(example = "Lee")]
    last_name: String,
    #[schema(example = "Ann Lee")]
    full_name: String,
    bio: Option<String>,
    is_active: bool,
    last_login: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            full_name: format!("{} {}", user.first_name, user.last_name),
            email: user.email,
            first_name: user.first_name,
            last_name: user.last_name,
            bio: user.bio,
            is_active: user.is_active,
            last_login: user.last_login,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// A text without the blanks at its ends: names keep none.
pub(crate) fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(trim_blanks(&text).to_owned())
}

/// As [`trimmed`], for a member that may be absent or `null`.
pub(crate) fn trimmed_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| trim_blanks(&text).to_owned()))
}

/// A name: one line that shows something, of 1 to `longest` characters.
pub(crate) fn check_name(pointer: &'static str, name: &str, longest: usize, errors: &mut Vec<FieldError>) {
    if let Err(rule) = check_line(name, longest) {
        errors.push(FieldError::new(pointer, "value", rule.to_string()));
    } else if name.trim().is_empty() {
        errors.push(FieldError::new(pointer, "value", "must not be blank"));
    } else if hides_something(name) {
        errors.push(FieldError::new(
            pointer,
            "value",
            "must not contain invisible characters",
        ));
    }
}

/// An address; `None` after the broken rule was added to `errors`.
pub(crate) fn check_email(pointer: &'static str, email: &str, errors: &mut Vec<FieldError>) -> Option<EmailAddress> {
    EmailAddress::parse(email)
        .map_err(|rule| errors.push(FieldError::new(pointer, "email", rule)))
        .ok()
}
