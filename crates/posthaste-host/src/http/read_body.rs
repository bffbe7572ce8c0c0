//! Reading a request's body up to a limit.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use super::problem::ApiError;
use super::serve::BodyTimeout;

/// Most bytes of a body; a route has its own with `.layer(axum::Extension(BodyLimit(n)))`.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit(pub usize);

impl BodyLimit {
    /// 64 kB.
    pub const DEFAULT: Self = Self(64 * 1024);

    /// The limit of a request.
    pub(super) fn of(extensions: &Extensions) -> usize {
        extensions.get::<Self>().unwrap_or(&Self::DEFAULT).0
    }
}

/// Bytes beyond the limit that are read and dropped, so that a client in the middle of sending gets to read
/// the answer instead of a reset connection.
const DISCARD: usize = 1024 * 1024;

/// Whether a request says that its body is JSON in UTF-8 as it is; otherwise 415.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let accepted = match (types.next(), types.next()) {
        (Some(one), None) => one.to_str().is_ok_and(is_json),
        _ => false,
    };
    let refused = |detail: &'static str| {
        let accept = HeaderValue::from_static("application/json");
        ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .detail(detail)
            .header(ACCEPT, accept)
    };
    if !accepted {
        return Err(refused(
            "Send JSON with Content-Type: application/json, and charset=utf-8 if any.",
        ));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(refused("Send the body without a Content-Encoding."));
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json"
        || essence
            .split_once('/')
            .is_some_and(|(kind, name)| !kind.is_empty() && name.len() > 5 && name.ends_with("+json"));
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => is_utf8(value),
        _ => true,
    })
}

/// Whether a `charset` is UTF-8, also as some write it.
pub(super) fn is_utf8(charset: &str) -> bool {
    let name = charset.trim().trim_matches('"');
    name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("utf8")
}

/// The whole body; 413 beyond `limit` bytes, however it is framed.
pub(super) async fn read_body(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit.saturating_add(DISCARD)) {
        return Err(too_large(limit));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else {
            continue;
        };
        total = total.saturating_add(data.len());
        if total > limit {
            discard(&mut body, limit.saturating_add(DISCARD).saturating_sub(total)).await;
            return Err(too_large(limit));
        }
        // Nearly every body is one frame and is not copied.
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

async fn discard(body: &mut Body, mut most: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(left) = most.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
            return;
        };
        most = left;
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::of(StatusCode::PAYLOAD_TOO_LARGE).detail(format!("The body may have {limit} bytes."))
}

/// The client stopped sending, sent no valid framing, or was too slow.
fn broken(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<BodyTimeout>() {
            return ApiError::of(StatusCode::REQUEST_TIMEOUT).detail("The body did not arrive in time.");
        }
        cause = error.source();
    }
    ApiError::of(StatusCode::BAD_REQUEST).detail("The body could not be read.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_json_media_types() {
        let good = [
            "application/json",
            "Application/JSON ; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/json; charset=utf8",
            "application/cloudevents+json",
            "application/json; profile=x",
        ];
        for text in good {
            assert!(is_json(text), "{text}");
        }
        let bad = [
            "",
            "json",
            "text/plain",
            "application/jsonp",
            "application/json; charset=latin1",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/+json",
            "/a+json",
        ];
        for text in bad {
            assert!(!is_json(text), "{text}");
        }
    }

    #[test]
    fn refuses_two_types_and_encodings() {
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::new();
        assert!(require_json(&headers).is_err());
        headers.append(CONTENT_TYPE, json.clone());
        assert!(require_json(&headers).is_ok());
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(require_json(&headers).is_err());
        headers.remove(CONTENT_ENCODING);
        headers.append(CONTENT_TYPE, json);
        assert!(require_json(&headers).is_err());
    }
}
