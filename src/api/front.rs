//! The installation as clients see it: which pages are ours, and whose address a request comes from.
//!
//! Behind proxies the connection says only which proxy it was. What a proxy says of the one before it counts when that
//! proxy is trusted; what anybody else writes into the header is ignored.

use std::net::{IpAddr, SocketAddr};

use poem::http::header;
use poem::http::uri::Authority;
use poem::web::RemoteAddr;
use poem::{Addr, Request};

use super::problem::{ApiError, ApiResult, ProblemType};
use crate::config::{Network, PublicUrl};

const FORWARDED_FOR: &str = "x-forwarded-for";

/// What the installation knows of its own front.
#[derive(Debug, Clone, Default)]
pub struct Front {
    /// Its public address, where one is configured.
    pub public_url: Option<PublicUrl>,
    /// Proxies that stand before it.
    pub trusted_proxies: Vec<Network>,
}

impl Front {
    /// The address of whoever made the request: the right-most one that is no trusted proxy's.
    pub fn client_ip(&self, request: &Request) -> Option<IpAddr> {
        let RemoteAddr(Addr::SocketAddr(peer)) = request.remote_addr() else {
            return None;
        };
        let lines = request.headers().get_all(FORWARDED_FOR).iter();
        let entries: Vec<&str> = lines
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        Some(self.client_behind(peer.ip().to_canonical(), &entries))
    }

    fn client_behind(&self, peer: IpAddr, entries: &[&str]) -> IpAddr {
        let is_trusted = |ip| self.trusted_proxies.iter().any(|known| known.contains(ip));
        let mut client = peer;
        for entry in entries.iter().rev() {
            if !is_trusted(client) {
                break;
            }
            // A trusted proxy that wrote what is no address is the last one we know of.
            let Some(ip) = address(entry.trim()) else {
                break;
            };
            client = ip;
        }
        client
    }

    /// The page that takes an invitation; none while the installation has no public address.
    pub fn invitation_link(&self, token: &str) -> Option<String> {
        let url = self.public_url.as_ref()?;
        Some(format!("{}/invitation/{token}", url.origin()))
    }

    /// Whether the page that a browser sent the request from is one of ours: of the public address, or, without one, of
    /// the host and port that the request itself was sent to.
    fn is_own_page(&self, request: &Request) -> bool {
        let Some((origin, scheme, authority)) = origin(request) else {
            return false;
        };
        if let Some(url) = &self.public_url {
            return origin.eq_ignore_ascii_case(url.origin());
        }
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .or_else(|| request.uri().authority().map(Authority::as_str));
        matches!(scheme, "http" | "https")
            && host.is_some_and(|host| authority.eq_ignore_ascii_case(host))
    }

    /// Goes on only when the request's page is ours.
    ///
    /// # Errors
    /// 403, also without any `Origin`: browsers always send one with a method that changes something.
    pub fn require_own_page(&self, request: &Request) -> ApiResult<()> {
        if self.is_own_page(request) {
            return Ok(());
        }
        Err(ApiError::new(
            ProblemType::ForeignOrigin,
            "With a session's cookie, changes are taken from pages of this address alone. Programs use an API key.",
        ))
    }

    /// Whether a cookie may ask to be kept to TLS.
    pub fn is_secure(&self, request: &Request) -> bool {
        match &self.public_url {
            Some(url) => url.is_https(),
            None => {
                self.is_own_page(request)
                    && origin(request).is_some_and(|(_, scheme, _)| scheme == "https")
            }
        }
    }
}

/// The header `Origin`: whole, its scheme, its host and port.
fn origin(request: &Request) -> Option<(&str, &str, &str)> {
    let origin = request.headers().get(header::ORIGIN)?.to_str().ok()?;
    let (scheme, authority) = origin.split_once("://")?;
    Some((origin, scheme, authority))
}

/// An address as proxies write it, with a port or without.
fn address(entry: &str) -> Option<IpAddr> {
    let with_port = || entry.parse::<SocketAddr>().map(|address| address.ip());
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    let ip = with_port().or_else(|_| bare.parse()).ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_proxy_of_ours() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        let cases: [(&[&str], &str, &[&str], &str); 9] = [
            // Nobody is trusted: the header says nothing.
            (&[], "10.0.0.1", &["203.0.113.9"], "10.0.0.1"),
            (&proxies, "198.51.100.1", &["203.0.113.9"], "198.51.100.1"),
            (&proxies, "10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            (&proxies, "10.0.0.1", &[], "10.0.0.1"),
            // What the client wrote itself stands further left.
            (
                &proxies,
                "10.0.0.1",
                &["1.1.1.1", "203.0.113.9"],
                "203.0.113.9",
            ),
            (
                &proxies,
                "10.0.0.1",
                &["203.0.113.9", " 10.0.0.2"],
                "203.0.113.9",
            ),
            (&proxies, "10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            (&proxies, "10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
            (&proxies, "10.0.0.1", &["1.1.1.1", "unknown"], "10.0.0.1"),
        ];
        for (trusted, peer, entries, client) in cases {
            let front = Front {
                public_url: None,
                trusted_proxies: trusted.iter().map(|one| one.parse().unwrap()).collect(),
            };
            let found = front.client_behind(peer.parse().unwrap(), entries);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{entries:?}");
        }
    }
}
