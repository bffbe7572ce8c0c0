//! The layer in front of all routes of a process. Under `POSTHASTE_AUTH=enforced` a route needs a token unless it was
//! declared open; so does a path that no route knows. A service that says nothing about its routes is closed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::request::Parts;
use posthaste::{Store, api_keys};

use super::api_key::{KnownKeys, scope_of};
use super::guard::{forbidden, refused};
use super::read_bearer::{Bearer, read_bearer};
use super::{Caller, Guard};
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
    /// The databases of the process, by number.
    stores: Arc<Vec<(usize, Store)>>,
    keys: KnownKeys,
}

/// What is known of a route; without one, any valid access token opens it and no API key does.
#[derive(Clone, Debug, Default)]
struct Rule {
    /// The methods that need no token.
    open: Vec<Method>,
    /// Whether it is for administrators and API keys only.
    staff: bool,
    /// What API keys need.
    area: Option<Area>,
}

/// What scopes of API keys are about, and which databases know keys for it.
#[derive(Clone, Debug)]
struct Area {
    name: &'static str,
    stores: Vec<(usize, Store)>,
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
        Self::new(Guard::new(Auth::Open), Vec::new())
    }

    /// A gate of a process on `stores`.
    pub(crate) fn new(guard: Guard, stores: Vec<Store>) -> Self {
        Self {
            guard,
            rules: Arc::default(),
            stores: Arc::new(stores.into_iter().enumerate().collect()),
            keys: KnownKeys::default(),
        }
    }

    /// Opens `routes` to requests without a token.
    pub(crate) fn declare_open(&mut self, routes: impl IntoIterator<Item = OpenRoute>) {
        for (method, path) in routes {
            self.rule(path).open.push(method);
        }
    }

    /// Opens `paths` to API keys that database `store` knows, with the scopes `area:read` and `area:write`.
    pub(crate) fn declare_area<'p>(
        &mut self,
        area: &'static str,
        store: usize,
        paths: impl IntoIterator<Item = &'p String>,
    ) {
        let stores: Vec<_> = self.stores.iter().filter(|(at, _)| *at == store).cloned().collect();
        for path in paths {
            let stores = stores.clone();
            self.rule(path).area = Some(Area { name: area, stores });
        }
    }

    /// Keeps `path` for administrators and API keys of any database with the scope `area:read`.
    pub(crate) fn declare_staff(&mut self, area: &'static str, path: &str) {
        let stores = self.stores.to_vec();
        let rule = self.rule(path);
        rule.staff = true;
        rule.area = Some(Area { name: area, stores });
    }

    fn rule(&mut self, path: &str) -> &mut Rule {
        Arc::make_mut(&mut self.rules)
            .entry(known_as(path).to_owned())
            .or_default()
    }

    /// Whether it lets everybody through.
    pub(crate) fn is_open(&self) -> bool {
        self.guard.is_open()
    }

    /// Notes the caller for the route's own checks, so that a token is verified once.
    async fn admit(&self, parts: &mut Parts) -> Result<(), ApiError> {
        let path = parts.extensions.get::<MatchedPath>().cloned();
        let rule = path.as_ref().and_then(|path| self.rules.get(known_as(path.as_str())));
        let key = match read_bearer(&parts.headers) {
            Bearer::Token(token) if token.starts_with(api_keys::PREFIX) => Some(token),
            _ => None,
        };
        let caller = match key {
            Some(key) => self.admit_key(key, &parts.method, path.is_some(), rule).await?,
            None if rule.is_some_and(|rule| rule.is_open(&parts.method)) => return Ok(()),
            None => self.guard.caller(parts).await?,
        };
        if rule.is_some_and(|rule| rule.staff) && !caller.is_admin() {
            return Err(forbidden("This is for administrators."));
        }
        parts.extensions.insert(caller);
        Ok(())
    }

    async fn admit_key(
        &self,
        key: &str,
        method: &Method,
        exists: bool,
        rule: Option<&Rule>,
    ) -> Result<Caller, ApiError> {
        let area = rule.and_then(|rule| rule.area.as_ref());
        let stores = area.map_or(&*self.stores, |area| &area.stores);
        let holder = self.keys.find(stores, key).await.map_err(refused)?;
        let may = match area {
            Some(area) => holder.may(&scope_of(area.name, method)),
            // What nobody knows is not found; what no scope is about is for users.
            None => !exists || rule.is_some_and(|rule| rule.is_open(method)),
        };
        if !may {
            return Err(forbidden("The API key does not have the scope for this."));
        }
        Ok(Caller::Key(holder))
    }
}

/// With and without a slash at its end a path is one route, also where two are declared.
fn known_as(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
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
