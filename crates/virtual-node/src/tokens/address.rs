//! Where lower pods reach the upper API server.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

/// Port when none is given, as of any HTTPS server.
const HTTPS: u16 = 443;

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The text is no address.
#[derive(Debug, thiserror::Error)]
#[error("give the address as host:port; an IPv6 address in brackets")]
pub struct ApiAddressError;

// === impl ApiAddress ===

impl ApiAddress {
    /// The address in a kubeconfig, if pods of another cluster may reach it: loopback is never more than the machine
    /// that we run on.
    #[must_use]
    pub fn of(server: &Uri) -> Option<Self> {
        let address = Self::split(server.authority()?)?;
        let ip = address.host.parse::<IpAddr>().ok();
        let local =
            address.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
        (!local).then_some(address)
    }

    fn split(authority: &Authority) -> Option<Self> {
        let host = authority.host().trim_matches(['[', ']']);
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(HTTPS),
        })
    }
}

impl FromStr for ApiAddress {
    type Err = ApiAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority: Authority = text.parse().map_err(|_| ApiAddressError)?;
        Self::split(&authority).ok_or(ApiAddressError)
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_tells_the_address_unless_it_is_local() {
        for (server, expected) in [
            ("https://api.example:6443", Some(("api.example", 6443))),
            ("https://192.0.2.1", Some(("192.0.2.1", 443))),
            ("https://[2001:db8::1]:6443/path", Some(("2001:db8::1", 6443))),
            ("https://127.0.0.1:6443", None),
            ("https://[::1]:6443", None),
            ("https://localhost:6443", None),
            ("https://0.0.0.0:6443", None),
        ] {
            let expected = expected.map(|(host, port)| ApiAddress {
                host: host.to_owned(),
                port,
            });
            assert_eq!(ApiAddress::of(&server.parse().unwrap()), expected, "{server}");
        }
    }

    #[test]
    fn a_flag_is_host_and_port() {
        assert_eq!(
            "api.example".parse::<ApiAddress>().unwrap().to_string(),
            "api.example:443"
        );
        for wrong in ["", "https://a", "a b", ":1"] {
            assert!(wrong.parse::<ApiAddress>().is_err(), "{wrong}");
        }
    }
}
