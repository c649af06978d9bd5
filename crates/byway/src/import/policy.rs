//! What a host's policy routing says: plain data, and its text as ip-rule(8) and ip-route(8) print it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use crate::model::Prefix;

/// Linux's own tables (`RT_TABLE_*`, include/uapi/linux/rtnetlink.h).
pub(crate) const DEFAULT: u32 = 253;
pub(crate) const MAIN: u32 = 254;
pub(crate) const LOCAL: u32 = 255;

/// Why a route of `local` in a table is foreign: what transparent proxies use.
pub(crate) const STAYS: &str = "keeps the packets on this host";

/// The policy routing of a network namespace, both families.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// By priority, and of the same priority in the order in which Linux looks them up.
    pub(crate) rules: Vec<PolicyRule>,
    /// The routes that lead out, or refuse. Routes to the host's own addresses are left out, and so are those that concern no
    /// packet that a rule may match.
    pub(crate) routes: Vec<TableRoute>,
    pub(crate) names: TableNames,
    /// The devices with a strict `rp_filter`: they drop packets unless the route back to the sender leaves by the same device.
    pub(crate) strict: BTreeSet<String>,
}

/// An entry of `ip rule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyRule {
    pub(crate) priority: u32,
    pub(crate) source: Prefix,
    pub(crate) destination: Prefix,
    /// What else it asks of a packet. Byway's rules ask nothing of the kind.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
    /// Who made it (`RTPROT_*`).
    pub(crate) protocol: u8,
}

/// What an entry asks of a packet besides its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `not`: the entry is for the packets that do not meet the rest.
    Not,
    Tos(u8),
    Fwmark {
        mark: u32,
        mask: u32,
    },
    Iif(String),
    Oif(String),
    Uids(u32, u32),
    IpProtocol(u8),
    SourcePorts(u16, u16),
    DestinationPorts(u16, u16),
    Tunnel(u64),
    /// A condition that is newer than this code: the attribute's number (`FRA_*`).
    Unknown(u16),
}

/// What becomes of the packets of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Lookup {
        table: u32,
        /// A route of this length or less does not count.
        suppress_length: Option<u32>,
        /// A route out of a device of this group does not count.
        suppress_group: Option<u32>,
    },
    /// The table of the VRF that the packet belongs to.
    L3mdev,
    /// On to the entry of this priority.
    Goto(u32),
    Nop,
    Refuse(Refusal),
    /// `nat`, and actions that are newer than this code.
    Other(u8),
}

/// How Linux refuses a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A route of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableRoute {
    pub(crate) table: u32,
    pub(crate) destination: Prefix,
    pub(crate) metric: u32,
    pub(crate) kind: RouteKind,
    /// The source address that it gives to sockets that have none.
    pub(crate) preferred_source: Option<IpAddr>,
    /// What else it asks of a packet, in words of ip-route(8): `tos 0x10`, `from 2001:db8::/64`.
    pub(crate) only: Option<String>,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouteKind {
    Unicast(Vec<Hop>),
    /// The next entry of `ip rule` decides.
    Throw,
    Refuse(Refusal),
    /// Something that Byway's next hops cannot do, in words that follow "it".
    Foreign(&'static str),
}

/// A next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) gateway: Option<IpAddr>,
    /// Its name now, or `None` if the device is gone.
    pub(crate) device: Option<String>,
    /// The device's group (ip-link(8)).
    pub(crate) group: u32,
    pub(crate) weight: u16,
    pub(crate) onlink: bool,
    /// Linux skips it.
    pub(crate) dead: bool,
}

/// The names of routing tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableNames(pub(crate) BTreeMap<u32, String>);

impl TableNames {
    /// The table as ip-rule(8) prints it: its name, or its number if it has no name.
    pub(crate) fn name(&self, table: u32) -> String {
        match (self.0.get(&table), table) {
            (Some(name), _) => name.clone(),
            (None, DEFAULT) => "default".to_owned(),
            (None, MAIN) => "main".to_owned(),
            (None, LOCAL) => "local".to_owned(),
            (None, number) => number.to_string(),
        }
    }

    /// Adds what a file like /etc/iproute2/rt_tables says: a number and a name on a line, `#` begins a comment. The
    /// first name of a table counts, and so does what is there already.
    pub(crate) fn read(&mut self, file: &str) {
        for line in file.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            let number = match number.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok(),
                None => number.parse().ok(),
            };
            if let Some(number) = number {
                self.0.entry(number).or_insert_with(|| name.to_owned());
            }
        }
    }
}

impl PolicyRule {
    /// Whether it is one of the three that every network namespace begins with.
    pub(crate) fn is_initial(&self) -> bool {
        let Action::Lookup { table, suppress_length: None, suppress_group: None } = self.action else {
            return false;
        };
        self.source.is_all()
            && self.destination.is_all()
            && self.conditions.is_empty()
            && [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)].contains(&(self.priority, table))
    }

    /// Whether it is for all packets but those that the rest of it describes.
    pub(crate) fn is_inverted(&self) -> bool {
        self.conditions.contains(&Condition::Not)
    }

    /// As `ip rule` prints it.
    pub(crate) fn text(&self, names: &TableNames) -> String {
        let mut text = format!("{}:", self.priority);
        if self.is_inverted() {
            text += " not";
        }
        text += &match self.source.is_all() {
            true => " from all".to_owned(),
            false => format!(" from {}", self.source),
        };
        if !self.destination.is_all() {
            let _ = write!(text, " to {}", self.destination);
        }
        for condition in self.conditions.iter().filter(|condition| **condition != Condition::Not) {
            let _ = write!(text, " {}", condition.text());
        }
        let _ = write!(text, " {}", self.action.text(names));
        // `RTPROT_UNSPEC` and `RTPROT_KERNEL` go without saying.
        if self.protocol != 0 && self.protocol != 2 {
            let _ = write!(text, " proto {}", protocol(self.protocol));
        }
        text
    }
}

