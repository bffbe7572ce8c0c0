//! Path and query parameters.

use std::borrow::Cow;
use std::collections::HashSet;

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, RawPathParams};
use http::request::Parts;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::body::{checked, invalid};
use super::explain_decode::decode;
use super::problem::{ApiError, Place};
use super::validate::{FieldError, Validate, has_control_character};

/// The parameters of the path, decoded as `T` and checked. `INVALID` (default 422) where they are not a `T`.
#[derive(Clone, Debug)]
pub struct ApiPath<T, const INVALID: u16 = 422>(pub T);

/// The query, decoded as `T` and checked. Parameters that `T` does not know are ignored; `INVALID` (default 422)
/// for a parameter given twice, control characters and values that do not fit.
#[derive(Clone, Debug)]
pub struct ApiQuery<T, const INVALID: u16 = 422>(pub T);

impl<S, T, const INVALID: u16> FromRequestParts<S> for ApiPath<T, INVALID>
where
    S: Send + Sync,
    T: DeserializeOwned + Validate + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refused = |field| invalid::<INVALID>(Place::Path, vec![field]);
        // A rejection of the raw parameters (not UTF-8) is one of the typed ones too.
        if let Ok(raw) = RawPathParams::from_request_parts(parts, state).await
            && let Some((name, _)) = raw.iter().find(|(_, value)| has_control_character(value))
        {
            return Err(refused(control_character(name)));
        }
        let Path(value) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|error| refused(explain(error)))?;
        checked::<T, INVALID>(Place::Path, value).map(Self)
    }
}

fn explain(rejection: PathRejection) -> FieldError {
    let PathRejection::FailedToDeserializePathParams(failed) = rejection else {
        return FieldError::new("", "path", "has a path that cannot be read");
    };
    match failed.into_kind() {
        ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
            FieldError::new(pointer(&key), "type", expected(expected_type))
        }
        ErrorKind::InvalidUtf8InPathParam { key } => FieldError::new(pointer(&key), "encoding", "must be UTF-8"),
        ErrorKind::DeserializeError { key, .. } => FieldError::new(pointer(&key), "value", "is not valid"),
        ErrorKind::ParseError { expected_type, .. } => FieldError::new("/path", "type", expected(expected_type)),
        _ => FieldError::new("/path", "value", "is not valid"),
    }
}

fn expected(rust_type: &str) -> &'static str {
    match rust_type.as_bytes().first() {
        Some(b'i' | b'u') => "must be an integer",
        Some(b'f') => "must be a number",
        Some(b'b') => "must be true or false",
        _ => "is not valid",
    }
}

impl<S, T, const INVALID: u16> FromRequestParts<S> for ApiQuery<T, INVALID>
where
    S: Sync,
    T: DeserializeOwned + Validate,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let value = parse(parts.uri.query().unwrap_or_default())
            .map_err(|field| invalid::<INVALID>(Place::Query, vec![field]))?;
        checked::<T, INVALID>(Place::Query, value).map(Self)
    }
}

fn parse<T: DeserializeOwned>(query: &str) -> Result<T, FieldError> {
    let mut names: HashSet<Cow<'_, str>> = HashSet::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if has_control_character(&name) || has_control_character(&value) {
            return Err(control_character(&name.replace(char::is_control, "")));
        }
        // What is not UTF-8 was decoded to this.
        if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
            return Err(FieldError::new(pointer(&name), "encoding", "must be UTF-8"));
        }
        if let Some(twice) = names.replace(name) {
            return Err(FieldError::new(pointer(&twice), "duplicate_key", "is given twice"));
        }
    }
    decode(serde_urlencoded::Deserializer::new(form_urlencoded::parse(
        query.as_bytes(),
    )))
}

fn control_character(name: &str) -> FieldError {
    FieldError::new(
        pointer(name),
        "control_character",
        "must not contain control characters",
    )
}

fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Page {
        limit: Option<u16>,
        sender: Option<String>,
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        let page: Page = parse("limit=5&other=%41&sender=a+b%2F").unwrap();
        assert_eq!(
            page,
            Page {
                limit: Some(5),
                sender: Some("a b/".to_owned())
            }
        );
        assert_eq!(
            parse::<Page>("").unwrap(),
            Page {
                limit: None,
                sender: None
            }
        );
    }

    #[test]
    fn names_the_parameter_it_refuses() {
        let cases = [
            ("limit=x", "/limit", "value"),
            ("limit=-1", "/limit", "value"),
            ("limit=", "/limit", "value"),
            ("limit=1&limit=1", "/limit", "duplicate_key"),
            ("other=1&other=2", "/other", "duplicate_key"),
            ("sender=%00", "/sender", "control_character"),
            ("sender%00=1", "/sender", "control_character"),
            ("sender=%ff", "/sender", "encoding"),
        ];
        for (query, pointer, kind) in cases {
            let error = parse::<Page>(query).unwrap_err();
            assert_eq!((&*error.pointer, error.kind), (pointer, kind), "{query}");
        }
    }
}
