//! Rules as people write them: a source prefix and a next hop. Plain data, without the kernel.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name of a rule in bytes.
pub const RULE_NAME_MAX: usize = byway_abi::RULE_NAME_LEN;

/// A set of source addresses: an address and how many of its leading bits count, the rest being zero.
///
/// Written `192.0.2.0/24` or `2001:db8::/32`; a single address is written without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

/// Why a text is no [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// The text is neither an address nor a prefix.
    #[error(
        "`{0}` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
    )]
    Syntax(String),
    /// Bits behind the length are set, so that the text may be a slip.
    #[error("`{given}` has bits set behind its length of {length}; did you mean {meant}?", length = meant.len())]
    HostBits {
        /// What was written.
        given: String,
        /// The prefix of that length that holds the written address.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of `length` bits that holds `address`, or nothing where the address is shorter than that.
    pub fn holding(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(|net| Self(net.trunc()))
    }

    /// The first address, which is the prefix itself with its other bits zero.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// How many leading bits count.
    #[expect(clippy::len_without_is_empty, reason = "a prefix's length in bits; no prefix is empty")]
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is one single address.
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Whether `address` is one of the prefix's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let net: IpNet = text.parse().map_err(|_| PrefixError::Syntax(text.to_owned()))?;
        let meant = Self(net.trunc());
        if net != meant.0 {
            return Err(PrefixError::HostBits { given: text.to_owned(), meant });
        }
        Ok(meant)
    }
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
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A network device of the network namespace at hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its name now, or where it is gone the last name that is known.
    pub name: String,
    /// Its interface index (netdevice(7)), which stays when the device is renamed.
    #[serde(rename = "ifindex")]
    pub index: u32,
}

/// Where a redirected packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextHop {
    /// The neighbour that gets the packet; without one the packet's own destination is the neighbour (on-link).
    pub gateway: Option<IpAddr>,
    /// The device that the packet leaves by.
    pub device: Device,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "dev {}", self.device.name)
    }
}

/// What becomes of the packets that a rule speaks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Target {
    /// They go to a next hop.
    NextHop(NextHop),
    /// They are left to normal routing: an exception from a less specific rule.
    Pass,
    /// They are dropped.
    Drop,
}

impl Target {
    /// The next hop, if it is one.
    pub fn next_hop(&self) -> Option<&NextHop> {
        match self {
            Self::NextHop(next_hop) => Some(next_hop),
            Self::Pass | Self::Drop => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHop(next_hop) => next_hop.fmt(f),
            Self::Pass => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

/// A target as it is asked for, before the device is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetSpec {
    /// A gateway, on the device where the routing table finds it.
    Via(IpAddr),
    /// A gateway on a device.
    ViaDev(IpAddr, String),
    /// A device: the packet's own destination is the neighbour.
    Dev(String),
    /// [`Target::Pass`]
    Pass,
    /// [`Target::Drop`]
    Drop,
}

/// Who put a rule in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Owner {
    /// A person, with the command line.
    Cli,
    /// Another program, with this library.
    Api,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cli => "cli",
            Self::Api => "api",
        })
    }
}

/// A rule as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The sources that it speaks about.
    pub source: Prefix,
    /// What becomes of their packets.
    pub target: TargetSpec,
    /// Who asks.
    pub owner: Owner,
    /// What people call it, [`RULE_NAME_MAX`] bytes at the most.
    pub name: Option<String>,
}

/// A rule: what becomes of packets from `source`. Of all rules whose source holds an address, the one with the
/// longest prefix counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The sources that it speaks about.
    #[serde(rename = "from")]
    pub source: Prefix,
    /// What becomes of their packets.
    pub target: Target,
    /// Who put it in.
    pub owner: Owner,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} {}", self.source, self.target)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " name {name}"))
    }
}

