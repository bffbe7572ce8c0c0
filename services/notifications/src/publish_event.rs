//! `POST /api/events`: from the request to the transport. Nothing is written to the database unless
//! the transport is away or the client wants its answer remembered and the database is there.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{NaiveDate, Utc};
use contracts::{Details, NotificationRequested};
use posthaste::failure::chain;
use posthaste::idempotency::StoredResponse;
use posthaste::publish::PublishError;
use posthaste::{Message, MessageId, outbox};
use posthaste_host::ServiceContext;
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiJsonRaw, FieldError, IdempotencyKey, Validate, idempotent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most bytes of a request: the longest message with every character escaped, and its payload.
pub(crate) const BODY_BYTES: usize = 256 * 1024;

/// An event to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
// Without an event_id: who tries the same one out twice would see the first event only.
#[schema(example = json!({
    "user_id": "550e8400-e29b-41d4-a716-446655440000", "event_type": "user_registered",
    "message": "Welcome!", "payload": {"email": "test@example.com"}
}))]
pub(crate) struct PublishEvent {
    /// Whom it is about.
    #[schema(example = "550e8400-e29b-41d4-a716-446655440000")]
    user_id: Uuid,
    /// What happened, 1–100 characters.
    #[schema(min_length = 1, max_length = 100, example = "user_registered")]
    event_type: String,
    /// What to tell, 1–32 768 bytes.
    #[schema(min_length = 1, max_length = 32768, example = "Welcome!")]
    message: String,
    /// Details.
    #[schema(value_type = Option<Object>, example = json!({"email": "test@example.com"}))]
    payload: Option<Details>,
    /// The client's own id: an event that is sent twice under one id is recorded once.
    event_id: Option<Uuid>,
}

impl Validate for PublishEvent {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        let broken = NotificationRequested::broken_rules(&self.event_type, &self.message, self.payload.as_ref());
        errors.extend(
            broken
                .into_iter()
                .map(|(member, rule)| FieldError::new(format!("/{member}"), "value", rule)),
        );
        // Clients that leave their id unset all mean another event by the same one.
        if self.event_id.is_some_and(|id| id.is_nil()) {
            errors.push(FieldError::new("/event_id", "value", "must not be the nil UUID"));
        }
    }
}

/// The event is safe.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Published {
    #[schema(example = "Event published successfully")]
    message: &'static str,
    /// Under this id it will be found once it is recorded.
    event_id: Uuid,
}

/// Publishes an event.
///
/// Answered once the transport has confirmed the event or, while the transport is away, once the
/// outbox holds it.
#[utoipa::path(
    post,
    path = "/api/events",
    tag = "events",
    request_body = PublishEvent,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats get the first answer for 24 h")),
    responses(
        (status = 202, description = "Published", body = Published),
        (status = 400, description = "The event is invalid"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "An event about another user"),
        (status = 409, description = "The first request with this Idempotency-Key is still running"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The Idempotency-Key was used with another body"),
        (status = 503, description = "Nothing can take the event now"),
    )
)]
pub(crate) async fn publish_event(
    State(context): State<ServiceContext>,
    caller: Caller,
    key: Option<IdempotencyKey>,
    ApiJsonRaw(request, bytes): ApiJsonRaw<PublishEvent, 400>,
) -> Result<Response, ApiError> {
    caller.check_owner(&request.user_id.to_string())?;
    let message = message(request, key.as_ref(), &bytes)?;
    let answer = Published {
        message: "Event published successfully",
        event_id: message.id.0,
    };
    if key.is_none() {
        return publish_directly(&context, message, &answer).await;
    }
    let service = context.name;
    let spare = message.clone();
    let stored = StoredResponse {
        status: 202,
        body: serde_json::to_vec(&answer)?,
    };
    let taken = idempotent(
        &context.store,
        &caller.key_scope("notifications POST /api/events"),
        key.as_ref(),
        &bytes,
        |tx| {
            Box::pin(async move {
                outbox::append(tx, service, message).await?;
                Ok(stored)
            })
        },
    )
    .await;
    match taken {
        // It may have the event all the same: then it goes out twice, under one id.
        Err(away) if away.is_database_away() => publish_directly(&context, spare, &answer).await,
        taken => taken,
    }
}

async fn publish_directly(
    context: &ServiceContext,
    message: Message,
    answer: &Published,
) -> Result<Response, ApiError> {
    let published = context.publisher.publish(message).await;
    published.map_err(|error| refused(&error))?;
    Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
}

/// The message for `request`, whose body is `bytes`. A repeat with its `key` is the same event, also where nothing could be
/// stored of the first attempt; under the client's own id it is that anyway.
fn message(request: PublishEvent, key: Option<&IdempotencyKey>, bytes: &[u8]) -> Result<Message, ApiError> {
    let PublishEvent {
        user_id,
        event_type,
        message,
        payload,
        event_id,
    } = request;
    let event = NotificationRequested {
        user_id,
        event_type,
        message,
        payload,
    };
    let mut message = Message::of(&event)?;
    if let Some(id) = event_id.or_else(|| key.map(|key| id_for_key(key, bytes, Utc::now().date_naive()))) {
        message.id = MessageId(id);
    }
    Ok(message)
}

/// Another body is another event even where nobody can tell that its key was used before; and so is the same on another
/// day: keys are kept for one, ids of events for longer.
fn id_for_key(key: &IdempotencyKey, body: &[u8], day: NaiveDate) -> Uuid {
    const EVENTS: Uuid = Uuid::from_u128(0x7e0d_5c1c_93b4_4c57_a1f2_60d8_3b9e_4f16);
    // No key has a space in it.
    let name = [day.to_string().as_bytes(), b" ", key.as_str().as_bytes(), b" ", body].concat();
    Uuid::new_v5(&EVENTS, &name)
}

fn refused(error: &PublishError) -> ApiError {
    tracing::warn!(error = chain(error), "an event was not taken");
    ApiError::unavailable("Neither the transport nor the database can take the event now.")
}
