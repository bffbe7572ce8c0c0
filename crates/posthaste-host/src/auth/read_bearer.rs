//! The one place where a token may stand: a single `Authorization: Bearer` header.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longer ones are refused before they are looked at.
pub(crate) const LONGEST: usize = 4096;

/// What stands in the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bearer<'a> {
    /// No header.
    Absent,
    /// Another scheme, or no token behind it.
    NoToken,
    /// A token, or what should be one.
    Token(&'a str),
    /// More than one header, or what cannot be a token.
    Unreadable,
}

/// Reads the token of a request.
pub(super) fn read_bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let header = match (all.next(), all.next()) {
        (None, _) => return Bearer::Absent,
        (Some(header), None) => header,
        // Which of them another hop looked at is anybody's guess.
        (Some(_), Some(_)) => return Bearer::Unreadable,
    };
    let Ok(text) = header.to_str() else {
        return Bearer::Unreadable;
    };
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Bearer::NoToken;
    }
    // A comma: two headers that a hop has joined.
    if token.len() > LONGEST || token.contains([' ', '\t', ',']) {
        return Bearer::Unreadable;
    }
    Bearer::Token(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        format!("{:?}", read_bearer(&headers))
    }

    #[test]
    fn takes_one_token_and_nothing_else() {
        assert_eq!(read(&[]), "Absent");
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(read(&[&format!("{scheme} a.b.c")]), "Token(\"a.b.c\")");
        }
        for value in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearera.b.c", "a.b.c"] {
            assert_eq!(read(&[value]), "NoToken", "{value}");
        }
        assert_eq!(read(&["Bearer a", "Bearer a"]), "Unreadable");
        assert_eq!(read(&["Bearer a, Bearer b"]), "Unreadable");
        assert_eq!(read(&[&format!("Bearer {}", "a".repeat(LONGEST + 1))]), "Unreadable");
    }
}
