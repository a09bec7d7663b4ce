//! Answers of the API server behind the node, made into a kubelet's.

use axum::response::Response;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use crate::text::text;

/// Most of an error's body that is read; a `Status` has a few hundred bytes.
const MAX_ERROR: usize = 64 << 10;

/// The status code of `response`, with the message of its `Status` object (or else its text) as plain text.
///
/// A 401 becomes a 502: it is our credentials that it speaks of, and callers would take it for a word about theirs.
pub(crate) async fn relay_error(response: http::Response<kube::client::Body>) -> Response {
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, MAX_ERROR).collect().await {
        Ok(body) => message(&body.to_bytes()),
        Err(error) => format!("the answer of the pod's cluster cannot be read: {error}"),
    };
    if parts.status == StatusCode::UNAUTHORIZED {
        let message = format!("the pod's cluster does not accept this node's credentials: {body}");
        return text(StatusCode::BAD_GATEWAY, message);
    }
    text(parts.status, body)
}

fn message(body: &[u8]) -> String {
    let status = serde_json::from_slice::<Value>(body).ok();
    let message = status.as_ref().and_then(|status| status.get("message")?.as_str());
    message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_status_is_what_users_see() {
        for (body, wanted) in [
            (
                r#"{"kind":"Status","message":"container c is waiting","code":400}"#,
                "container c is waiting",
            ),
            ("plain words", "plain words"),
            (r#"{"kind":"Status"}"#, r#"{"kind":"Status"}"#),
            ("[1]", "[1]"),
            ("", ""),
        ] {
            assert_eq!(message(body.as_bytes()), wanted, "{body}");
        }
    }
}
