//! Query parameters of streaming requests: a kubelet's on this side, the pod subresources' on the other. Pure.
//!
//! Commands travel as they came, still percent-encoded: nothing is decoded that need not be.

use form_urlencoded::{byte_serialize, parse};
use http::HeaderMap;

/// What a streaming request asks for is wrong. The texts are a kubelet's; the status is 400.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum StreamQueryError {
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    #[error("query parameter \"port\" is required")]
    NoPort,
    #[error("query parameter \"port\" cannot be empty")]
    EmptyPort,
    #[error("unable to parse {all:?} as a port: strconv.ParseUint: parsing {port:?}: {why}")]
    NotAPort {
        all: String,
        port: String,
        why: &'static str,
    },
    #[error("port {0:?} must be > 0")]
    PortZero(String),
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Header and subprotocol of port-forwards that carry SPDY in a WebSocket; their ports come in the streams.
const WEBSOCKET_PROTOCOL: &str = "sec-websocket-protocol";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// The query of `pods/exec` for the query of `/exec/…/{container}`.
pub(crate) fn exec_query(container: &str, query: &str) -> Result<String, StreamQueryError> {
    let mut lower = attach_query(container, query)?;
    for command in query.split('&').filter_map(|pair| pair.strip_prefix("command=")) {
        lower.push_str("&command=");
        lower.push_str(command);
    }
    Ok(lower)
}

/// The query of `pods/attach` for the query of `/attach/…/{container}`.
pub(crate) fn attach_query(container: &str, query: &str) -> Result<String, StreamQueryError> {
    let streams = Streams::of(query)?;
    let mut lower = String::from("container=");
    lower.extend(byte_serialize(container.as_bytes()));
    for (name, wanted) in [
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("tty", streams.tty),
    ] {
        // Written out also when false: the API defaults stdout and stderr of an attach to true.
        lower.push_str(&format!("&{name}={wanted}"));
    }
    Ok(lower)
}

/// The query of `pods/portforward` for the query of `/portForward/…`. Only the old WebSocket form names its ports
/// here, and must.
pub(crate) fn port_forward_query(headers: &HeaderMap, query: &str) -> Result<String, StreamQueryError> {
    let mut ports = Vec::new();
    for (_, value) in parse(query.as_bytes()).filter(|(key, _)| key == "port") {
        if value.is_empty() {
            return Err(StreamQueryError::EmptyPort);
        }
        for port in value.split(',') {
            match parse_port(port) {
                Ok(0) => return Err(StreamQueryError::PortZero(value.into_owned())),
                Ok(port) => ports.push(format!("ports={port}")),
                Err(why) => {
                    return Err(StreamQueryError::NotAPort {
                        port: port.to_owned(),
                        all: value.into_owned(),
                        why,
                    });
                }
            }
        }
    }
    if ports.is_empty() && needs_ports(headers) {
        return Err(StreamQueryError::NoPort);
    }
    Ok(ports.join("&"))
}

/// As Go reads a 16-bit number, and what it says when it cannot.
fn parse_port(port: &str) -> Result<u16, &'static str> {
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    port.parse().map_err(|_| "value out of range")
}

