//! The `GET /api/v1/users…` routes.

use axum::Json;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use posthaste::StoreError;
use posthaste::mediator::{self, Answer, Request};
use posthaste_host::KeysetCursor;
use posthaste_host::auth::{Admin, Caller};
use posthaste_host::http::{ApiError, ApiPath, ApiQuery, FieldError, Validate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::Accounts;
use crate::create_user::OneUser;
use crate::email_address::EmailAddress;
use crate::user::{User, UserView};
use crate::users_repository::{self, Page};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 100;
/// Beyond it a page costs more than the list before it; a cursor does not.
const SKIP_MAX: u32 = 100_000;

/// Which part of the list to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Users to leave out at the beginning, at most 100000; not together with `cursor`.
    #[param(minimum = 0, maximum = 100_000, default = 0)]
    skip: Option<u32>,
    /// Most users to answer, 1–100.
    #[param(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// Only users who may sign in.
    #[param(default = false)]
    active_only: Option<bool>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl Validate for PageQuery {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
            errors.push(FieldError::new("/limit", "value", "must be 1 to 100"));
        }
        if self.skip.is_some_and(|skip| skip > SKIP_MAX) {
            errors.push(FieldError::new(
                "/skip",
                "value",
                "must be at most 100000; use cursor beyond that",
            ));
        }
        if self.skip.is_some() && self.cursor.is_some() {
            errors.push(FieldError::new("/skip", "value", "does not go together with cursor"));
        }
        if let Some(Err(error)) = self.cursor.as_deref().map(str::parse::<KeysetCursor>) {
            errors.push(FieldError::new("/cursor", "value", error.to_string()));
        }
    }
}

/// A page of users.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsersPage {
    #[schema(example = true)]
    success: bool,
    #[schema(example = "Retrieved 1 users")]
    message: String,
    /// Newest first.
    data: Vec<UserView>,
    /// How many the whole list has.
    total: i64,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

/// Lists users, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/users",
    tag = "users",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of users", body = UsersPage),
        (status = 401, description = "No valid token"),
        (status = 403, description = "Not an administrator's token"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_users(
    State(accounts): State<Accounts>,
    Admin(_caller): Admin,
    ApiQuery(page): ApiQuery<PageQuery>,
) -> Result<Json<UsersPage>, ApiError> {
    Ok(Json(mediator::send(&accounts, ListUsers(page)).await?))
}

/// One user.
#[utoipa::path(
    get,
    path = "/api/v1/users/{user_id}",
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 200, description = "The user", body = OneUser, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = 401, description = "No valid token"),
        (status = 404, description = "There is none with this id, or it is somebody else"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_user(
    State(accounts): State<Accounts>,
    caller: Caller,
    ApiPath(user_id): ApiPath<Uuid>,
) -> Result<Response, ApiError> {
    one(&caller, mediator::send(&accounts, GetUserById(user_id)).await?)
}

/// One user, by the address in any spelling.
#[utoipa::path(
    get,
    path = "/api/v1/users/email/{email}",
    tag = "users",
    params(("email" = String, Path, description = "The user's address")),
    responses(
        (status = 200, description = "The user", body = OneUser, headers(("ETag" = String, description = "Its version, for If-Match"))),
        (status = 401, description = "No valid token"),
        (status = 404, description = "There is none with this address, or it is somebody else"),
        (status = 422, description = "The address has control characters"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_user_by_email(
    State(accounts): State<Accounts>,
    caller: Caller,
    ApiPath(email): ApiPath<String>,
) -> Result<Response, ApiError> {
    one(&caller, mediator::send(&accounts, GetUserByEmail(email)).await?)
}

fn one(caller: &Caller, user: Option<User>) -> Result<Response, ApiError> {
    user.filter(|user| caller.may_see(user.id))
        .map(|user| shown(user, "User retrieved successfully"))
        .ok_or_else(unknown)
}

/// `user` as an answer with its version.
pub(crate) fn shown(user: User, message: &'static str) -> Response {
    let etag = [(ETAG, user.etag())];
    let body = OneUser {
        success: true,
        message,
        data: user.into(),
    };
    (etag, Json(body)).into_response()
}

/// What is answered for users that are not there, and for those that are none of the asking one's business.
pub(crate) fn unknown() -> ApiError {
    ApiError::not_found("There is no such user.")
}

/// The query for a page.
struct ListUsers(PageQuery);

impl Request for ListUsers {
    const NAME: &'static str = "ListUsers";
    type Answer = UsersPage;
    type Error = StoreError;
}

impl Answer<ListUsers> for Accounts {
    async fn answer(&self, ListUsers(query): ListUsers) -> Result<UsersPage, StoreError> {
        let page = Page {
            active_only: query.active_only.unwrap_or(false),
            // Checked before: an unreadable one does not come here.
            after: query.cursor.and_then(|text| text.parse().ok()),
            skip: query.skip.unwrap_or(0),
            limit: query.limit.unwrap_or(LIMIT),
        };
        let store = &self.context.store;
        let mut users = users_repository::list(store, &page).await?;
        let total = users_repository::count(store, page.active_only).await?;
        let next_cursor = KeysetCursor::cut(&mut users, page.limit as usize, |user| KeysetCursor {
            time: user.created_at,
            id: user.id,
        });
        Ok(UsersPage {
            success: true,
            message: format!("Retrieved {} users", users.len()),
            data: users.into_iter().map(UserView::from).collect(),
            total,
            next_cursor,
        })
    }
}

/// The query for one user.
pub(crate) struct GetUserById(pub Uuid);

impl Request for GetUserById {
    const NAME: &'static str = "GetUserById";
    type Answer = Option<User>;
    type Error = StoreError;
}

impl Answer<GetUserById> for Accounts {
    async fn answer(&self, GetUserById(id): GetUserById) -> Result<Option<User>, StoreError> {
        users_repository::find(&self.context.store, id).await
    }
}

/// The query for the user of an address.
struct GetUserByEmail(String);

impl Request for GetUserByEmail {
    const NAME: &'static str = "GetUserByEmail";
    type Answer = Option<User>;
    type Error = StoreError;
}

impl Answer<GetUserByEmail> for Accounts {
    async fn answer(&self, GetUserByEmail(email): GetUserByEmail) -> Result<Option<User>, StoreError> {
        match EmailAddress::parse(&email) {
            Ok(email) => users_repository::find_by_email(&self.context.store, &email).await,
            // Nobody has an address that is none.
            Err(_broken_rule) => Ok(None),
        }
    }
}
