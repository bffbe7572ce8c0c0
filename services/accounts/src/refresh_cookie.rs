//! The cookie with the refresh token: where it is set, how it is read, and who may make a browser send it.

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use posthaste_host::Settings;
use posthaste_host::http::ApiError;

/// 256 bits in base64url.
const TOKEN_LENGTH: usize = 43;

/// How this process sets and reads it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RefreshCookie {
    secure: bool,
    /// `PUBLIC_URL` without path: the one site whose pages may use it.
    site: Option<String>,
}

impl RefreshCookie {
    /// `__Host-refresh` with `Secure`; plain `refresh` where the process listens on loopback and `PUBLIC_URL` is not
    /// https, so that it works without TLS on one's own machine and nowhere else.
    pub fn of(settings: &Settings) -> Self {
        let site = settings.get("PUBLIC_URL").and_then(|url| {
            let origin = url::Url::parse(&url).ok()?.origin();
            origin.is_tuple().then(|| origin.ascii_serialization())
        });
        let https = site.as_ref().is_some_and(|site| site.starts_with("https:"));
        let address = settings.get("BIND_ADDRESS").unwrap_or_default();
        let loopback = address.eq_ignore_ascii_case("localhost")
            || address
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        Self {
            secure: https || !loopback,
            site,
        }
    }

    /// What becomes of the cookie where people reach the process without TLS by a name that is not their own machine's.
    pub fn warning(settings: &Settings) -> Option<String> {
        let url = url::Url::parse(&settings.get("PUBLIC_URL")?).ok()?;
        let own = match url.host()? {
            url::Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
        };
        let lost = Self::of(settings).secure && url.scheme() == "http" && !own;
        lost.then(|| {
            format!(
                "PUBLIC_URL is http://{}: the refresh cookie has Secure, and browsers send it over https only; people \
                 sign in there and are signed out after ACCESS_TOKEN_SECONDS",
                url.host_str().unwrap_or_default()
            )
        })
    }

    fn name(&self) -> &'static str {
        if self.secure { "__Host-refresh" } else { "refresh" }
    }

    /// `Set-Cookie` for `token`, which the browser forgets after `seconds`.
    ///
    /// # Errors
    /// Never for a token of ours.
    pub fn set(&self, token: &str, seconds: i64) -> Result<HeaderValue, ApiError> {
        let secure = if self.secure { "Secure; " } else { "" };
        let text = format!(
            "{}={token}; Path=/; {secure}HttpOnly; SameSite=Strict; Max-Age={}",
            self.name(),
            seconds.max(0)
        );
        HeaderValue::from_str(&text).map_err(|_unprintable| ApiError::of(StatusCode::INTERNAL_SERVER_ERROR))
    }

    /// `Set-Cookie` that makes the browser forget it.
    pub fn clear(&self) -> HeaderValue {
        HeaderValue::from_static(if self.secure {
            "__Host-refresh=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"
        } else {
            "refresh=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        })
    }

    /// The token that came along: `None` where there is no cookie, one that cannot be a token, or more than one of the
    /// name, of which one is somebody else's.
    pub fn read(&self, headers: &HeaderMap) -> Option<String> {
        let mut found = self.values(headers);
        let (token, None) = (found.next()?, found.next()) else {
            return None;
        };
        let right = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (token.len() == TOKEN_LENGTH && token.bytes().all(right)).then(|| token.to_owned())
    }

    /// Bytes, as browsers compare them: only blanks and tabs stand around a name. What looks like a blank beyond ASCII is
    /// part of another name, which a sister host may set although ours begins with `__Host-`.
    fn values<'a>(&self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let name = self.name().as_bytes();
        let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
        let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
        pairs.filter_map(move |pair| {
            // Another site's cookie may hold any bytes; it must not hide ours.
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (trim(&pair[..at]), trim(&pair[at + 1..]));
            // What is no text is no token.
            (key == name).then(|| std::str::from_utf8(value).unwrap_or_default())
        })
    }

    /// Whether a request that acts on the cookie comes from a page of ours or from no browser at all. A browser says
    /// where a request comes from; whoever says nothing has to send `X-Requested-With`, which no form can.
    ///
    /// # Errors
    /// 403 for other sites; 415 for a body that is no JSON.
    pub fn check_site(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        // Some clients give an empty body a type.
        if let Some(kind) = headers.get(CONTENT_TYPE).filter(|_| has_body(headers)) {
            let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            if !kind.trim().eq_ignore_ascii_case("application/json") {
                return Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE)
                    .detail("Send no body, or JSON with Content-Type: application/json."));
            }
        }
        let cookie = self.values(headers).next().is_some();
        match self.comes_from(headers) {
            From::Here => Ok(()),
            From::Unknown if !cookie || headers.contains_key("x-requested-with") => Ok(()),
            From::Unknown => Err(refused("Send the header X-Requested-With.")),
            From::Elsewhere => Err(refused("The request comes from another site.")),
        }
    }

    /// Whether a sign-in comes from a page of another site, which would sign its visitors in as somebody else.
    ///
    /// # Errors
    /// 403 if so.
    pub fn check_login(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self.comes_from(headers) {
            From::Elsewhere => Err(refused("The request comes from another site.")),
            From::Here | From::Unknown => Ok(()),
        }
    }

    fn comes_from(&self, headers: &HeaderMap) -> From {
        let text = |value: &HeaderValue| value.to_str().unwrap_or("?").to_owned();
        if let Some(site) = headers.get("sec-fetch-site").map(text) {
            return match site.as_str() {
                "same-origin" | "none" => From::Here,
                _ => From::Elsewhere,
            };
        }
        let Some(origin) = headers.get(ORIGIN).map(text) else {
            return From::Unknown;
        };
        let own = match &self.site {
            Some(site) => *site == origin,
            None => {
                let host = headers.get(HOST).map(text).unwrap_or_default();
                !host.is_empty() && origin == format!("http://{host}")
            }
        };
        if own { From::Here } else { From::Elsewhere }
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != b"0")
}

