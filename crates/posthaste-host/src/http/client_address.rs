//! Where a request comes from, for limits and the audit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Once};

use axum::extract::{FromRef, FromRequestParts};
use http::HeaderMap;
use http::request::Parts;

use super::problem::ApiError;
use crate::config::{ConfigError, Settings};

/// The other end of the connection, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Whether it was said that somebody's `X-Forwarded-For` is not believed.
static FORWARDED_BY_NOBODY: Once = Once::new();

/// Most hops that are looked at.
const HOPS: usize = 32;

/// The address of the client: the connection's other end, or what the last proxy that is not ours has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// What is counted together: an IPv4 address, or the /64 that one IPv6 client has all addresses of.
    pub fn bucket(self) -> String {
        match self.0 {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        }
    }
}

/// The proxies whose `X-Forwarded-For` is believed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[Network]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u128,
    mask: u128,
}

impl TrustedProxies {
    /// Those that `TRUSTED_PROXIES` names.
    ///
    /// # Errors
    /// When one of them is no address and no network.
    pub fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let list = settings.get("TRUSTED_PROXIES").unwrap_or_default();
        let networks = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        let networks = networks.map(|text| {
            Network::parse(text).ok_or_else(|| {
                ConfigError::refused(format!(
                    "TRUSTED_PROXIES={list}: {text} is no address and no network; write 10.0.0.1 or 10.0.0.0/8"
                ))
            })
        });
        Ok(Self(networks.collect::<Result<_, _>>()?))
    }

    /// Whether `peer` is one of them.
    pub(super) fn trust(&self, peer: IpAddr) -> bool {
        self.contain(peer.to_canonical())
    }

    fn contain(&self, address: IpAddr) -> bool {
        let number = number(address);
        self.0.iter().any(|network| number & network.mask == network.address)
    }

    /// From right to left, as the hops have written it: what a client made up stands further left.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.contain(client) {
            if headers.contains_key("x-forwarded-for") {
                FORWARDED_BY_NOBODY.call_once(|| {
                    tracing::warn!(
                        "X-Forwarded-For comes from an address that TRUSTED_PROXIES does not name, and is not believed: \
                         if that is your proxy, all its clients count as one and share the limits of one"
                    );
                });
            }
            return client;
        }
        // Bytes: what a client sent of other kinds must not hide what the proxies wrote behind it.
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops.take(HOPS) {
            let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| read_hop(hop.trim())) else {
                break;
            };
            client = address.to_canonical();
            if !self.contain(client) {
                break;
            }
        }
        client
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u32>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let (width, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - (before + bits)).unwrap_or(0);
        Some(Self {
            address: number(address) & mask,
            mask,
        })
    }
}

/// IPv4 addresses as IPv6 has them.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5`.
fn read_hop(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.split(']').next());
    if let Some(inside) = inside {
        return inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    text.parse().ok().or_else(|| {
        let (address, _port) = text.split_once(':')?;
        address.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    })
}

impl<S: Sync> FromRequestParts<S> for ClientAddress
where
    TrustedProxies: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // Absent only where a router is called without a connection; those callers share one bucket.
        let peer = parts
            .extensions
            .get::<Peer>()
            .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
        Ok(Self(TrustedProxies::from_ref(state).client(peer, &parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let proxies = TrustedProxies(trusted.iter().map(|text| Network::parse(text).unwrap()).collect());
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn what_a_client_made_up_is_not_believed() {
        assert_eq!(client(&[], "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(
            client(&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1", "2.2.2.2, 10.0.0.9"]),
            "2.2.2.2"
        );
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1, rubbish"]), "10.1.2.3");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &[]), "10.1.2.3");
        assert_eq!(client(&["10.0.0.0/8"], "::ffff:10.1.2.3", &["2.2.2.2:80"]), "2.2.2.2");
        assert_eq!(client(&["fd00::/8"], "fd00::1", &["[2001:db8::5]:443"]), "2001:db8::5");
        assert_eq!(client(&["10.0.0.1"], "10.0.0.2", &["1.1.1.1"]), "10.0.0.2");
        assert_eq!(client(&["0.0.0.0/0"], "10.0.0.2", &["1.1.1.1"]), "1.1.1.1");
        for wrong in ["10.0.0.0/33", "x", "10.0.0/8", "::/129"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_odd_byte_hides_no_address_behind_it() {
        let proxies = TrustedProxies(
            ["10.0.0.0/8"]
                .iter()
                .map(|text| Network::parse(text).unwrap())
                .collect(),
        );
        let seen = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", http::HeaderValue::from_bytes(line).unwrap());
            }
            proxies.client("10.1.2.3".parse().unwrap(), &headers).to_string()
        };
        assert_eq!(seen(&[b"\xff, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(seen(&[b"\xe9, 2.2.2.2, 10.0.0.9"]), "2.2.2.2");
        // What stands before it is the client's own.
        assert_eq!(seen(&[b"1.1.1.1, \xff"]), "10.1.2.3");
        assert_eq!(seen(&[b"1.1.1.1", b"\xff"]), "10.1.2.3");
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let bucket = |text: &str| ClientAddress(text.parse().unwrap()).bucket();
        assert_eq!(bucket("2001:db8:1:2::1"), bucket("2001:db8:1:2:ffff::9"));
        assert_ne!(bucket("2001:db8:1:2::1"), bucket("2001:db8:1:3::1"));
        assert_eq!(bucket("1.2.3.4"), "1.2.3.4");
    }
}
