//! `PUT /api/v1/users/{user_id}`.

use axum::extract::State;
use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use contracts::UserUpdated;
use posthaste::mediator::{self, Answer, Request};
use posthaste::message::now;
use posthaste::{Message, outbox};
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiJson, ApiPath, FieldError, Validate};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin, actor};
use crate::check_caller::check_caller;
use crate::create_user::{OneUser, check_bio};
use crate::read_users::{shown, unknown};
use crate::sessions_repository;
use crate::user::{User, check_name, trimmed_if_given};
use crate::users_repository::{self, Changes};

/// What to change; what is absent stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserChanges {
    /// Given name, 1–50 characters.
    #[serde(default, deserialize_with = "trimmed_if_given")]
    #[schema(min_length = 1, max_length = 50, example = "Ann")]
    first_name: Option<String>,
    /// Family name, 1–50 characters.
    #[serde(default, deserialize_with = "trimmed_if_given")]
    #[schema(min_length = 1, max_length = 50, example = "Lee")]
    last_name: Option<String>,
    /// At most 500 characters; `null` takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 500)]
    bio: Option<Option<String>>,
    /// Whether the user may sign in.
    is_active: Option<bool>,
}

/// A member that is there, `null` or not.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Validate for UserChanges {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if let Some(name) = &self.first_name {
            check_name("/first_name", name, 50, errors);
        }
        if let Some(name) = &self.last_name {
            check_name("/last_name", name, 50, errors);
        }
        check_bio(self.bio.as_ref().and_then(Option::as_deref), errors);
    }
}

/// Changes a user.
#[utoipa::path(
    put,
    path = "/api/v1/users/{user_id}",
    tag = "users",
    request_body = UserChanges,
    params(
        ("user_id" = Uuid, Path, description = "The user's id"),
        ("If-Match" = Option<String>, Header, description = "The ETag that was read; the change is refused where another one came between"),
    ),
    responses(
        (status = 200, description = "Changed", body = OneUser, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "No valid token"),
        (status = 403, description = "is_active is for administrators"),
        (status = 404, description = "There is none with this id, or it is somebody else"),
        (status = 412, description = "The user has changed since it was read"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The id or a member is invalid"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn update_user(
    State(accounts): State<Accounts>,
    caller: Caller,
    ApiPath(user_id): ApiPath<Uuid>,
    headers: HeaderMap,
    origin: Origin,
    ApiJson(changes): ApiJson<UserChanges>,
) -> Result<Response, ApiError> {
    let command = UpdateUser {
        user_id,
        changes,
        condition: Condition::of(&headers),
        caller,
        origin,
    };
    let user = mediator::send(&accounts, command).await?;
    Ok(shown(user, "User updated successfully"))
}

/// What `If-Match` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    /// Nothing.
    None,
    /// One of these versions.
    Versions(Vec<i64>),
    /// Weak tags only, none of which ever matches.
    Weak,
}

impl Condition {
    fn of(headers: &HeaderMap) -> Self {
        let mut versions = Vec::new();
        let (mut some, mut all_weak) = (false, true);
        for value in headers.get_all(IF_MATCH) {
            some = true;
            let text = value.to_str().unwrap_or_default();
            if text.trim() == "*" {
                return Self::None;
            }
            // A weak tag never matches, and neither does one that is not ours.
            let tags = text.split(',').map(str::trim);
            all_weak &= tags.clone().all(|tag| tag.starts_with("W/"));
            let numbers = tags.filter_map(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse::<i64>().ok());
            versions.extend(numbers);
        }
        match some {
            true if all_weak => Self::Weak,
            true => Self::Versions(versions),
            false => Self::None,
        }
    }
}

/// The command.
struct UpdateUser {
    user_id: Uuid,
    changes: UserChanges,
    condition: Condition,
    caller: Caller,
    origin: Origin,
}

impl Request for UpdateUser {
    const NAME: &'static str = "UpdateUser";
    type Answer = User;
    type Error = ApiError;
}

impl Answer<UpdateUser> for Accounts {
    async fn answer(&self, command: UpdateUser) -> Result<User, ApiError> {
        let UpdateUser {
            user_id,
            changes,
            condition,
            caller,
            origin,
        } = command;
        if !caller.may_see(user_id) {
            return Err(unknown());
        }
        let changed =
            || ApiError::of(StatusCode::PRECONDITION_FAILED).detail("The user has changed since it was read.");
        // Proxies that compress make them so.
        let weak = || {
            ApiError::of(StatusCode::PRECONDITION_FAILED)
                .detail("A weak ETag never matches in If-Match; send it without W/.")
        };
        let mut tx = self.context.store.begin().await?;
        check_caller(&tx, &caller).await?;
        // Whoever has no more than a token could shut its owner out for good.
        if changes.is_active.is_some() && !caller.is_admin() {
            return Err(ApiError::of(StatusCode::FORBIDDEN).detail("is_active is for administrators."));
        }
        let before = users_repository::find_in(&tx, user_id).await?.ok_or_else(unknown)?;
        let version = match condition {
            Condition::None => None,
            Condition::Versions(versions) if versions.contains(&before.version) => Some(before.version),
            Condition::Versions(_) => return Err(changed()),
            Condition::Weak => return Err(weak()),
        };
        let (members, changes) = of(changes);
        if members.is_empty() {
            tx.rollback().await?;
            return Ok(before);
        }
        if !users_repository::update(&tx, user_id, version, changes).await? {
            // Another request was faster: it has changed the user, or deleted it.
            return Err(if version.is_some() { changed() } else { unknown() });
        }
        let user = users_repository::find_in(&tx, user_id).await?.ok_or_else(unknown)?;
        if !user.is_active {
            sessions_repository::end_all(&tx, user_id, None, "disabled", now()).await?;
        }
        let event = AuditEvent {
            action: "user.update",
            actor: actor(&caller),
            user_id: Some(user_id),
            origin,
            detail: Some(members.join(", ")),
        };
        audit_repository::record(&tx, event).await?;
        let event = UserUpdated {
            user_id,
            is_active: user.is_active,
            version: user.version,
            updated_at: user.updated_at,
        };
        outbox::append(&mut tx, self.context.name, Message::of(&event)?).await?;
        tx.commit().await?;
        Ok(user)
    }
}

/// The names of the members that are given, and the changes.
fn of(changes: UserChanges) -> (Vec<&'static str>, Changes) {
    let given = [
        ("first_name", changes.first_name.is_some()),
        ("last_name", changes.last_name.is_some()),
        ("bio", changes.bio.is_some()),
        ("is_active", changes.is_active.is_some()),
    ];
    let members = given
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    let changes = Changes {
        first_name: changes.first_name,
        last_name: changes.last_name,
        bio: changes.bio,
        is_active: changes.is_active,
    };
    (members, changes)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn if_match_takes_the_tags_that_were_given_out() {
        for (text, versions) in [
            ("\"3\"", vec![3]),
            ("\"3\", \"4\"", vec![3, 4]),
            ("W/\"3\", \"4\"", vec![4]),
            ("3", vec![]),
            ("\"x\"", vec![]),
            ("", vec![]),
        ] {
            let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(text))]);
            assert_eq!(Condition::of(&headers), Condition::Versions(versions), "{text}");
        }
        let weak = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("W/\"3\", W/\"4\""))]);
        assert_eq!(Condition::of(&weak), Condition::Weak);
        let any = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("*"))]);
        assert_eq!(Condition::of(&any), Condition::None);
        assert_eq!(Condition::of(&HeaderMap::new()), Condition::None);
    }
}
