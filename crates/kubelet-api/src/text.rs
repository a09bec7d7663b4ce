//! Answers in plain text, as a kubelet gives them: the API server turns them into a `Status`.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};

/// What Go's `http.Error` sets, so that no browser guesses a type.
const NO_SNIFF: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-content-type-options"),
    HeaderValue::from_static("nosniff"),
);

/// `body` as plain text with `status`.
pub(crate) fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    typed(status, "text/plain; charset=utf-8", body)
}

/// `body` in the Prometheus text format.
pub(crate) fn exposition(body: impl Into<Body>) -> Response {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// `body` with a content type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(NO_SNIFF.0, NO_SNIFF.1);
    response
}