fn needs_ports(headers: &HeaderMap) -> bool {
    let websocket = headers
        .get(http::header::UPGRADE)
        .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let mut protocols = headers
        .get_all(WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    websocket && !protocols.any(|protocol| protocol.trim() == TUNNELLED)
}

// === impl Streams ===

impl Streams {
    /// `input=1&output=1&error=1&tty=1`: exactly `1` means yes, and of several the first counts. A terminal has no
    /// stderr of its own.
    fn of(query: &str) -> Result<Self, StreamQueryError> {
        let is_set = |name: &str| {
            parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .is_some_and(|(_, value)| value == "1")
        };
        let tty = is_set("tty");
        let streams = Self {
            stdin: is_set("input"),
            stdout: is_set("output"),
            stderr: is_set("error") && !tty,
            tty,
        };
        let any = streams.stdin || streams.stdout || streams.stderr;
        any.then_some(streams).ok_or(StreamQueryError::NoStream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn streams_and_commands_are_named_in_the_other_apis_words() {
        let none = Err(StreamQueryError::NoStream);
        let cases = [
            (
                "output=1",
                Ok("container=c&stdin=false&stdout=true&stderr=false&tty=false"),
            ),
            (
                "input=1&output=1&error=1",
                Ok("container=c&stdin=true&stdout=true&stderr=true&tty=false"),
            ),
            (
                "input=1&output=1&error=1&tty=1",
                Ok("container=c&stdin=true&stdout=true&stderr=false&tty=true"),
            ),
            ("error=1&tty=1", none.clone()),
            ("tty=1", none.clone()),
            ("", none.clone()),
            ("stdout=true", none.clone()),
            ("output=true", none.clone()),
            ("output=0&output=1", none),
            (
                "command=a&output=1&command=b%26c&command=",
                Ok(
                    "container=c&stdin=false&stdout=true&stderr=false&tty=false&command=a&command=b%26c&command=",
                ),
            ),
            (
                "output=1&command=%ff+%2B&xcommand=no",
                Ok("container=c&stdin=false&stdout=true&stderr=false&tty=false&command=%ff+%2B"),
            ),
        ];
        for (query, wanted) in cases {
            assert_eq!(exec_query("c", query), wanted.map(str::to_owned), "{query}");
        }
        assert!(
            !attach_query("c", "output=1&command=a")
                .unwrap()
                .contains("command")
        );
    }

    #[test]
    fn a_container_name_cannot_add_parameters() {
        let query = exec_query("c&command=rm", "output=1").unwrap();
        assert!(query.starts_with("container=c%26command%3Drm&"), "{query}");
    }

    #[test]
    fn ports_are_checked_and_listed_one_by_one() {
        let spdy = mk_headers(&[("upgrade", "SPDY/3.1")]);
        let old = mk_headers(&[
            ("upgrade", "WebSocket"),
            (WEBSOCKET_PROTOCOL, "v4.channel.k8s.io"),
        ]);
        let new = mk_headers(&[
            ("upgrade", "websocket"),
            (WEBSOCKET_PROTOCOL, "a, SPDY/3.1+portforward.k8s.io"),
        ]);
        let not = |all: &str, port: &str, why| {
            Err(StreamQueryError::NotAPort {
                all: all.to_owned(),
                port: port.to_owned(),
                why,
            })
        };
        let cases = [
            (&spdy, "", Ok("")),
            (&new, "", Ok("")),
            (&old, "", Err(StreamQueryError::NoPort)),
            (&old, "port=80", Ok("ports=80")),
            (&old, "port=80,81&port=82", Ok("ports=80&ports=81&ports=82")),
            (&old, "port=", Err(StreamQueryError::EmptyPort)),
            (&old, "port=0", Err(StreamQueryError::PortZero("0".to_owned()))),
            (&old, "port=65536", not("65536", "65536", "value out of range")),
            (&old, "port=80,,81", not("80,,81", "", "invalid syntax")),
            (&old, "port=-1", not("-1", "-1", "invalid syntax")),
            (&old, "port=%2B80", not("+80", "+80", "invalid syntax")),
            (&spdy, "port=http", not("http", "http", "invalid syntax")),
        ];
        for (headers, query, wanted) in cases {
            assert_eq!(
                port_forward_query(headers, query),
                wanted.map(str::to_owned),
                "{query}"
            );
        }
    }

    fn mk_headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    proptest! {
        #[test]
        fn commands_arrive_as_they_were_sent(commands in prop::collection::vec(".{0,12}", 0..6), container in ".{0,8}") {
            let mut query = form_urlencoded::Serializer::new("output=1".to_owned());
            query.extend_pairs(commands.iter().map(|command| ("command", command)));
            let lower = exec_query(&container, &query.finish()).unwrap();
            let got: Vec<_> = parse(lower.as_bytes()).into_owned().collect();
            let values = |name: &str| -> Vec<String> {
                got.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
            };
            prop_assert_eq!(values("command"), commands);
            prop_assert_eq!(values("container"), vec![container]);
        }

        #[test]
        fn no_query_panics(query in ".{0,64}") {
            let _ = exec_query("c", &query);
            let _ = port_forward_query(&HeaderMap::new(), &query);
        }
    }
}
