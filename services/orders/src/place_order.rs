//! `POST /api/v1/orders`: the order goes into the outbox, in one commit with its idempotency key. With the
//! database away it goes straight to the transport: the key is the order's too, and processing knows it.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use contracts::{Amount, OrderCreated};
use posthaste::failure::chain;
use posthaste::idempotency::StoredResponse;
use posthaste::mediator::{self, Answer, Request};
use posthaste::{Message, outbox};
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiJsonRaw, FieldError, IdempotencyKey, Validate, idempotent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};

use crate::Orders;
use crate::order::{Pair, Status, id_for_key, refusal};
use crate::orders_repository;

/// An order to place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NewOrder {
    /// The order's id, 1–255 characters; one is made where it is absent.
    #[schema(min_length = 1, max_length = 255, example = "order-101")]
    order_id: Option<String>,
    /// Whose order, 1–255 characters.
    #[schema(min_length = 1, max_length = 255, example = "user-456")]
    user_id: String,
    /// A number or decimal string above 0, at most 2 decimals and 99999999.99.
    #[schema(schema_with = amount)]
    total_amount: Box<RawValue>,
    /// The client's name for this order, 1–255 characters; it may come as `Idempotency-Key` instead.
    #[schema(min_length = 1, max_length = 255, example = "unique-key-001")]
    idempotency_key: Option<String>,
    /// What is ordered.
    #[schema(value_type = Vec<serde_json::Value>, example = json!([]))]
    items: Box<RawValue>,
}

fn amount() -> OneOfBuilder {
    OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::Number))
        .item(ObjectBuilder::new().schema_type(Type::String))
        .description(Some(
            "A number or decimal string above 0, at most 2 decimals and 99999999.99.",
        ))
        .examples([serde_json::json!(99.99)])
}

impl Validate for NewOrder {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        let name = |name: Option<&String>| name.map_or(Ok(()), |name| OrderCreated::check_name(name));
        // Clients take these two for steps in a path, escaped or not: nobody could read such an order.
        if self.order_id.as_ref().is_some_and(|id| id == "." || id == "..") {
            errors.push(FieldError::new("/orderId", "value", "must not be . or .."));
        }
        let checks = [
            ("/orderId", name(self.order_id.as_ref())),
            ("/userId", name(Some(&self.user_id))),
            ("/totalAmount", Amount::of_json(&self.total_amount).map(drop)),
            ("/idempotencyKey", name(self.idempotency_key.as_ref())),
            ("/items", OrderCreated::check_items(&self.items)),
        ];
        for (pointer, checked) in checks {
            if let Err(rule) = checked {
                errors.push(FieldError::new(pointer, "value", rule.to_string()));
            }
        }
    }
}

/// The order is safe.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Placed {
    /// Under this id it will be found once it is processed.
    #[schema(example = "order-101")]
    order_id: String,
    /// `PENDING`.
    #[schema(value_type = String, example = "PENDING")]
    status: Status,
}

/// Places an order.
///
/// Answered once the order is in the outbox or, while the database is away, once the transport has confirmed it.
/// How it ends is published to the outcome queues.
#[utoipa::path(
    post,
    path = "/api/v1/orders",
    tag = "orders",
    request_body = NewOrder,
    params(("Idempotency-Key" = Option<String>, Header, description = "Takes the place of idempotencyKey; repeats get the first answer for 24 h")),
    responses(
        (status = 202, description = "Taken", body = Placed, headers(("Location" = String, description = "Where the order will be"))),
        (status = 400, description = "The body is no valid JSON"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "An order of another user"),
        (status = 409, description = "The first request with this key is still running, or the key or orderId is another order's, or both are another user's"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is no JSON"),
        (status = 422, description = "The order is invalid, or the key was used with another body"),
        (status = 503, description = "Nothing can take the order now"),
    )
)]
pub(crate) async fn place_order(
    State(orders): State<Orders>,
    caller: Caller,
    key: Option<IdempotencyKey>,
    ApiJsonRaw(order, bytes): ApiJsonRaw<NewOrder>,
) -> Result<Response, ApiError> {
    caller.check_owner(&order.user_id)?;
    let scope = caller.key_scope("orders POST /api/v1/orders");
    let command = PlaceOrder {
        order,
        key,
        bytes,
        scope,
    };
    mediator::send(&orders, command).await
}