impl Condition {
    fn text(&self) -> String {
        let range = |low: u32, high: u32| if low == high { low.to_string() } else { format!("{low}-{high}") };
        match self {
            Self::Not => "not".to_owned(),
            Self::Tos(tos) => format!("tos {tos:#04x}"),
            Self::Fwmark { mark, mask: u32::MAX } => format!("fwmark {mark:#x}"),
            Self::Fwmark { mark, mask } => format!("fwmark {mark:#x}/{mask:#x}"),
            Self::Iif(name) => format!("iif {name}"),
            Self::Oif(name) => format!("oif {name}"),
            Self::Uids(low, high) => format!("uidrange {low}-{high}"),
            Self::IpProtocol(1) => "ipproto icmp".to_owned(),
            Self::IpProtocol(6) => "ipproto tcp".to_owned(),
            Self::IpProtocol(17) => "ipproto udp".to_owned(),
            Self::IpProtocol(58) => "ipproto ipv6-icmp".to_owned(),
            Self::IpProtocol(number) => format!("ipproto {number}"),
            Self::SourcePorts(low, high) => format!("sport {}", range((*low).into(), (*high).into())),
            Self::DestinationPorts(low, high) => format!("dport {}", range((*low).into(), (*high).into())),
            Self::Tunnel(id) => format!("tun_id {id}"),
            // FRA_DSCP
            Self::Unknown(25) => "dscp ...".to_owned(),
            Self::Unknown(number) => format!("(attribute {number}) ..."),
        }
    }
}

impl Action {
    /// The table that it looks up.
    pub(crate) fn table(&self) -> Option<u32> {
        match self {
            Self::Lookup { table, .. } => Some(*table),
            _ => None,
        }
    }

    fn text(&self, names: &TableNames) -> String {
        match self {
            Self::Lookup { table, suppress_length, suppress_group } => {
                let mut text = format!("lookup {}", names.name(*table));
                if let Some(length) = suppress_length {
                    let _ = write!(text, " suppress_prefixlength {length}");
                }
                if let Some(group) = suppress_group {
                    let _ = write!(text, " suppress_ifgroup {group}");
                }
                text
            }
            Self::L3mdev => "lookup [l3mdev-table]".to_owned(),
            Self::Goto(priority) => format!("goto {priority}"),
            Self::Nop => "nop".to_owned(),
            Self::Refuse(refusal) => refusal.word().to_owned(),
            Self::Other(5) => "nat".to_owned(),
            Self::Other(number) => format!("(action {number})"),
        }
    }
}

impl Refusal {
    /// Its word in ip-rule(8) and ip-route(8).
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

impl TableRoute {
    /// Whether Linux would find it, as things are.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.kind {
            RouteKind::Unicast(hops) => hops.iter().any(|hop| !hop.dead),
            _ => true,
        }
    }

    /// Whether Linux would find it once these devices are gone.
    pub(crate) fn is_there_without(&self, gone: &[&str]) -> bool {
        match &self.kind {
            RouteKind::Unicast(hops) => hops.iter().any(|hop| hop.is_there_without(gone)),
            _ => true,
        }
    }

    /// In the words of `ip route`, without the metric.
    pub(crate) fn text(&self) -> String {
        let to = if self.destination.is_all() { "default".to_owned() } else { self.destination.to_string() };
        let only = self.only.iter().fold(String::new(), |text, only| format!("{text} {only}"));
        match &self.kind {
            RouteKind::Unicast(hops) => format!("{to}{only} {}", hops_text(hops)),
            RouteKind::Throw => format!("throw {to}{only}"),
            RouteKind::Refuse(refusal) => format!("{} {to}{only}", refusal.word()),
            RouteKind::Foreign(_) => format!("{to}{only}"),
        }
    }
}

fn hops_text(hops: &[Hop]) -> String {
    match hops {
        [hop] => hop.text(),
        several => {
            let each = several.iter().map(|hop| format!("nexthop {} weight {}", hop.text(), hop.weight));
            each.collect::<Vec<_>>().join(" ")
        }
    }
}

impl Hop {
    /// Whether Linux would send packets there once these devices are gone.
    pub(crate) fn is_there_without(&self, gone: &[&str]) -> bool {
        !self.dead && !self.device.as_deref().is_some_and(|device| gone.contains(&device))
    }

    /// In the words of `ip route`.
    pub(crate) fn text(&self) -> String {
        let mut words = Vec::new();
        if let Some(gateway) = self.gateway {
            words.push(format!("via {gateway}"));
        }
        words.push(
            self.device.as_ref().map_or_else(|| "(no device)".to_owned(), |name| format!("dev {name}")),
        );
        if self.onlink {
            words.push("onlink".to_owned());
        }
        if self.dead {
            words.push("dead".to_owned());
        }
        words.join(" ")
    }
}

/// The names that ip-rule(8) knows without a file.
fn protocol(number: u8) -> String {
    match number {
        1 => "redirect",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        186 => "bgp",
        number => return number.to_string(),
    }
    .to_owned()
}
