//! Prefixes of addresses, as people write them.

use std::{cmp::Ordering, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::in_one_sentence;

/// A set of addresses: an address and how many of its leading bits count, the rest being zero.
///
/// Written `192.0.2.0/24` or `2001:db8::/32`; a single address is written without its length.
///
/// Ordered by family, address and length: a prefix comes before those within it.
///
/// ```
/// use byway::Prefix;
///
/// let network: Prefix = "192.0.2.0/24".parse()?;
/// assert!(network.covers(&"192.0.2.7".parse()?) && !network.is_host());
/// let error = "192.0.2.7/24".parse::<Prefix>().unwrap_err();
/// assert_eq!(error.to_string(), "`192.0.2.7/24` has bits set beyond its length of 24");
/// assert_eq!(error.help().as_deref(), Some("did you mean 192.0.2.0/24?"));
/// # Ok::<(), byway::PrefixError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(IpNet);

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a text is not a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// The text is neither an address nor a prefix.
    #[error("`{0}` is not an IPv4 or IPv6 address or prefix")]
    Syntax(String),
    /// Bits beyond the length are set, which may be a slip.
    #[error("`{given}` has bits set beyond its length of {length}", length = meant.len())]
    HostBits {
        /// What was written.
        given: String,
        /// The prefix of that length that contains the written address.
        meant: Prefix,
    },
    /// The length is more than an address has bits.
    #[error("`{given}` is longer than an {family} address")]
    TooLong {
        /// What was written.
        given: String,
        /// The family of its address.
        family: Family,
    },
    /// An IPv4 address in IPv6 form (RFC 4291, 2.5.5.2). No packet carries one: it stands for IPv4 inside a program.
    #[error("`{given}` is an IPv4 address in IPv6 form, which no packet carries")]
    Mapped {
        /// What was written.
        given: String,
        /// The same in IPv4 form.
        meant: Prefix,
    },
}

impl PrefixError {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Syntax(text) => match zoned(text) {
                Some((IpAddr::V6(v6), _)) if v6.is_unicast_link_local() => {
                    "name a global address: byway never redirects link-local packets".to_owned()
                }
                Some((address, _)) => format!("write {address}, which is the same on all interfaces"),
                None => "write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".to_owned(),
            },
            Self::HostBits { meant, .. } => format!("did you mean {meant}?"),
            Self::TooLong { family, .. } => {
                format!("{} is the longest", Prefix::all(*family).0.max_prefix_len())
            }
            Self::Mapped { meant, .. } => format!("write {meant}"),
        })
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

impl Prefix {
    /// Returns the prefix of `length` bits that contains `address`, or `None` if the address is shorter than that.
    pub fn holding(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(|net| Self(net.trunc()))
    }

    /// Returns the prefix of all addresses of a family: 0.0.0.0/0 or ::/0.
    pub fn all(family: Family) -> Self {
        Self(match family {
            Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
            Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
        })
    }

    /// Returns the prefix of all addresses of the family of `address`.
    pub(crate) fn all_like(address: IpAddr) -> Self {
        Self::all(Family::of(address))
    }

    /// Returns the family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.address())
    }

    /// Returns the first address: the bits of the prefix, and zeros after them.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// Returns its length: how many leading bits count.
    #[expect(clippy::len_without_is_empty, reason = "a prefix's length in bits; no prefix is empty")]
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns whether the prefix is one single address.
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Returns whether the prefix contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Returns whether the prefix contains every address of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Returns whether the prefix contains all addresses of its family.
    pub fn is_all(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        // Compare as numbers: sorting is much of the work of a large change.
        let key = |prefix: &Self| match prefix.0 {
            IpNet::V4(net) => (false, u128::from(net.addr().to_bits()), net.prefix_len()),
            IpNet::V6(net) => (true, net.addr().to_bits(), net.prefix_len()),
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `192.0.2.0/24`, `2001:db8::/32`, a single address, or an IPv4 prefix without its last octets, if these are zero, as
    /// ip(8) reads it: `10/8`, `192.168/16`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (address, length) = match text.parse() {
            // There may be a million of them.
            Ok(IpAddr::V4(v4)) => return Ok(IpAddr::V4(v4).into()),
            Ok(v6) => (v6, None),
            Err(_) => {
                let (address, length) = text.split_once('/').ok_or_else(syntax)?;
                let is_number = length == "0"
                    || !length.is_empty()
                        && !length.starts_with('0')
                        && length.bytes().all(|byte| byte.is_ascii_digit());
                let address = address.parse().ok().or_else(|| padded(address)).filter(|_| is_number);
                (address.ok_or_else(syntax)?, Some(length))
            }
        };
        let all = IpNet::from(address);
        let given = || text.to_owned();
        let too_long = || PrefixError::TooLong { given: given(), family: Family::of(address) };
        let length = match length {
            None => all.max_prefix_len(),
            // A number of any length is too long.
            Some(length) => length.parse().map_err(|_| too_long())?,
        };
        let net = IpNet::new(address, length).map_err(|_| too_long())?;
        let meant = Self(net.trunc());
        if net != meant.0 {
            return Err(PrefixError::HostBits { given: given(), meant });
        }
        match address {
            IpAddr::V6(v6) if length >= MAPPED => match v6.to_ipv4_mapped() {
                Some(v4) => {
                    let meant = Self::holding(v4.into(), length - MAPPED).ok_or_else(syntax)?;
                    Err(PrefixError::Mapped { given: given(), meant })
                }
                None => Ok(meant),
            },
            _ => Ok(meant),
        }
    }
}

