//! The head of the request that is passed on. Pure.
//!
//! Only what belongs to the upgrade goes along. Above all no credentials: who the caller is was settled here, and the
//! client of the target adds its own.

use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use kube::client::Body;

/// Headers of the upgrade itself. All values of each are kept, in order: SPDY's protocol versions may come as
/// several headers.
const PASSED_ON: [HeaderName; 7] = [
    UPGRADE,
    HeaderName::from_static("x-stream-protocol-version"),
    HeaderName::from_static("sec-websocket-key"),
    HeaderName::from_static("sec-websocket-version"),
    SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("sec-websocket-extensions"),
    USER_AGENT,
];

/// What streams are made of. Others must not get through: after an upgrade to HTTP/2, which some proxies in front of API
/// servers offer, a caller would send requests of its own over a connection with our client certificate.
const PROTOCOLS: [&str; 2] = ["SPDY/3.1", "websocket"];
/// How a browser, which can set no header, shows its bearer token to an API server: as one more subprotocol.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The upgrade request for `path_and_query`.
///
/// # Errors
/// When the target is not a valid URI, or longer than the 64 KiB that the `http` crate allows.
pub(super) fn request(
    method: &Method,
    headers: &HeaderMap,
    path_and_query: &str,
) -> Result<Request<Body>, http::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path_and_query)
        .body(Body::empty())?;
    let passed = request.headers_mut();
    passed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in PASSED_ON {
        for value in headers.get_all(&name) {
            passed.append(name.clone(), value.clone());
        }
    }
    withhold_tokens(passed);
    Ok(request)
}

/// Takes bearer tokens out of the subprotocols. The API server before us passes them on when it knows its caller by a
/// certificate; the one behind us must not see them.
fn withhold_tokens(headers: &mut HeaderMap) {
    let is_token = |protocol: &str| protocol.trim_start().starts_with(BEARER_PROTOCOL);
    let values: Vec<HeaderValue> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for value in values {
        // What is not text is no token: the subprotocol has letters, digits, and signs of ASCII.
        let kept = match value.to_str() {
            Ok(text) if text.split(',').any(is_token) => {
                let kept: Vec<_> = text.split(',').filter(|protocol| !is_token(protocol)).collect();
                HeaderValue::from_str(kept.join(",").trim()).ok()
            }
            _ => Some(value),
        };
        if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, kept);
        }
    }
}

/// Whether the headers ask for an upgrade to one of the [`PROTOCOLS`] and nothing else.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let is_known = |value: &HeaderValue| {
        PROTOCOLS
            .iter()
            .any(|known| value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
    };
    let mut connection = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && headers.get_all(UPGRADE).iter().all(is_known)
        && connection.any(|value| {
            value
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_upgrade_goes_along_and_credentials_do_not() {
        let headers = mk_headers(&[
            ("host", "vn:10250"),
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
            ("origin", "https://example"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("x-forwarded-for", "10.0.0.1"),
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            (
                "x-stream-protocol-version",
                "v3.channel.k8s.io, v2.channel.k8s.io",
            ),
            ("user-agent", "kubectl"),
        ]);
        let request = request(&Method::POST, &headers, "/api/v1/x?y=1").unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/api/v1/x?y=1");
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["connection", "upgrade", "user-agent", "x-stream-protocol-version"]
        );
        let versions: Vec<_> = request
            .headers()
            .get_all("x-stream-protocol-version")
            .iter()
            .collect();
        assert_eq!(
            versions,
            ["v4.channel.k8s.io", "v3.channel.k8s.io, v2.channel.k8s.io"]
        );
    }

    #[test]
    fn a_token_among_the_subprotocols_stays_here() {
        const TOKEN: &str = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
        let of = |value: &'static str| {
            let headers = mk_headers(&[("sec-websocket-protocol", value)]);
            let request = request(&Method::GET, &headers, "/").unwrap();
            let values = request.headers().get_all("sec-websocket-protocol").iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for protocols in [
            format!("v4.channel.k8s.io, {TOKEN}"),
            format!("{TOKEN},v4.channel.k8s.io"),
            format!("{TOKEN}, v4.channel.k8s.io, {TOKEN}"),
        ] {
            assert_eq!(of(protocols.leak()), ["v4.channel.k8s.io"]);
        }
        assert_eq!(of(TOKEN), Vec::<String>::new());
        let others = "v5.channel.k8s.io,  base64.channel.k8s.io";
        assert_eq!(of(others), [others], "others stay as they came");
    }

    #[test]
    fn an_upgrade_needs_both_headers_and_a_protocol_of_streams() {
        for (headers, wanted) in [
            (
                mk_headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]),
                true,
            ),
            (
                mk_headers(&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")]),
                true,
            ),
            (
                mk_headers(&[("connection", "keep-alive"), ("upgrade", "websocket")]),
                false,
            ),
            (mk_headers(&[("connection", "Upgrade")]), false),
            (
                mk_headers(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]),
                true,
            ),
            (
                mk_headers(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]),
                false,
            ),
            (
                mk_headers(&[("connection", "Upgrade"), ("upgrade", "websocket, h2c")]),
                false,
            ),
            (
                mk_headers(&[
                    ("connection", "Upgrade"),
                    ("upgrade", "SPDY/3.1"),
                    ("upgrade", "h2c"),
                ]),
                false,
            ),
            (mk_headers(&[]), false),
        ] {
            assert_eq!(is_upgrade(&headers), wanted, "{headers:?}");
        }
    }

    #[test]
    fn a_target_that_is_too_long_is_an_error_not_a_panic() {
        assert!(
            request(
                &Method::GET,
                &HeaderMap::new(),
                &format!("/{}", "x".repeat(70_000))
            )
            .is_err()
        );
    }
}
