//! `GET /api/events`, `GET /api/events/{id}`: what was recorded.

use axum::Json;
use axum::extract::State;
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ApiPath, ApiQuery, FieldError, Validate};
use posthaste_host::{KeysetCursor, ServiceContext};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::processed_events_repository::{self, Filter, ProcessedEvent};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 100;

/// Which events to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events about this user.
    user_id: Option<Uuid>,
    /// Only events of this type.
    #[param(min_length = 1, max_length = 100)]
    event_type: Option<String>,
    /// Most events to answer, 1–100.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl Validate for EventsQuery {
    fn validate(&self, errors: &mut Vec<FieldError>) {
        if self.limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
            errors.push(FieldError::new("/limit", "value", "must be 1 to 100"));
        }
        if let Some(Err(rule)) = self.event_type.as_deref().map(|text| contracts::check_line(text, 100)) {
            errors.push(FieldError::new("/event_type", "value", rule.to_string()));
        }
        if let Some(Err(error)) = self.cursor.as_deref().map(str::parse::<KeysetCursor>) {
            errors.push(FieldError::new("/cursor", "value", error.to_string()));
        }
    }
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventsPage {
    /// Newest first.
    items: Vec<ProcessedEvent>,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

/// Lists recorded events, newest first; where tokens are asked for, a user's own.
#[utoipa::path(
    get,
    path = "/api/events",
    tag = "events",
    params(EventsQuery),
    responses(
        (status = 200, description = "A page of events", body = EventsPage),
        (status = 400, description = "A parameter is invalid"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's events were asked for"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn list_events(
    State(context): State<ServiceContext>,
    caller: Caller,
    ApiQuery(query): ApiQuery<EventsQuery, 400>,
) -> Result<Json<EventsPage>, ApiError> {
    if let Some(user_id) = query.user_id {
        caller.check_owner(&user_id.to_string())?;
    }
    let limit = query.limit.unwrap_or(LIMIT);
    // Checked above: an unreadable one does not come here.
    let after = query.cursor.and_then(|text| text.parse().ok());
    let filter = Filter {
        user_id: query.user_id.or(caller.confined_to()),
        event_type: query.event_type,
        after,
    };
    let mut items = processed_events_repository::list(&context.store, filter, limit + 1).await?;
    let next_cursor = KeysetCursor::cut(&mut items, limit as usize, |event| KeysetCursor {
        time: event.created_at,
        id: event.id,
    });
    Ok(Json(EventsPage { items, next_cursor }))
}

/// One recorded event, by the id that publishing it answered.
#[utoipa::path(
    get,
    path = "/api/events/{id}",
    tag = "events",
    params(("id" = Uuid, Path, description = "The event's id")),
    responses(
        (status = 200, description = "The event", body = ProcessedEvent),
        (status = 400, description = "The id is no UUID"),
        (status = 401, description = "No valid access token"),
        (status = 403, description = "Another user's event"),
        (status = 404, description = "Not recorded, or not yet"),
        (status = 503, description = "The database is away"),
    )
)]
pub(crate) async fn read_event(
    State(context): State<ServiceContext>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid, 400>,
) -> Result<Json<ProcessedEvent>, ApiError> {
    match processed_events_repository::find(&context.store, id).await? {
        Some(event) => {
            caller.check_owner(&event.user_id.to_string())?;
            Ok(Json(event))
        }
        None => Err(ApiError::not_found(
            "there is no event with this id, or it is not processed yet",
        )),
    }
}
