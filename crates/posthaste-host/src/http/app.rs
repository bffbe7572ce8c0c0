//! Everything that answers HTTP in a process, as one router.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use tower::Service;
use utoipa_axum::router::OpenApiRouter;

use super::describe_api::describe;
use super::pages::{OPEN_PAGES, pages};
use super::problem::ApiError;
use super::request_context::RequestContext;
use crate::auth::{Gate, pass_gate};

/// Puts together the services' `routes`, the `system` routes (`/health` and its like) and the pages for people.
///
/// Every path works with and without a slash at its end. What no route knows is a 404, another method a 405 with
/// `Allow`, both as problems. `title` names the process in `/` and its API document; `license` is an SPDX expression
/// for the API. `gate` stands in front of all but the pages: what it does not let through is a 401 or 403 before it is
/// a 404.
pub fn app(
    title: &str,
    version: &str,
    license: Option<&str>,
    routes: OpenApiRouter,
    system: Router,
    mut gate: Gate,
) -> Router {
    let (routes, document) = routes.split_for_parts();
    let openapi = describe(title, version, license, document);
    let inner = routes
        .merge(system)
        .merge(pages(title, version, openapi))
        .method_not_allowed_fallback(async || ApiError::of(StatusCode::METHOD_NOT_ALLOWED))
        .fallback(async || ApiError::not_found("There is nothing at this path."));
    let inner = if gate.is_open() {
        inner
    } else {
        gate.declare_open(OPEN_PAGES.map(|path| (Method::GET, path)));
        inner.layer(from_fn_with_state(gate, pass_gate))
    };
    let inner = inner.layer(RequestContext::new());
    inner.clone().fallback_service(OtherSlash { inner })
}

/// `routes` alone, without pages and without a gate.
pub(crate) fn bare_app(routes: Router) -> Router {
    routes
        .method_not_allowed_fallback(async || ApiError::of(StatusCode::METHOD_NOT_ALLOWED))
        .fallback(async || ApiError::not_found("There is nothing at this path."))
        .layer(RequestContext::new())
}

/// Tries a path that no route knows once more with its last slash added or removed. Routes are declared either way,
/// and a path that is known costs nothing.
#[derive(Clone)]
struct OtherSlash {
    inner: Router,
}

impl Service<Request> for OtherSlash {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = <Router as Service<Request>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(other) = other_slash(request.uri()) {
            *request.uri_mut() = other;
        }
        self.inner.call(request)
    }
}

fn other_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let other = match path.strip_suffix('/') {
        // `//` and `/a//` are no spelling of `/` and `/a`.
        Some(shorter) if shorter.is_empty() || shorter.ends_with('/') => return None,
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    };
    let target = match uri.query() {
        Some(query) => format!("{other}?{query}"),
        None => other,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_or_removes_one_slash() {
        let other = |uri: &str| other_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(other("/a").as_deref(), Some("/a/"));
        assert_eq!(other("/a/").as_deref(), Some("/a"));
        assert_eq!(other("/a/?x=/").as_deref(), Some("/a?x=/"));
        assert_eq!(other("/a%2Fb?q").as_deref(), Some("/a%2Fb/?q"));
        for none in ["/", "//", "/a//"] {
            assert_eq!(other(none), None, "{none}");
        }
    }
}