/// The address and the zone of `fe80::1%eth1` (RFC 4007, 11).
pub(crate) fn zoned(text: &str) -> Option<(IpAddr, &str)> {
    let (address, zone) = text.split_once('%')?;
    Some((address.parse().ok()?, zone))
}

/// The bits before the IPv4 address in `::ffff:0:0/96`.
const MAPPED: u8 = 96;

/// The IPv4 address that begins with these one to three octets, the others being zero.
fn padded(octets: &str) -> Option<IpAddr> {
    let missing = 4_usize.checked_sub(octets.split('.').count()).filter(|missing| *missing > 0)?;
    format!("{octets}{}", ".0".repeat(missing)).parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` keeps the width that a table asks for.
        if self.is_host() { f.pad(&self.0.addr().to_string()) } else { f.pad(&self.0.to_string()) }
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = |error: PrefixError| serde::de::Error::custom(error.sentence());
        String::deserialize(deserializer)?.parse().map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(octets, len)| (IpAddr::from(octets), len));
        let v6 = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(octets, len)| (IpAddr::from(octets), len));
        prop_oneof![v4, v6].prop_map(|(address, len)| Prefix::holding(address, len).unwrap())
    }

    proptest! {
        #[test]
        fn a_prefix_survives_its_text(prefix in prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
            let json = serde_json::to_string(&prefix).unwrap();
            prop_assert_eq!(serde_json::from_str::<Prefix>(&json).unwrap(), prefix);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Prefix>();
        }

        #[test]
        fn host_bits_name_the_prefix_that_was_meant(octets: [u8; 4], len in 0..32_u8) {
            let given = format!("{}/{len}", IpAddr::from(octets));
            match given.parse::<Prefix>() {
                Ok(prefix) => prop_assert_eq!(prefix.address(), IpAddr::from(octets)),
                Err(PrefixError::HostBits { meant, .. }) => prop_assert!(meant.contains(octets.into())),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    #[test]
    fn a_host_is_written_without_its_length() {
        assert_eq!("192.0.2.7/32".parse::<Prefix>().unwrap().to_string(), "192.0.2.7");
        assert_eq!("2001:db8::/64".parse::<Prefix>().unwrap().to_string(), "2001:db8::/64");
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence() {
        let cases = [
            (
                "192.0.2.7/24",
                "`192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?",
            ),
            (
                "2001:db8::1/32",
                "`2001:db8::1/32` has bits set beyond its length of 32; did you mean 2001:db8::/32?",
            ),
        ];
        for (text, sentence) in cases {
            assert_eq!(text.parse::<Prefix>().unwrap_err().sentence(), sentence);
        }
        for text in [
            "",
            "eth0",
            "192.0.2",
            "10",
            "1.2.3.4.5",
            "1.2.3.4.5/8",
            "192.0.2.7/",
            "10./8",
            "/8",
            "::/-1",
            "::/+8",
            "10/08",
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err(), PrefixError::Syntax(text.to_owned()));
        }
    }

    #[test]
    fn a_zone_is_no_part_of_an_address() {
        for (text, help) in [
            ("fe80::5%eth1", "name a global address: byway never redirects link-local packets"),
            ("2001:db8::5%eth1", "write 2001:db8::5, which is the same on all interfaces"),
        ] {
            let sentence = format!("`{text}` is not an IPv4 or IPv6 address or prefix; {help}");
            assert_eq!(text.parse::<Prefix>().unwrap_err().sentence(), sentence);
        }
    }

    #[test]
    fn the_last_octets_may_be_missing_if_the_length_is_there() {
        let cases = [
            ("10/8", "10.0.0.0/8"),
            ("192.168/16", "192.168.0.0/16"),
            ("0/0", "0.0.0.0/0"),
            ("192.0.2/24", "192.0.2.0/24"),
        ];
        for (text, prefix) in cases {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), prefix);
        }
        let sentence = "`10.1/8` has bits set beyond its length of 8; did you mean 10.0.0.0/8?";
        assert_eq!("10.1/8".parse::<Prefix>().unwrap_err().sentence(), sentence);
    }

    #[test]
    fn a_length_has_its_limit() {
        for (text, sentence) in [
            ("192.168.1.9/33", "`192.168.1.9/33` is longer than an IPv4 address; 32 is the longest"),
            ("10/33", "`10/33` is longer than an IPv4 address; 32 is the longest"),
            ("::/129", "`::/129` is longer than an IPv6 address; 128 is the longest"),
            ("::/1000", "`::/1000` is longer than an IPv6 address; 128 is the longest"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err().sentence(), sentence);
        }
    }

    #[test]
    fn ipv4_in_ipv6_form_is_said_in_ipv4() {
        for (text, meant) in [
            ("::ffff:192.0.2.5", "192.0.2.5"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let sentence =
                format!("`{text}` is an IPv4 address in IPv6 form, which no packet carries; write {meant}");
            assert_eq!(text.parse::<Prefix>().unwrap_err().sentence(), sentence);
        }
        assert!("::fffe:0:0/95".parse::<Prefix>().is_ok(), "half of it is something else");
    }
}