enum From {
    Here,
    Elsewhere,
    Unknown,
}

fn refused(detail: &'static str) -> ApiError {
    ApiError::of(StatusCode::FORBIDDEN).detail(detail)
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn cookie(secure: bool, site: Option<&str>) -> RefreshCookie {
        RefreshCookie {
            secure,
            site: site.map(str::to_owned),
        }
    }

    #[test]
    fn one_cookie_of_exactly_this_name_is_read() {
        let (token, other) = ("a".repeat(43), "b".repeat(43));
        let read = |lines: &[&str]| {
            let pairs: Vec<(&'static str, &str)> = lines.iter().map(|line| ("cookie", *line)).collect();
            cookie(true, None).read(&headers(&pairs))
        };
        let ours = format!("__Host-refresh={token}");
        assert_eq!(read(&[&ours]).as_deref(), Some(token.as_str()));
        assert_eq!(
            read(&[&format!("a=b; __host-refresh={other}; {ours}; refresh={other}")]),
            Some(token.clone())
        );
        assert_eq!(read(&[&format!("{ours}; __Host-refresh={other}")]), None);
        assert_eq!(read(&[&ours, &ours]), None);
        assert_eq!(read(&[&format!("a=b;\t {ours} ; c=d")]), Some(token.clone()));
        // A sister host may set cookies of these names, and browsers send them as they are.
        for blank in ["\u{2000}", "\u{85}", "\u{a0}", "\u{1680}", "\u{2028}", "\u{3000}"] {
            let theirs = format!("{blank}__Host-refresh={other}");
            assert_eq!(read(&[&theirs]), None, "{blank:?}");
            assert_eq!(read(&[&format!("{theirs}; {ours}")]), Some(token.clone()), "{blank:?}");
        }
        for wrong in [
            "__Host-refresh=",
            "__Host-refresh=abc",
            &format!("refresh={token}"),
            &format!("{ours}a"),
        ] {
            assert_eq!(read(&[wrong]), None, "{wrong}");
        }
    }

    #[test]
    fn a_browser_sends_it_for_our_own_pages_only() {
        let allowed = |pairs: &[(&'static str, &str)]| {
            let all = [&[("cookie", "__Host-refresh=x"), ("host", "good.example")], pairs].concat();
            cookie(true, Some("https://good.example"))
                .check_site(&headers(&all))
                .is_ok()
        };
        assert!(allowed(&[("sec-fetch-site", "same-origin")]));
        assert!(allowed(&[("origin", "https://good.example")]));
        assert!(allowed(&[("x-requested-with", "curl")]));
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert!(allowed(&[form, ("sec-fetch-site", "same-origin")]), "without a body");
        assert!(allowed(&[form, ("content-length", "0"), ("x-requested-with", "axios")]));
        for refused in [
            [("sec-fetch-site", "cross-site")].as_slice(),
            &[("sec-fetch-site", "same-site")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("x-requested-with", "x"),
                ("origin", "https://good.example"),
            ],
            &[("origin", "null")],
            &[("origin", "https://good.example.evil.example")],
            &[("origin", "http://good.example")],
            &[("origin", "https://evil.example"), ("x-requested-with", "x")],
            &[
                ("content-type", "text/plain"),
                ("content-length", "1"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[
                form,
                ("transfer-encoding", "chunked"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[form, ("content-length", "0")],
            &[],
        ] {
            assert!(!allowed(refused), "{refused:?}");
        }
        assert!(
            cookie(true, None).check_site(&headers(&[])).is_ok(),
            "nothing to act on"
        );
    }

    #[test]
    fn the_attributes_are_those_of_the_prefix() {
        let set = cookie(true, None).set("t", 5).unwrap();
        assert_eq!(
            set,
            "__Host-refresh=t; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=5"
        );
        assert_eq!(
            cookie(false, None).set("t", 5).unwrap(),
            "refresh=t; Path=/; HttpOnly; SameSite=Strict; Max-Age=5"
        );
    }
}