/// The command.
struct PlaceOrder {
    order: NewOrder,
    key: Option<IdempotencyKey>,
    /// The body that the key belongs to.
    bytes: Bytes,
    /// Among whose keys the key is looked for.
    scope: String,
}

impl Request for PlaceOrder {
    const NAME: &'static str = "PlaceOrder";
    type Answer = Response;
    type Error = ApiError;
}

impl Answer<PlaceOrder> for Orders {
    async fn answer(&self, command: PlaceOrder) -> Result<Response, ApiError> {
        let PlaceOrder {
            order,
            key,
            bytes,
            scope,
        } = command;
        let key = one_key(key, order.idempotency_key.clone())?;
        let event = event(order, &key)?;
        let mut message = Message::of(&event)?;
        message.topic.clone_from(&self.queues.incoming);
        let spare = message.clone();
        let placed = Placed {
            order_id: event.order_id.clone(),
            status: Status::Pending,
        };
        let body = serde_json::to_vec(&placed)?;
        let new = Pair {
            order_id: event.order_id,
            idempotency_key: event.idempotency_key,
        };
        let user_id = event.user_id;
        let service = self.context.name;
        let taken = idempotent(&self.context.store, &scope, Some(&key), &bytes, |tx| {
            Box::pin(async move {
                let known = orders_repository::known(tx, &new).await?;
                if let Some(why) = refusal(&new, &user_id, &known) {
                    return Err(ApiError::of(StatusCode::CONFLICT).detail(why));
                }
                outbox::append(tx, service, message).await?;
                Ok(StoredResponse { status: 202, body })
            })
        })
        .await;
        let mut response = match taken {
            Err(away) if away.status() == StatusCode::SERVICE_UNAVAILABLE => {
                self.publish_directly(spare, away).await?;
                (StatusCode::ACCEPTED, axum::Json(&placed)).into_response()
            }
            taken => taken?,
        };
        if let Ok(location) = HeaderValue::from_str(&location(&placed.order_id)) {
            response.headers_mut().insert(LOCATION, location);
        }
        Ok(response)
    }
}

impl Orders {
    /// The database is `away`, or did not say whether it has the message: then it goes out twice, under one key.
    async fn publish_directly(&self, message: Message, away: ApiError) -> Result<(), ApiError> {
        match self.context.publisher.publish(message).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "an order was not taken");
                Err(away)
            }
        }
    }
}

/// The key of the header or of the body; they may be the same one.
fn one_key(header: Option<IdempotencyKey>, body: Option<String>) -> Result<IdempotencyKey, ApiError> {
    let wrong = |kind, msg| {
        let field = FieldError::new("/idempotencyKey", kind, msg);
        Err(ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, vec![field]))
    };
    match (header, body) {
        (Some(header), Some(body)) if header.as_str() != body => {
            wrong("value", "differs from the header Idempotency-Key")
        }
        (Some(header), _) => Ok(header),
        (None, Some(body)) => Ok(IdempotencyKey::of_body(body)),
        (None, None) => wrong("missing", "is required, here or as the header Idempotency-Key"),
    }
}

fn event(order: NewOrder, key: &IdempotencyKey) -> Result<OrderCreated, ApiError> {
    let total_amount = Amount::of_json(&order.total_amount).map_err(|rule| {
        let field = FieldError::new("/totalAmount", "value", rule.to_string());
        ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, vec![field])
    })?;
    Ok(OrderCreated {
        order_id: order.order_id.unwrap_or_else(|| id_for_key(key.as_str())),
        user_id: order.user_id,
        total_amount,
        idempotency_key: key.as_str().to_owned(),
        items: order.items,
    })
}

/// Where the order will be; everything that is not unreserved in a URL is escaped.
fn location(order_id: &str) -> String {
    let mut path = "/api/v1/orders/".to_owned();
    for byte in order_id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::location;

    #[test]
    fn any_order_id_has_a_location() {
        assert_eq!(location("order-101"), "/api/v1/orders/order-101");
        assert_eq!(location("a/b é?"), "/api/v1/orders/a%2Fb%20%C3%A9%3F");
    }
}
