//! The three `GET /api/v1/messages/…`: what has arrived.

use axum::Json;
use axum::extract::State;
use posthaste::StoreError;
use posthaste::mediator::{self, Answer, Request};
use posthaste_host::KeysetCursor;
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiPath, ApiQuery, FieldError, Validate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::Messages;
use crate::messages_repository::{self, StoredMessage};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// Which part of the list to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Most messages to answer, 1–1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl Validate for PageQuery {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
            errors.push(FieldError::new("/limit", "value", "must be 1 to 1000"));
        }
        if let Some(Err(error)) = self.cursor.as_deref().map(str::parse::<KeysetCursor>) {
            errors.push(FieldError::new("/cursor", "value", error.to_string()));
        }
    }
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesPage {
    #[schema(example = true)]
    success: bool,
    #[schema(example = "Retrieved 1 messages")]
    message: String,
    /// Newest first.
    data: Vec<StoredMessage>,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

/// One message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OneMessage {
    #[schema(example = true)]
    success: bool,
    #[schema(example = "Retrieved message")]
    message: &'static str,
    data: StoredMessage,
}

/// Lists messages, newest first; where tokens are asked for, a user's own.
#[utoipa::path(
    get,
    path = "/api/v1/messages",
    tag = "messages",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of messages", body = MessagesPage),
        (status = 401, description = "No valid access token"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_messages(
    State(messages): State<Messages>,
    caller: Caller,
    ApiQuery(page): ApiQuery<PageQuery>,
) -> Result<Json<MessagesPage>, ApiError> {
    let sender = caller.confined_to().map(|user_id| user_id.to_string());
    Ok(Json(mediator::send(&messages, ListMessages { sender, page }).await?))
}

/// Lists the messages of one sender, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/messages/sender/{sender}",
    tag = "messages",
    params(("sender" = String, Path, description = "Who sent them"), PageQuery),
    responses(
        (status = 200, description = "A page of messages; empty for a sender who sent none", body = MessagesPage),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's messages"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_messages_of_sender(
    State(messages): State<Messages>,
    caller: Caller,
    ApiPath(sender): ApiPath<String>,
    ApiQuery(page): ApiQuery<PageQuery>,
) -> Result<Json<MessagesPage>, ApiError> {
    caller.check_owner(&sender)?;
    Ok(Json(
        mediator::send(
            &messages,
            ListMessages {
                sender: Some(sender),
                page,
            },
        )
        .await?,
    ))
}

/// One message, by the id that sending it answered.
#[utoipa::path(
    get,
    path = "/api/v1/messages/{message_id}",
    tag = "messages",
    params(("message_id" = Uuid, Path, description = "The message's id")),
    responses(
        (status = 200, description = "The message", body = OneMessage),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's message"),
        (status = 404, description = "Not stored, or not yet"),
        (status = 422, description = "The id is no UUID"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_message(
    State(messages): State<Messages>,
    caller: Caller,
    ApiPath(message_id): ApiPath<Uuid>,
) -> Result<Json<OneMessage>, ApiError> {
    match mediator::send(&messages, GetMessage(message_id)).await? {
        Some(data) => {
            caller.check_owner(&data.sender)?;
            Ok(Json(OneMessage {
                success: true,
                message: "Retrieved message",
                data,
            }))
        }
        None => Err(ApiError::not_found(
            "There is no message with this id, or it is not stored yet.",
        )),
    }
}

/// The query behind both lists.
struct ListMessages {
    sender: Option<String>,
    page: PageQuery,
}

impl Request for ListMessages {
    const NAME: &'static str = "ListMessages";
    type Answer = MessagesPage;
    type Error = StoreError;
}

impl Answer<ListMessages> for Messages {
    async fn answer(&self, ListMessages { sender, page }: ListMessages) -> Result<MessagesPage, StoreError> {
        let limit = page.limit.unwrap_or(LIMIT);
        // Checked before: an unreadable one does not come here.
        let after = page.cursor.and_then(|text| text.parse().ok());
        let mut data = messages_repository::list(&self.context.store, sender, after, limit + 1).await?;
        let next_cursor = KeysetCursor::cut(&mut data, limit as usize, |message| KeysetCursor {
            time: message.timestamp,
            id: message.message_id,
        });
        Ok(MessagesPage {
            success: true,
            message: format!("Retrieved {} messages", data.len()),
            data,
            next_cursor,
        })
    }
}

/// The query for one message.
struct GetMessage(Uuid);

impl Request for GetMessage {
    const NAME: &'static str = "GetMessage";
    type Answer = Option<StoredMessage>;
    type Error = StoreError;
}

impl Answer<GetMessage> for Messages {
    async fn answer(&self, GetMessage(id): GetMessage) -> Result<Option<StoredMessage>, StoreError> {
        messages_repository::find(&self.context.store, id).await
    }
}
