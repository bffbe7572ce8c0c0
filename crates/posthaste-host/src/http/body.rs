//! JSON request bodies.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::explain_decode::decode_json;
use super::problem::{ApiError, Place};
use super::read_body::{BodyLimit, read_body, require_json};
use super::strict_json::{self, Refused};
use super::validate::{FieldError, Validate};

/// A JSON object decoded as `T` and checked.
///
/// 415 for another media type, 413 beyond the [`BodyLimit`], 400 for what is not JSON, `INVALID` (422, or 400
/// where a service promises that) for JSON that is not a `T`: wrong types, keys given twice, control characters,
/// more than 64 levels, and whatever [`Validate`] finds.
#[derive(Clone, Debug)]
pub struct ApiJson<T, const INVALID: u16 = 422>(pub T);

/// [`ApiJson`] and the bytes that it came as: the fingerprint of an idempotent request.
#[derive(Clone, Debug)]
pub struct ApiJsonRaw<T, const INVALID: u16 = 422>(pub T, pub Bytes);

impl<S: Sync, T: DeserializeOwned + Validate, const INVALID: u16> FromRequest<S> for ApiJson<T, INVALID> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let ApiJsonRaw(value, _bytes) = ApiJsonRaw::<T, INVALID>::from_request(request, state).await?;
        Ok(Self(value))
    }
}

impl<S: Sync, T: DeserializeOwned + Validate, const INVALID: u16> FromRequest<S> for ApiJsonRaw<T, INVALID> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        require_json(&head.headers)?;
        let bytes = read_body(&head.headers, body, BodyLimit::of(&head.extensions)).await?;
        match strict_json::check(&bytes) {
            Ok(()) => {}
            Err(Refused::Malformed(how)) => {
                return Err(ApiError::of(StatusCode::BAD_REQUEST).detail(format!("The body {how}.")));
            }
            Err(Refused::Invalid(field)) => return Err(invalid::<INVALID>(Place::Body, vec![field])),
        }
        let value = decode_json(&bytes).map_err(|field| invalid::<INVALID>(Place::Body, vec![field]))?;
        Ok(Self(checked::<T, INVALID>(Place::Body, value)?, bytes))
    }
}

/// `value` if [`Validate`] finds nothing wrong with it.
pub(super) fn checked<T: Validate, const INVALID: u16>(place: Place, value: T) -> Result<T, ApiError> {
    let mut errors = Vec::new();
    value.validate(&mut errors);
    if errors.is_empty() {
        Ok(value)
    } else {
        Err(invalid::<INVALID>(place, errors))
    }
}

/// The answer `INVALID` to a request whose fields at `place` are not as they should be.
pub(super) fn invalid<const INVALID: u16>(place: Place, errors: Vec<FieldError>) -> ApiError {
    let status = StatusCode::from_u16(INVALID).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    ApiError::validation(status, errors).place(place)
}
