//! `DELETE /api/v1/users/{user_id}`: nothing that tells who it was is left, and the address is free.

use axum::Json;
use axum::extract::State;
use contracts::UserDeleted;
use posthaste::mediator::{self, Answer, Request};
use posthaste::message::now;
use posthaste::{Message, outbox};
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiPath};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Accounts;
use crate::audit_repository::{self, AuditEvent, Origin, actor};
use crate::check_caller::check_caller;
use crate::read_users::unknown;
use crate::{sessions_repository, users_repository};

/// The user is deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deletion {
    #[schema(example = true)]
    success: bool,
    #[schema(example = "User deleted successfully")]
    message: &'static str,
    data: Deleted,
}

/// That it is so.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    #[schema(example = true)]
    deleted: bool,
}

/// Deletes a user.
#[utoipa::path(
    delete,
    path = "/api/v1/users/{user_id}",
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 200, description = "Deleted", body = Deletion),
        (status = 401, description = "No valid token"),
        (status = 404, description = "There is none with this id, or not any more, or it is somebody else"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn delete_user(
    State(accounts): State<Accounts>,
    caller: Caller,
    ApiPath(user_id): ApiPath<Uuid>,
    origin: Origin,
) -> Result<Json<Deletion>, ApiError> {
    mediator::send(
        &accounts,
        DeleteUser {
            user_id,
            caller,
            origin,
        },
    )
    .await?;
    Ok(Json(Deletion {
        success: true,
        message: "User deleted successfully",
        data: Deleted { deleted: true },
    }))
}

/// The command.
struct DeleteUser {
    user_id: Uuid,
    caller: Caller,
    origin: Origin,
}

impl Request for DeleteUser {
    const NAME: &'static str = "DeleteUser";
    type Answer = ();
    type Error = ApiError;
}

impl Answer<DeleteUser> for Accounts {
    async fn answer(&self, command: DeleteUser) -> Result<(), ApiError> {
        let DeleteUser {
            user_id,
            caller,
            origin,
        } = command;
        if !caller.may_see(user_id) {
            return Err(unknown());
        }
        let mut tx = self.context.store.begin().await?;
        check_caller(&tx, &caller).await?;
        if !users_repository::delete(&tx, user_id).await? {
            return Err(unknown());
        }
        sessions_repository::end_all(&tx, user_id, None, "deleted", now()).await?;
        let event = AuditEvent {
            action: "user.delete",
            actor: actor(&caller),
            user_id: Some(user_id),
            origin,
            ..AuditEvent::default()
        };
        audit_repository::record(&tx, event).await?;
        let event = UserDeleted {
            user_id,
            deleted_at: now(),
        };
        outbox::append(&mut tx, self.context.name, Message::of(&event)?).await?;
        Ok(tx.commit().await?)
    }
}