/// What is wrong with a rule in itself, whatever the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// An IPv4 source with an IPv6 gateway, or the other way round.
    #[error("the gateway {gateway} is {}, but packets from {source_prefix} are {}; name a gateway of the same family", family(gateway), family(&source_prefix.address()))]
    FamilyMismatch {
        /// The rule's source.
        source_prefix: Prefix,
        /// The gateway asked for.
        gateway: IpAddr,
    },
    /// The gateway is no address that a host can have.
    #[error("{0} cannot be a gateway: it is {1}; name the address of the next router")]
    NotAGateway(IpAddr, &'static str),
    /// Packets from there are never redirected.
    #[error(
        "packets from {0} are never redirected: it is {1}; name the global addresses that the host answers from"
    )]
    NeverRedirected(Prefix, &'static str),
    /// The name is empty, too long, or would not survive a table.
    #[error("`{0}` cannot be a rule's name; use 1 to {RULE_NAME_MAX} letters, digits, `-`, `_`, `.` or `:`")]
    Name(String),
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What kind of address can never be another host's, in words.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

impl RuleSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        let source = self.source.address();
        let never = match source {
            _ if source.is_unspecified() && self.source.is_host() => Some("the unspecified address"),
            _ if source.is_loopback() && self.source.len() >= 8 => Some("loopback"),
            _ if source.is_multicast() && self.source.len() >= if source.is_ipv4() { 4 } else { 8 } => {
                Some("multicast")
            }
            IpAddr::V4(v4) if v4.is_link_local() && self.source.len() >= 16 => Some("link-local"),
            IpAddr::V6(v6) if v6.is_unicast_link_local() && self.source.len() >= 10 => Some("link-local"),
            _ => None,
        };
        if let Some(kind) = never {
            return Err(RuleError::NeverRedirected(self.source, kind));
        }
        if let TargetSpec::Via(gateway) | TargetSpec::ViaDev(gateway, _) = self.target {
            if gateway.is_ipv4() != source.is_ipv4() {
                return Err(RuleError::FamilyMismatch { source_prefix: self.source, gateway });
            }
            if let Some(kind) = unusable(gateway) {
                return Err(RuleError::NotAGateway(gateway, kind));
            }
        }
        match &self.name {
            Some(name) if !is_name(name) => Err(RuleError::Name(name.clone())),
            _ => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=RULE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
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

    fn spec(source: &str, target: TargetSpec) -> RuleSpec {
        RuleSpec { source: source.parse().unwrap(), target, owner: Owner::Cli, name: None }
    }

    fn via(gateway: &str) -> TargetSpec {
        TargetSpec::Via(gateway.parse().unwrap())
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
                "`192.0.2.7/24` has bits set behind its length of 24; did you mean 192.0.2.0/24?",
            ),
            (
                "2001:db8::1/32",
                "`2001:db8::1/32` has bits set behind its length of 32; did you mean 2001:db8::/32?",
            ),
        ];
        for (text, sentence) in cases {
            assert_eq!(text.parse::<Prefix>().unwrap_err().to_string(), sentence);
        }
        for text in ["", "eth0", "192.0.2.7/33", "192.0.2/24", "::/129", "1.2.3.4.5", "192.0.2.7/"] {
            assert_eq!(text.parse::<Prefix>().unwrap_err(), PrefixError::Syntax(text.to_owned()));
        }
    }

    #[test]
    fn a_rule_that_can_never_work_is_refused() {
        let cases = [
            (
                spec("192.0.2.7", via("2001:db8::1")),
                "the gateway 2001:db8::1 is IPv6, but packets from 192.0.2.7 are IPv4; name a gateway of the same family",
            ),
            (
                spec("192.0.2.7", via("224.0.0.1")),
                "224.0.0.1 cannot be a gateway: it is a multicast address; name the address of the next router",
            ),
            (
                spec("192.0.2.7", via("127.0.0.1")),
                "127.0.0.1 cannot be a gateway: it is a loopback address; name the address of the next router",
            ),
            (
                spec("fe80::1", via("2001:db8::1")),
                "packets from fe80::1 are never redirected: it is link-local; name the global addresses that the host answers from",
            ),
        ];
        for (spec, sentence) in cases {
            assert_eq!(spec.check().unwrap_err().to_string(), sentence);
        }
        for source in ["0.0.0.0", "127.0.0.0/8", "127.0.0.1", "::", "::1", "224.0.0.0/4", "ff02::/16"] {
            let gateway = if source.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
            let refused = spec(source, via(gateway)).check();
            assert!(matches!(refused, Err(RuleError::NeverRedirected(..))), "{source}");
        }
        for source in ["0.0.0.0/0", "0.0.0.0/1", "126.0.0.0/7", "224.0.0.0/3"] {
            assert!(spec(source, via("10.0.0.1")).check().is_ok(), "{source}");
        }
        let named = |name: &str| RuleSpec { name: Some(name.into()), ..spec("192.0.2.7", via("10.0.0.1")) };
        assert!(named("web-1").check().is_ok());
        for name in ["", "two words", &"x".repeat(33), "tab\t"] {
            assert!(matches!(named(name).check(), Err(RuleError::Name(_))));
        }
    }
}
