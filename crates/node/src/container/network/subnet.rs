//! A range of IPv4 addresses, and whether the host uses it already.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container::parse::ParseError;

/// A range of IPv4 addresses: `10.188.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The host's address: the first one.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | 1)
    }

    /// Number of bits that all addresses share.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Addresses for containers: all but the network's, the host's and the broadcast address.
    pub(super) fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let last = self.base.to_bits() | !self.mask();
        (self.base.to_bits() + 2..last).map(Ipv4Addr::from_bits)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    fn overlaps(self, base: u32, mask: u32) -> bool {
        let both = mask & self.mask();
        base & both == self.base.to_bits() & both
    }

    /// The first of ours that no route of the host overlaps.
    pub(super) fn choose() -> Option<Self> {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        Self::choose_beside(&routes)
    }

    fn choose_beside(routes: &str) -> Option<Self> {
        let routes: Vec<(u32, u32)> = routes.lines().skip(1).filter_map(route).collect();
        (188..=219)
            .map(|second| Self {
                base: Ipv4Addr::new(10, second, 0, 0),
                prefix: 16,
            })
            .find(|subnet| {
                !routes
                    .iter()
                    .any(|(base, mask)| subnet.overlaps(*base, *mask))
            })
    }
}

/// Destination and mask of a line of `/proc/net/route`, which has them in hex as they lie in
/// memory. `None` for the default route, which overlaps all.
fn route(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.split_ascii_whitespace();
    let mut number = |skip| {
        let field = u32::from_str_radix(fields.nth(skip)?, 16).ok()?;
        Some(u32::from_be_bytes(field.to_ne_bytes()))
    };
    let base = number(1)?;
    let mask = number(5)?;
    (mask != 0).then_some((base, mask))
}

impl FromStr for Subnet {
    type Err = ParseError;

    /// The address must be the range's first, the prefix 8 to 29 bits.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason| ParseError::new("subnet", text, reason);
        let form = "the form is ADDRESS/BITS, like 10.188.0.0/16";
        let (base, prefix) = text.split_once('/').ok_or_else(|| bad(form))?;
        let subnet = Self {
            base: base.parse().map_err(|_| bad(form))?,
            prefix: prefix.parse().map_err(|_| bad(form))?,
        };
        if !(8..=29).contains(&subnet.prefix) {
            return Err(bad("it takes 8 to 29 bits"));
        }
        if subnet.base.to_bits() & !subnet.mask() != 0 {
            return Err(bad("the address is not the first of the range"));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_addresses() {
        let subnet: Subnet = "10.9.8.0/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.9.8.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 8, 1));
        let addresses: Vec<String> = subnet.addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(
            addresses,
            ["10.9.8.2", "10.9.8.3", "10.9.8.4", "10.9.8.5", "10.9.8.6"]
        );
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.1/24",
            "10.0.0.0/30",
            "10.0.0.0/7",
            "x/16",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_in_use_are_left_alone() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let default = "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n";
        let chosen = |routes: &str| {
            let routes = format!("{head}{default}{routes}");
            Subnet::choose_beside(&routes).map(|subnet| subnet.to_string())
        };
        assert_eq!(chosen("").unwrap(), "10.188.0.0/16");
        // 10.188.5.0/24 on a little-endian machine.
        let inside = "br0 0005BC0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(chosen(inside).unwrap(), "10.189.0.0/16");
        let all = "vpn 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n";
        assert_eq!(chosen(all), None);
    }
}
