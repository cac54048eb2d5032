//! How the installation is seen from outside: its public address, and the proxies that stand before it.

use std::net::IpAddr;
use std::str::FromStr;

/// Where browsers and providers find the installation: `https://host`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
}

impl PublicUrl {
    /// As browsers say it in the header `Origin`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is reached by TLS alone.
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https://")
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refusal = || "a public URL is like https://app.example.com, without a path".to_owned();
        let (scheme, host) = text.split_once("://").ok_or_else(refusal)?;
        let scheme = scheme.to_ascii_lowercase();
        let host = host.trim_end_matches('/').to_ascii_lowercase();
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(refusal());
        }
        // Browsers leave a scheme's own port out.
        let host = match scheme.as_str() {
            "https" => host.strip_suffix(":443").unwrap_or(&host),
            "http" => host.strip_suffix(":80").unwrap_or(&host),
            _ => return Err(refusal()),
        };
        Ok(Self {
            origin: format!("{scheme}://{host}"),
        })
    }
}

/// A network by its first address and the length of its prefix, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u32,
}

impl Network {
    /// Whether the address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (first, first_bits) = as_bits(self.first);
        let (other, other_bits) = as_bits(ip.to_canonical());
        let host_bits = first_bits - self.prefix_bits;
        // A shift by all bits is none at all to the processor.
        let cut = |bits: u128| bits.checked_shr(host_bits).unwrap_or(0);
        first_bits == other_bits && cut(first) == cut(other)
    }
}

fn as_bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (ip.into(), 128),
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refusal = || "a network is like 10.0.0.0/8, fd00::/8 or 192.0.2.7".to_owned();
        let (first, prefix) = match text.trim().split_once('/') {
            Some((first, prefix)) => (first, Some(prefix)),
            None => (text.trim(), None),
        };
        let first: IpAddr = first.parse().map_err(|_| refusal())?;
        let (_, bits) = as_bits(first);
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| refusal())?,
            None => bits,
        };
        if prefix_bits > bits {
            return Err(refusal());
        }
        Ok(Self { first, prefix_bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin() {
        let cases = [
            ("https://app.example.com", Some("https://app.example.com")),
            (
                "HTTPS://App.Example.com:443/",
                Some("https://app.example.com"),
            ),
            ("http://localhost:8080", Some("http://localhost:8080")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("https://app.example.com/api", None),
            ("https://me:sesame@app.example.com", None),
            ("ftp://app.example.com", None),
            ("https://", None),
            ("app.example.com", None),
        ];
        for (text, origin) in cases {
            let url = text.parse::<PublicUrl>().ok();
            assert_eq!(url.as_ref().map(PublicUrl::origin), origin, "{text}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
        ];
        for (network, ip, is_inside) in cases {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(ip.parse().unwrap()), is_inside, "{ip}");
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "example.com"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
