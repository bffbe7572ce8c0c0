//! Whether a request names this machine. A page of anybody's can give its own name the address 127.0.0.1 (DNS rebinding)
//! and then read from a service that lets everybody in, as a page of the same site; but its requests carry that name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::uri::Authority;
use http::{StatusCode, Uri};

use super::problem::ApiError;
use crate::config::{Auth, Config};

/// The names under which a process answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct OwnNames(Names);

#[derive(Clone, Debug)]
enum Names {
    Any,
    /// `localhost`, addresses of this machine alone, and the host of `PUBLIC_URL` in lower case.
    Loopback(Option<Arc<str>>),
}

impl OwnNames {
    /// Any name but where everybody on this machine and nobody else is let in: a process without tokens at `address`,
    /// which is only reachable from here.
    pub fn of(config: &Config, address: SocketAddr) -> Self {
        if config.auth != Auth::Open || !address.ip().is_loopback() {
            return Self(Names::Any);
        }
        let public = config.settings.get("PUBLIC_URL").and_then(|url| url.parse().ok());
        Self(Names::Loopback(public.as_ref().and_then(Uri::host).map(lower)))
    }

    fn contain(&self, host: &str) -> bool {
        let Names::Loopback(public) = &self.0 else {
            return true;
        };
        let host = lower(host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        *host == *"localhost" || Some(&host) == public.as_ref() || address.is_ok_and(|address| address.is_loopback())
    }

    /// A request has named the host in one place or two, or (HTTP/1.0, no browser) in none.
    fn allow(&self, request: &Request) -> bool {
        let header = request.headers().get(HOST).map(|value| value.to_str().ok());
        let header = header.map(|text| text.and_then(|text| text.parse::<Authority>().ok()));
        let told = header.is_none_or(|authority| authority.is_some_and(|named| self.contain(named.host())));
        told && request.uri().host().is_none_or(|host| self.contain(host))
    }
}

fn lower(host: &str) -> Arc<str> {
    host.to_ascii_lowercase().into()
}

/// 421 for a request to another host.
pub(crate) async fn check_host(State(names): State<OwnNames>, request: Request, next: Next) -> Response {
    if names.allow(&request) {
        return next.run(request).await;
    }
    tracing::debug!("a request to another host was refused");
    ApiError::of(StatusCode::MISDIRECTED_REQUEST)
        .detail("This machine answers as localhost and 127.0.0.1; PUBLIC_URL adds a name.")
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn allows(names: &OwnNames, uri: &str, host: Option<&[u8]>) -> bool {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        names.allow(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        let names = OwnNames(Names::Loopback(Some("accounts.example".into())));
        for own in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:1",
            "127.0.0.1",
            "[::1]",
            "[::1]:8000",
            "127.8.9.1",
            "Accounts.Example:443",
        ] {
            assert!(allows(&names, "/a", Some(own.as_bytes())), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example@localhost.x",
            "10.0.0.1",
            "[::ffff:10.0.0.1]",
            "0.0.0.0",
            "",
            "\u{e9}",
            "a b",
        ] {
            assert!(!allows(&names, "/a", Some(other.as_bytes())), "{other}");
        }
        assert!(allows(&names, "/a", None));
        assert!(!allows(&names, "http://evil.example/a", Some(b"localhost")));
        assert!(allows(&OwnNames(Names::Any), "/a", Some(b"evil.example")));
        assert!(!OwnNames(Names::Loopback(None)).contain("accounts.example"));
    }
}
