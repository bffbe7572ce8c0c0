//! Form bodies, for the few clients that a standard tells to send them.

use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::body::checked;
use super::explain_decode::decode;
use super::problem::{ApiError, Place};
use super::read_body::{BodyLimit, is_utf8, read_body};
use super::validate::{FieldError, Validate, has_control_character};

/// `application/x-www-form-urlencoded` decoded as `T` and checked; members that `T` does not know are ignored. 415, 413
/// and 422 as for JSON.
#[derive(Clone, Debug)]
pub struct ApiForm<T>(pub T);

impl<S: Sync, T: DeserializeOwned + Validate> FromRequest<S> for ApiForm<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let mut kinds = head.headers.get_all(CONTENT_TYPE).iter();
        let is_form = match (kinds.next(), kinds.next()) {
            (Some(kind), None) => kind.to_str().is_ok_and(is_form),
            _ => false,
        };
        if !is_form || head.headers.contains_key(CONTENT_ENCODING) {
            return Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = read_body(&head.headers, body, BodyLimit::of(&head.extensions)).await?;
        let refused = |field| ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, vec![field]).place(Place::Body);
        if std::str::from_utf8(&bytes).is_err() {
            return Err(ApiError::of(StatusCode::BAD_REQUEST).detail("The body is not UTF-8."));
        }
        if form_urlencoded::parse(&bytes)
            .any(|(name, value)| [name, value].iter().any(|text| has_control_character(text)))
        {
            return Err(refused(FieldError::new(
                "",
                "value",
                "must not contain control characters",
            )));
        }
        let value = decode(serde_urlencoded::Deserializer::new(form_urlencoded::parse(&bytes))).map_err(refused)?;
        Ok(Self(checked::<T, 422>(Place::Body, value)?))
    }
}

fn is_form(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let form = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    form && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => is_utf8(value),
        _ => true,
    })
}
