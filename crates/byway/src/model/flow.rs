//! Flows, as people ask about them.

use std::{fmt, net::IpAddr, str::FromStr};

use byway_abi::flow::{self, DCCP, SCTP, TCP, UDP, UDP_LITE};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{
    check::RuleError,
    in_one_sentence,
    prefix::{Prefix, zoned},
};

/// A protocol above IP, by its number (IANA).
///
/// ```
/// use byway::Protocol;
///
/// assert_eq!("tcp".parse(), Ok(Protocol::TCP));
/// assert_eq!(Protocol::new(47).to_string(), "47");
/// assert!(Protocol::TCP.has_ports() && !Protocol::ICMPV6.has_ports());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(u8);

/// The names that protocols have here. The first of several is the one that is printed.
const NAMES: [(&str, Protocol); 9] = [
    ("icmp", Protocol::ICMP),
    ("tcp", Protocol(TCP)),
    ("udp", Protocol(UDP)),
    ("dccp", Protocol(DCCP)),
    ("icmpv6", Protocol::ICMPV6),
    ("ipv6-icmp", Protocol::ICMPV6),
    ("icmp6", Protocol::ICMPV6),
    ("sctp", Protocol(SCTP)),
    ("udplite", Protocol(UDP_LITE)),
];

impl Protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// ICMP for IPv6 (RFC 4443), which neighbour discovery is a part of.
    pub const ICMPV6: Self = Self(58);
    /// TCP.
    pub const TCP: Self = Self(TCP);
    /// UDP.
    pub const UDP: Self = Self(UDP);

    /// Returns the protocol with this number.
    pub fn new(number: u8) -> Self {
        Self(number)
    }

    /// Returns its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Returns whether it is ICMP, of either family.
    pub(crate) fn is_icmp(self) -> bool {
        [Self::ICMP, Self::ICMPV6].contains(&self)
    }

    /// Returns whether its header begins with a source and a destination port.
    pub fn has_ports(self) -> bool {
        flow::has_ports(self.0)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.pad(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Protocol {
    type Err = FlowError;

    /// A name or a number.
    fn from_str(text: &str) -> Result<Self, FlowError> {
        match NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, protocol)) => Ok(*protocol),
            None => text.parse().map(Self).map_err(|_| FlowError::Protocol(text.to_owned())),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The packets of a flow that somebody asks about. Fields may be left out, and the answer says if it depends on one of them.
///
/// ```
/// use byway::{FlowSpec, Protocol};
///
/// let mut flow = FlowSpec::new("192.168.1.5".parse()?);
/// flow.destination = Some("198.51.100.9".parse()?);
/// (flow.protocol, flow.destination_port) = (Some(Protocol::TCP), Some(443));
/// assert_eq!(flow.to_string(), "192.168.1.5 to 198.51.100.9 proto tcp dport 443");
/// assert_eq!(flow.to_string().parse(), Ok(flow));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowSpec {
    /// Where its packets come from, as they leave: after NAT.
    #[serde(rename = "from")]
    pub source: IpAddr,
    /// Where they go.
    #[serde(rename = "to", skip_serializing_if = "Option::is_none", default)]
    pub destination: Option<IpAddr>,
    /// What follows the IP header.
    #[serde(rename = "proto", skip_serializing_if = "Option::is_none", default)]
    pub protocol: Option<Protocol>,
    /// The source port.
    #[serde(rename = "sport", skip_serializing_if = "Option::is_none", default)]
    pub source_port: Option<u16>,
    /// The destination port.
    #[serde(rename = "dport", skip_serializing_if = "Option::is_none", default)]
    pub destination_port: Option<u16>,
    /// The device that they come in by, where this host forwards them.
    #[serde(rename = "iif", skip_serializing_if = "Option::is_none", default)]
    pub incoming: Option<String>,
}

impl FlowSpec {
    /// Makes a flow of packets that this host itself sends from this source.
    pub fn new(source: IpAddr) -> Self {
        Self {
            source,
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            incoming: None,
        }
    }

    /// Returns the destination and the protocol, if nothing is missing that tells the flow from others.
    pub(crate) fn parts(&self) -> Result<(IpAddr, Protocol), Vec<Missing>> {
        let has_ports = self.protocol.is_none_or(Protocol::has_ports);
        let missing: Vec<Missing> = [
            (Missing::To, self.destination.is_none()),
            (Missing::Proto, self.protocol.is_none()),
            (Missing::Sport, has_ports && self.source_port.is_none()),
            (Missing::Dport, has_ports && self.destination_port.is_none()),
        ]
        .into_iter()
        .filter_map(|(word, is_missing)| is_missing.then_some(word))
        .collect();
        match (self.destination, self.protocol) {
            (Some(destination), Some(protocol)) if missing.is_empty() => Ok((destination, protocol)),
            _ => Err(missing),
        }
    }

    /// Refuses a flow whose source and destination are of two families.
    pub(crate) fn check(&self) -> Result<(), RuleError> {
        match self.destination {
            Some(destination) if destination.is_ipv4() != self.source.is_ipv4() => {
                Err(RuleError::TwoFamilies {
                    source_prefix: Prefix::from(self.source),
                    destination: Prefix::from(destination),
                })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let said: [(&str, Option<&dyn fmt::Display>); 5] = [
            ("to", self.destination.as_ref().map(|it| it as &dyn fmt::Display)),
            ("proto", self.protocol.as_ref().map(|it| it as &dyn fmt::Display)),
            ("sport", self.source_port.as_ref().map(|it| it as &dyn fmt::Display)),
            ("dport", self.destination_port.as_ref().map(|it| it as &dyn fmt::Display)),
            ("iif", self.incoming.as_ref().map(|it| it as &dyn fmt::Display)),
        ];
        said.iter().try_for_each(|(word, value)| match value {
            Some(value) => write!(f, " {word} {value}"),
            None => Ok(()),
        })
    }
}

/// Something that tells a flow from others, and that a question about it left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Missing {
    /// The destination.
    To,
    /// The protocol.
    Proto,
    /// The source port.
    Sport,
    /// The destination port.
    Dport,
}

impl fmt::Display for Missing {
    /// The word that is missing: `sport`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::To => "to",
            Self::Proto => "proto",
            Self::Sport => "sport",
            Self::Dport => "dport",
        })
    }
}

