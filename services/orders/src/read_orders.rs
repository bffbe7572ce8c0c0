//! `GET /api/v1/orders`, `GET /api/v1/orders/{order_id}`: what was processed.

use axum::Json;
use axum::extract::State;
use contracts::OrderCreated;
use posthaste::StoreError;
use posthaste::mediator::{self, Answer, Request};
use posthaste_host::KeysetCursor;
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiPath, ApiQuery, FieldError, Validate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Orders;
use crate::order::{Order, Status};
use crate::orders_repository::{self, Cursor, Filter};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 100;

/// Which orders to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrdersQuery {
    /// Only orders of this user.
    #[param(min_length = 1, max_length = 255)]
    user_id: Option<String>,
    /// Only orders with this status: PENDING, PROCESSED or FAILED.
    #[param(example = "PROCESSED")]
    status: Option<String>,
    /// Most orders to answer, 1–100.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl Validate for OrdersQuery {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
            errors.push(FieldError::new("/limit", "value", "must be 1 to 100"));
        }
        if let Some(Err(rule)) = self.user_id.as_deref().map(OrderCreated::check_name) {
            errors.push(FieldError::new("/userId", "value", rule.to_string()));
        }
        if let Some(Err(rule)) = self.status.as_deref().map(str::parse::<Status>) {
            errors.push(FieldError::new("/status", "enum", rule));
        }
        if let Some(Err(error)) = self.cursor.as_deref().map(str::parse::<Cursor>) {
            errors.push(FieldError::new("/cursor", "value", error.to_string()));
        }
    }
}

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrdersPage {
    /// Newest first.
    items: Vec<Order>,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

/// Lists processed orders, newest first; where tokens are asked for, a user's own.
#[utoipa::path(
    get,
    path = "/api/v1/orders",
    tag = "orders",
    params(OrdersQuery),
    responses(
        (status = 200, description = "A page of orders", body = OrdersPage),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's orders were asked for"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_orders(
    State(orders): State<Orders>,
    caller: Caller,
    ApiQuery(mut query): ApiQuery<OrdersQuery>,
) -> Result<Json<OrdersPage>, ApiError> {
    match &query.user_id {
        Some(user_id) => caller.check_owner(user_id)?,
        None => query.user_id = caller.confined_to().map(|user_id| user_id.to_string()),
    }
    Ok(Json(mediator::send(&orders, ListOrders(query)).await?))
}

/// One order, once it is processed.
#[utoipa::path(
    get,
    path = "/api/v1/orders/{order_id}",
    tag = "orders",
    params(("order_id" = String, Path, description = "The order's id")),
    responses(
        (status = 200, description = "The order", body = Order),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's order"),
        (status = 404, description = "Not processed yet, refused, or never placed"),
        (status = 422, description = "The id has control characters"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_order(
    State(orders): State<Orders>,
    caller: Caller,
    ApiPath(order_id): ApiPath<String>,
) -> Result<Json<Order>, ApiError> {
    match mediator::send(&orders, GetOrder(order_id)).await? {
        Some(order) => {
            caller.check_owner(&order.user_id)?;
            Ok(Json(order))
        }
        None => Err(ApiError::not_found(
            "There is no order with this id, or it is not processed yet.",
        )),
    }
}

/// The query for a page.
struct ListOrders(OrdersQuery);

impl Request for ListOrders {
    const NAME: &'static str = "ListOrders";
    type Answer = OrdersPage;
    type Error = StoreError;
}

impl Answer<ListOrders> for Orders {
    async fn answer(&self, ListOrders(query): ListOrders) -> Result<OrdersPage, StoreError> {
        let limit = query.limit.unwrap_or(LIMIT);
        // Checked before: what cannot be read does not come here.
        let filter = Filter {
            user_id: query.user_id,
            status: query.status.and_then(|text| text.parse().ok()),
            after: query.cursor.and_then(|text| text.parse().ok()),
        };
        let mut items = orders_repository::list(&self.context.store, filter, limit + 1).await?;
        let next_cursor = KeysetCursor::cut(&mut items, limit as usize, |order| KeysetCursor {
            time: order.created_at,
            id: order.order_id.clone(),
        });
        Ok(OrdersPage { items, next_cursor })
    }
}

/// The query for one order.
struct GetOrder(String);

impl Request for GetOrder {
    const NAME: &'static str = "GetOrder";
    type Answer = Option<Order>;
    type Error = StoreError;
}

impl Answer<GetOrder> for Orders {
    async fn answer(&self, GetOrder(order_id): GetOrder) -> Result<Option<Order>, StoreError> {
        orders_repository::find(&self.context.store, &order_id).await
    }
}
