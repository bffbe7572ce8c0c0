//! Whether a request names this process. A page of anybody's can give its own name the address of this machine or network
//! (DNS rebinding) and then read from a service that lets everybody in, as a page of the same site; but its requests
//! carry that name.

use std::collections::BTreeSet;
use std::net::IpAddr;
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
    /// `localhost`, addresses of this machine alone, and these in lower case.
    Known(Arc<BTreeSet<String>>),
}

impl OwnNames {
    /// Any name where tokens are asked for. Else, whatever the address: a container's is reachable from the machine it
    /// runs on, and a machine's from the network that a browser is in.
    pub fn of(config: &Config) -> Self {
        if config.auth != Auth::Open {
            return Self(Names::Any);
        }
        let public = config
            .settings
            .get("PUBLIC_URL")
            .and_then(|url| url.parse::<Uri>().ok());
        let public = public.as_ref().and_then(Uri::host).map(str::to_ascii_lowercase);
        let listed = config
            .settings
            .get("ALLOWED_HOSTS")
            .unwrap_or_default()
            .to_ascii_lowercase();
        let listed = listed.split(',').map(str::trim).filter(|name| !name.is_empty());
        let bound = config.listen.ip();
        // An address names nobody else's page.
        let bound = (!bound.is_unspecified()).then(|| bound.to_string());
        Self(Names::Known(Arc::new(
            listed.map(str::to_owned).chain(public).chain(bound).collect(),
        )))
    }

    /// The names of this machine alone.
    pub fn loopback() -> Self {
        Self(Names::Known(Arc::default()))
    }

    fn contain(&self, host: &str) -> bool {
        let Names::Known(names) = &self.0 else {
            return true;
        };
        let host = host.to_ascii_lowercase();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<IpAddr>();
        host == "localhost" || names.contains(host) || address.is_ok_and(|address| address.is_loopback())
    }

    /// A request has named the host in one place or two, or (HTTP/1.0, no browser) in none.
    fn allow(&self, request: &Request) -> bool {
        let header = request.headers().get(HOST).map(|value| value.to_str().ok());
        let header = header.map(|text| text.and_then(|text| text.parse::<Authority>().ok()));
        let told = header.is_none_or(|authority| authority.is_some_and(|named| self.contain(named.host())));
        told && request.uri().host().is_none_or(|host| self.contain(host))
    }
}

/// 421 for a request to another host.
pub(crate) async fn check_host(State(names): State<OwnNames>, request: Request, next: Next) -> Response {
    if names.allow(&request) {
        return next.run(request).await;
    }
    tracing::debug!("a request to another host was refused");
    ApiError::of(StatusCode::MISDIRECTED_REQUEST)
        .detail("This process answers as localhost and 127.0.0.1; ALLOWED_HOSTS and PUBLIC_URL add names.")
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
        let known = |names: &[&str]| {
            OwnNames(Names::Known(Arc::new(
                names.iter().map(|&name| name.to_owned()).collect(),
            )))
        };
        let names = known(&["accounts.example", "accounts-api", "10.1.2.3"]);
        for own in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:1",
            "127.0.0.1",
            "[::1]",
            "[::1]:8000",
            "127.8.9.1",
            "Accounts.Example:443",
            "accounts-api:8000",
            "10.1.2.3:80",
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
            "accounts-api.evil.example",
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
        assert!(!OwnNames::loopback().contain("accounts.example"));
    }
}