impl Missing {
    /// Returns such words in a list: ``` `sport` and `dport` ```
    pub fn listed(missing: &[Self]) -> String {
        match missing {
            [] => String::new(),
            [one] => format!("`{one}`"),
            [first @ .., last] => {
                let first: Vec<String> = first.iter().map(Self::to_string).collect();
                format!("`{}` and `{last}`", first.join("`, `"))
            }
        }
    }
}

/// What is wrong with the words for a flow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// A flow without a source.
    #[error("a flow needs the source address of its packets, like `192.0.2.7 to 198.51.100.9`")]
    NoSource,
    /// A source or a destination that is not one address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Address(String),
    /// A protocol whose name Byway does not know, or whose number is too large.
    #[error("`{0}` is not a protocol")]
    Protocol(String),
    /// A port that is not a number.
    #[error("`{0}` is not a port")]
    Port(String),
    /// Ports of a protocol that has none.
    #[error("packets of {0} have no ports")]
    NoPorts(Protocol),
    /// `iif` for a flow that is known by its packets alone.
    #[error("`iif` does not tell flows apart")]
    Incoming,
    /// Words that many flows match.
    #[error("`{flow}` may be many flows: it lacks {}", Missing::listed(.missing))]
    Incomplete {
        /// The flow.
        flow: Box<FlowSpec>,
        /// What is missing.
        missing: Vec<Missing>,
    },
    /// ICMP's echoes, which a number tells apart that no word names.
    #[error("`{0}` may be many flows: a number in each ping tells them apart, and there is no word for it")]
    Echo(Box<FlowSpec>),
}

impl FlowError {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::NoSource => return None,
            Self::Address(text) => {
                return Some(match zoned(text) {
                    Some((address, zone)) => format!("leave `%{zone}` out: `{address}`"),
                    None => "name one address, like 192.0.2.7 or 2001:db8::7".to_owned(),
                });
            }
            Self::Protocol(_) => {
                "write `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `dccp`, `udplite`, or a number from 0 to 255"
            }
            Self::Port(_) => "write a number from 0 to 65535",
            Self::NoPorts(_) => "leave out `sport` and `dport`",
            Self::Incoming => "leave it out",
            Self::Incomplete { .. } | Self::Echo(_) => return None,
        };
        Some(help.to_owned())
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}
