//! The layer in front of all routes of a process. Under `POSTHASTE_AUTH=enforced` a route needs a token unless it was
//! declared open; so does a path that no route knows. A service that says nothing about its routes is closed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::request::Parts;

use super::Guard;
use super::guard::forbidden;
use crate::config::Auth;
use crate::http::ApiError;

/// A route that needs no token: its method and its pattern (`/users/{user_id}`). `GET` stands for `HEAD`, too.
pub type OpenRoute = (Method, &'static str);

/// Decides which requests reach a route. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    guard: Guard,
    /// By the route's pattern.
    rules: Arc<HashMap<String, Rule>>,
}

/// What is known of a route; without one, any valid token opens it.
#[derive(Clone, Debug, Default)]
struct Rule {
    /// The methods that need no token.
    open: Vec<Method>,
    /// Whether it is for administrators only.
    staff: bool,
}

impl Rule {
    fn is_open(&self, method: &Method) -> bool {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.open.contains(method)
    }
}

impl Gate {
    /// A gate that lets everybody through.
    pub fn open() -> Self {
        Self::new(Guard::new(Auth::Open))
    }

    pub(crate) fn new(guard: Guard) -> Self {
        Self {
            guard,
            rules: Arc::default(),
        }
    }

    /// Opens `routes` to requests without a token.
    pub(crate) fn declare_open(&mut self, routes: impl IntoIterator<Item = OpenRoute>) {
        let rules = Arc::make_mut(&mut self.rules);
        for (method, path) in routes {
            rules.entry(path.to_owned()).or_default().open.push(method);
        }
    }

    /// Keeps `path` for administrators.
    pub(crate) fn declare_staff(&mut self, path: &str) {
        let rules = Arc::make_mut(&mut self.rules);
        rules.entry(path.to_owned()).or_default().staff = true;
    }

    /// Whether it lets everybody through.
    pub(crate) fn is_open(&self) -> bool {
        self.guard.is_open()
    }

    /// Notes the caller for the route's own checks, so that a token is verified once.
    async fn admit(&self, parts: &mut Parts) -> Result<(), ApiError> {
        let path = parts.extensions.get::<MatchedPath>();
        let rule = path.and_then(|path| self.rules.get(path.as_str()));
        if rule.is_some_and(|rule| rule.is_open(&parts.method)) {
            return Ok(());
        }
        let caller = self.guard.caller(parts).await?;
        if rule.is_some_and(|rule| rule.staff) && !caller.is_admin() {
            return Err(forbidden("This is for administrators."));
        }
        parts.extensions.insert(caller);
        Ok(())
    }
}

/// The layer: 401 before anything else is said about the path.
pub(crate) async fn pass_gate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    // A body cannot be shared, so it waits beside.
    let (mut parts, body) = request.into_parts();
    match gate.admit(&mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refused) => refused.into_response(),
    }
}
