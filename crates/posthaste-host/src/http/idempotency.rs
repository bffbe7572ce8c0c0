//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07).

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use posthaste::idempotency::{Outcome, StoredResponse, Work, run};
use posthaste::{Store, Tx};

use super::problem::{ApiError, Place};
use super::validate::FieldError;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The request's key: 1 to 255 visible ASCII characters, as a quoted string or bare. 400 where it is anything else;
/// as `Option<IdempotencyKey>` it may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A key that came in the body; the caller has checked that it has 1 to 255 characters.
    pub fn of_body(key: String) -> Self {
        Self(key)
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match value.to_str().ok().and_then(parse) {
                Some(key) => Ok(Some(Self(key))),
                None => Err(refused("must be 1 to 255 visible ASCII characters")),
            },
            (Some(_), Some(_)) => Err(refused("is given twice")),
        }
    }
}

fn refused(msg: &'static str) -> ApiError {
    let field = FieldError::new("/Idempotency-Key", "header", msg);
    ApiError::validation(StatusCode::BAD_REQUEST, vec![field]).place(Place::Header)
}

/// A structured-field string (`"a\"b"`) or a bare token.
fn parse(text: &str) -> Option<String> {
    let text = text.trim();
    let key = match text.strip_prefix('"') {
        None if text.contains('"') => return None,
        None => text.to_owned(),
        Some(quoted) => {
            let mut key = String::with_capacity(quoted.len());
            let mut characters = quoted.strip_suffix('"')?.chars();
            while let Some(character) = characters.next() {
                key.push(match character {
                    '\\' => characters.next().filter(|next| matches!(next, '"' | '\\'))?,
                    '"' => return None,
                    other => other,
                });
            }
            key
        }
    };
    ((1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())).then_some(key)
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.headers)?.ok_or_else(|| refused("is required"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, ApiError> {
        Self::of(&parts.headers)
    }
}

/// Does `work` in a transaction that commits with the key, once per `key` within `scope` (service, route and, where
/// there is one, user). A repeat with the same `body` gets the first answer with `Idempotent-Replayed: true`.
/// Without a key `work` is simply done and committed.
///
/// # Errors
/// 422 for another body with the same key, 409 while the first request runs, what `work` answers, and the
/// database's own failures.
pub async fn idempotent<F>(
    store: &Store,
    scope: &str,
    key: Option<&IdempotencyKey>,
    body: &[u8],
    work: F,
) -> Result<Response, ApiError>
where
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, ApiError>,
{
    let Some(key) = key else {
        let mut tx = store.begin().await?;
        return match work(&mut tx).await {
            Ok(stored) => {
                tx.commit().await?;
                Ok(answer(stored))
            }
            Err(error) => {
                // Before the answer: the caller's next request must not wait for what this one has locked.
                drop(tx.rollback().await);
                Err(error)
            }
        };
    };
    match run(store, scope, key.as_str(), body, work).await? {
        Outcome::First(stored) => Ok(answer(stored)),
        Outcome::Replayed(stored) => {
            let mut response = answer(stored);
            response
                .headers_mut()
                .insert(&REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Outcome::Mismatch => Err(ApiError::of(StatusCode::UNPROCESSABLE_ENTITY)
            .detail("This Idempotency-Key was used with another request.")),
        Outcome::InFlight => {
            Err(ApiError::of(StatusCode::CONFLICT)
                .detail("The first request with this Idempotency-Key is still running."))
        }
    }
}

fn answer(stored: StoredResponse) -> Response {
    let Ok(status) = StatusCode::from_u16(stored.status) else {
        return ApiError::of(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    };
    let json = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, json)], Body::from(stored.body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quoted_and_bare_keys() {
        let long = "x".repeat(255);
        let good = [
            ("abc-1", "abc-1"),
            (r#""abc-1""#, "abc-1"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (" k ", "k"),
            (&long, &long),
        ];
        for (text, key) in good {
            assert_eq!(parse(text).as_deref(), Some(key), "{text}");
        }
        let bad = [
            "",
            "\"\"",
            "a b",
            "\"a",
            "a\"",
            "\"a\"b\"",
            r#""a\x""#,
            "é",
            "a\tb",
            &"x".repeat(256),
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
