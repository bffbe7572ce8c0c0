//! `POST /api/v1/messages/send`: the event goes into the outbox, in one commit with the idempotency
//! key, and from there to the topic.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use contracts::{Details, MessageSent, SentMessage, check_line, check_text};
use posthaste::failure::chain;
use posthaste::idempotency::StoredResponse;
use posthaste::mediator::{self, Answer, Request};
use posthaste::message::now;
use posthaste::publish::PublishError;
use posthaste::{Message, MessageId, correlation, outbox};
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiJsonRaw, FieldError, IdempotencyKey, Validate, idempotent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Messages;

/// Most bytes of a request: the longest message with every character escaped, and its metadata.
pub(crate) const BODY_BYTES: usize = 64 * 1024;

/// A message to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMessage {
    /// Its text, 1–1000 characters.
    #[schema(min_length = 1, max_length = 1000, example = "Hello, world!")]
    content: String,
    /// Who sends it, 1–100 characters; messages of one sender keep their order.
    #[schema(min_length = 1, max_length = 100, example = "ann")]
    sender: String,
    /// Details.
    #[schema(value_type = Option<Object>, example = json!({"channel": "general"}))]
    metadata: Option<Details>,
}

impl Validate for NewMessage {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        let metadata = self.metadata.as_ref().map_or(Ok(()), Details::check);
        let checks = [
            ("/content", check_text(&self.content, 1000)),
            ("/sender", check_line(&self.sender, 100)),
            ("/metadata", metadata),
        ];
        for (pointer, checked) in checks {
            if let Err(rule) = checked {
                errors.push(FieldError::new(pointer, "value", rule.to_string()));
            }
        }
    }
}

/// The message is safe.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SendAnswer {
    #[schema(example = true)]
    success: bool,
    /// Names the transport.
    #[schema(example = "Message sent to Kafka successfully")]
    message: String,
    data: SentData,
}

/// The message as it was sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentData {
    /// Under this id it will be found once it is stored.
    message_id: Uuid,
    content: String,
    sender: String,
    timestamp: DateTime<Utc>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Details>,
}

/// Sends a message.
///
/// Answered once the message is in the outbox; the relay carries it to the transport.
#[utoipa::path(
    post,
    path = "/api/v1/messages/send",
    tag = "messages",
    request_body = NewMessage,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats get the first answer for 24 h")),
    responses(
        (status = 200, description = "Sent", body = SendAnswer),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "A message of another sender"),
        (status = 409, description = "The first request with this Idempotency-Key is still running"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The message is invalid, or the Idempotency-Key was used with another body"),
        (status = 503, description = "Nothing can take the message now"),
    )
)]
pub(crate) async fn send_message(
    State(messages): State<Messages>,
    caller: Caller,
    key: Option<IdempotencyKey>,
    ApiJsonRaw(message, bytes): ApiJsonRaw<NewMessage>,
) -> Result<Response, ApiError> {
    caller.check_owner(&message.sender)?;
    let command = SendMessage {
        message,
        key,
        bytes,
        caller,
    };
    mediator::send(&messages, command).await
}

/// The command.
struct SendMessage {
    message: NewMessage,
    key: Option<IdempotencyKey>,
    /// The body that the key belongs to.
    bytes: Bytes,
    caller: Caller,
}

impl Request for SendMessage {
    const NAME: &'static str = "SendMessage";
    type Answer = Response;
    type Error = ApiError;
}

impl Answer<SendMessage> for Messages {
    async fn answer(&self, command: SendMessage) -> Result<Response, ApiError> {
        let SendMessage {
            message,
            key,
            bytes,
            caller,
        } = command;
        let (message, answer) = self.event(message)?;
        // With a key it is always the outbox: the key's row needs a transaction of its own anyway.
        if key.is_none() {
            let publisher = &self.context.publisher;
            if self.outbox {
                publisher.append(message).await?;
            } else {
                publisher.publish(message).await.map_err(|error| refused(&error))?;
            }
            return Ok((StatusCode::OK, axum::Json(answer)).into_response());
        }
        let service = self.context.name;
        let body = serde_json::to_vec(&answer)?;
        idempotent(
            &self.context.store,
            &caller.key_scope("messages POST /api/v1/messages/send"),
            key.as_ref(),
            &bytes,
            |tx| {
                Box::pin(async move {
                    outbox::append(tx, service, message).await?;
                    Ok(StoredResponse { status: 200, body })
                })
            },
        )
        .await
    }
}

impl Messages {
    /// The event for `message` and what the client is told of it.
    fn event(
        &self,
        NewMessage {
            content,
            sender,
            metadata,
        }: NewMessage,
    ) -> Result<(Message, SendAnswer), serde_json::Error> {
        let id = MessageId::new();
        let sent = SentMessage {
            message_id: id.0,
            content,
            sender,
            timestamp: now(),
            metadata,
        };
        let data = SentData {
            message_id: sent.message_id,
            content: sent.content.clone(),
            sender: sent.sender.clone(),
            timestamp: sent.timestamp,
            metadata: sent.metadata.clone(),
        };
        let event = MessageSent::new(id, sent, correlation::current(), self.context.name);
        let mut message = Message::of(&event)?;
        if self.without_zones {
            message.body = event.without_zones()?;
        }
        message.id = id;
        message.time = event.occurred_at;
        let transport = self.context.broker.title();
        let answer = SendAnswer {
            success: true,
            message: format!("Message sent to {transport} successfully"),
            data,
        };
        Ok((message, answer))
    }
}

fn refused(error: &PublishError) -> ApiError {
    tracing::warn!(error = chain(error), "a message was not taken");
    ApiError::unavailable("Neither the transport nor the database can take the message now.")
}
