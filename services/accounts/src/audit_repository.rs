//! The table `audit_events`: who did what, from where. Rows are only ever added, in the transaction of what they tell;
//! they go when they are old.

use axum::extract::{FromRef, FromRequestParts};
use chrono::{DateTime, Utc};
use http::header::USER_AGENT;
use http::request::Parts;
use posthaste::correlation;
use posthaste::store::{Column, Insert, OnConflict};
use posthaste::{Store, StoreError, Tx};
use posthaste_host::auth::Caller;
use posthaste_host::http::{ApiError, ClientAddress, TrustedProxies};
use uuid::{NoContext, Timestamp, Uuid};

/// Most characters kept of a user agent.
const AGENT: usize = 255;

/// Where a request came from, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The client's address.
    pub ip: Option<String>,
    /// What the client says it is, without control characters and cut to 255 characters.
    pub user_agent: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Origin
where
    TrustedProxies: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ClientAddress(ip) = ClientAddress::from_request_parts(parts, state).await?;
        let agent = parts.headers.get(USER_AGENT);
        Ok(Self {
            ip: Some(ip.to_string()),
            user_agent: agent.map(|agent| {
                let text = String::from_utf8_lossy(agent.as_bytes());
                text.chars().filter(|c| !c.is_control()).take(AGENT).collect()
            }),
        })
    }
}

/// How `caller` is named as an actor.
pub(crate) fn actor(caller: &Caller) -> Option<String> {
    Some(match caller {
        Caller::Anybody => "anybody".to_owned(),
        Caller::User(principal) => principal.user_id.to_string(),
        Caller::Key(holder) => format!("api key {}", holder.id),
    })
}

/// Something that happened to an account.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditEvent {
    /// What: `user.register`, `user.login`.
    pub action: &'static str,
    /// Who did it: a user's id, an API key's, `anonymous` without a token, `anybody` where none is asked for.
    pub actor: Option<String>,
    /// To whose account.
    pub user_id: Option<Uuid>,
    /// From where.
    pub origin: Origin,
    /// What else is worth knowing; never a secret and never an address.
    pub detail: Option<String>,
}

const INSERT: Insert = Insert {
    table: "audit_events",
    columns: &[
        Column::Plain("id"),
        Column::Now("at"),
        Column::Plain("action"),
        Column::Plain("actor"),
        Column::Plain("user_id"),
        Column::Plain("ip"),
        Column::Plain("user_agent"),
        Column::Plain("correlation_id"),
        Column::Plain("detail"),
    ],
    on_conflict: OnConflict::Fail,
    returning: None,
};

/// Adds `event`; it is recorded if and only if `tx` commits.
pub(crate) async fn record(tx: &Tx, event: AuditEvent) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let row = vec![
        dialect.uuid(Uuid::now_v7()),
        event.action.into(),
        event.actor.into(),
        dialect.uuid_or_null(event.user_id),
        event.origin.ip.into(),
        event.origin.user_agent.into(),
        correlation::current().into(),
        event.detail.into(),
    ];
    INSERT.run(tx, vec![row]).await?;
    Ok(())
}

/// Removes at most `most` records from before `at`; answers whether there may be more. Their ids begin with the time.
pub(crate) async fn purge(store: &Store, at: DateTime<Utc>, most: i64) -> Result<bool, StoreError> {
    let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
    let mut first = *Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0)).as_bytes();
    // What stands behind the time and the version is random; the lowest id of that moment has none of it.
    first[7..].fill(0);
    let dialect = store.dialect();
    let sql = "SELECT id FROM audit_events WHERE id < $1 ORDER BY id LIMIT $2";
    let rows = store
        .query(sql, vec![dialect.uuid(Uuid::from_bytes(first)), most.into()])
        .await?;
    let ids = rows.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
    if !ids.is_empty() {
        let sql = "DELETE FROM audit_events WHERE id {in:$1}";
        store.execute(sql, vec![dialect.uuids(ids)]).await?;
    }
    Ok(rows.len() as i64 == most)
}
