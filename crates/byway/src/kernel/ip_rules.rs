//! The host's own policy routing: the entries of `ip rule` and the routes of all tables (rtnetlink(7)).

use std::{collections::BTreeMap, fs, net::IpAddr};

use byway_netlink::{
    Netlink, Nla as _,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
        },
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};

use super::network::Network;
use crate::{
    error::{Error, Result},
    import::policy::{
        Action, Condition, Hop, LOCAL, Policy, PolicyRule, Refusal, RouteKind, STAYS, TableNames, TableRoute,
    },
    model::Prefix,
    policy::snapshot::{Host, Link},
};

/// The files with the names of routing tables, in order of precedence (ip-route(8)).
const TABLE_NAMES: [&str; 3] =
    ["/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables"];
/// A folder with more of them.
const MORE_TABLE_NAMES: &str = "/etc/iproute2/rt_tables.d";

/// Reads the policy routing of both families, on a host that has told its devices and which are strict about senders.
pub(crate) fn policy(network: &mut Network, host: &Host) -> Result<Policy> {
    let strict = host.strict_rp_filter.iter().filter_map(|index| host.links.get(index));
    let strict = strict.map(|link| link.device.name.clone()).collect();
    let mut policy = Policy { names: table_names(), strict, ..Policy::default() };
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let answers =
            dump(network.netlink(), RouteNetlinkMessage::GetRule(request), "list the entries of `ip rule`")?;
        policy.rules.extend(answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) => rule(message),
            _ => None,
        }));
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let answers = dump(network.netlink(), RouteNetlinkMessage::GetRoute(request), "list the routes")?;
        policy.routes.extend(answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => route(message, &host.links),
            _ => None,
        }));
    }
    Ok(policy)
}

/// Lists nothing for a family that the kernel lacks.
fn dump(
    netlink: &mut Netlink,
    request: RouteNetlinkMessage,
    action: &str,
) -> Result<Vec<RouteNetlinkMessage>> {
    match netlink.dump(request) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        answers => answers.map_err(Error::io(action)),
    }
}

/// A file that is missing or unreadable names nothing.
fn table_names() -> TableNames {
    let mut names = TableNames::default();
    let mut files: Vec<_> = fs::read_dir(MORE_TABLE_NAMES)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    for path in TABLE_NAMES.iter().map(Into::into).chain(files) {
        names.read(&fs::read_to_string(path).unwrap_or_default());
    }
    names
}

fn rule(message: &RuleMessage) -> Option<PolicyRule> {
    let header = &message.header;
    let any: IpAddr = unspecified(header.family)?;
    let mut rule = PolicyRule {
        priority: 0,
        source: Prefix::all_like(any),
        destination: Prefix::all_like(any),
        conditions: Vec::new(),
        action: Action::Nop,
        protocol: 0,
    };
    let (mut table, mut goto, mut l3mdev) = (u32::from(header.table), 0, false);
    let (mut mark, mut mask) = (None, None);
    let (mut suppress_length, mut suppress_group) = (None, None);
    let mut conditions = Vec::new();
    if header.flags.contains(RuleFlags::Invert) {
        conditions.push(Condition::Not);
    }
    if header.tos != 0 {
        conditions.push(Condition::Tos(header.tos));
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => rule.source = Prefix::holding(*address, header.src_len)?,
            RuleAttribute::Destination(address) => {
                rule.destination = Prefix::holding(*address, header.dst_len)?;
            }
            RuleAttribute::Priority(it) => rule.priority = *it,
            RuleAttribute::Table(it) => table = *it,
            RuleAttribute::Goto(it) => goto = *it,
            RuleAttribute::L3MDev(it) => l3mdev = *it,
            RuleAttribute::SuppressPrefixLen(it) => suppress_length = Some(*it).filter(|it| *it != u32::MAX),
            RuleAttribute::SuppressIfGroup(it) => suppress_group = Some(*it).filter(|it| *it != u32::MAX),
            RuleAttribute::Protocol(it) => rule.protocol = u8::from(*it),
            RuleAttribute::FwMark(it) => mark = Some(*it),
            RuleAttribute::FwMask(it) => mask = Some(*it),
            other => conditions.extend(condition(other)),
        }
    }
    // The kernel does not report a mark of zero, but with a mask it counts.
    if mark.is_some() || mask.is_some() {
        conditions.push(Condition::Fwmark { mark: mark.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) });
    }
    conditions.sort_by_key(place);
    rule.conditions = conditions;
    rule.action = match header.action {
        RuleAction::ToTable if l3mdev => Action::L3mdev,
        RuleAction::ToTable => Action::Lookup { table, suppress_length, suppress_group },
        RuleAction::Goto => Action::Goto(goto),
        RuleAction::Nop => Action::Nop,
        RuleAction::Blackhole => Action::Refuse(Refusal::Blackhole),
        RuleAction::Unreachable => Action::Refuse(Refusal::Unreachable),
        RuleAction::Prohibit => Action::Refuse(Refusal::Prohibit),
        other => Action::Other(u8::from(other)),
    };
    Some(rule)
}

fn condition(attribute: &RuleAttribute) -> Option<Condition> {
    /// `FRA_PAD`, and the masks of flow labels, ports and DSCP, which the kernel reports beside their values.
    const BESIDE: [u16; 5] = [18, 27, 28, 29, 30];
    Some(match attribute {
        RuleAttribute::Iifname(name) => Condition::Iif(name.clone()),
        RuleAttribute::Oifname(name) => Condition::Oif(name.clone()),
        RuleAttribute::UidRange(range) => Condition::Uids(range.start, range.end),
        RuleAttribute::IpProtocol(protocol) => Condition::IpProtocol(u8::from(*protocol)),
        RuleAttribute::SourcePortRange(range) => Condition::SourcePorts(range.start, range.end),
        RuleAttribute::DestinationPortRange(range) => Condition::DestinationPorts(range.start, range.end),
        RuleAttribute::TunId(id) => Condition::Tunnel(*id),
        // Realms only count packets.
        RuleAttribute::Realm(_) => return None,
        other if BESIDE.contains(&other.kind()) => return None,
        other => Condition::Unknown(other.kind()),
    })
}

/// The order in which `ip rule` prints them.
fn place(condition: &Condition) -> u8 {
    match condition {
        Condition::Not => 0,
        Condition::Tos(_) => 1,
        Condition::Fwmark { .. } => 2,
        Condition::Iif(_) => 3,
        Condition::Oif(_) => 4,
        Condition::Uids(..) => 5,
        Condition::IpProtocol(_) => 6,
        Condition::SourcePorts(..) => 7,
        Condition::DestinationPorts(..) => 8,
        Condition::Tunnel(_) => 9,
        Condition::Unknown(_) => 10,
    }
}

fn route(message: &RouteMessage, links: &BTreeMap<u32, Link>) -> Option<TableRoute> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = unspecified(header.address_family)?;
    let mut route = TableRoute {
        table: u32::from(header.table),
        destination: Prefix::all_like(any),
        metric: 0,
        kind: RouteKind::Throw,
        preferred_source: None,
        only: (header.tos != 0).then(|| format!("tos {:#04x}", header.tos)),
    };
    let (mut hops, mut foreign, mut has_object) = (Vec::new(), None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(it) => route.table = *it,
            RouteAttribute::Priority(it) => route.metric = *it,
            RouteAttribute::Destination(it) => {
                route.destination = Prefix::holding(address(it)?, header.destination_prefix_length)?;
            }
            RouteAttribute::Source(it) if header.source_prefix_length > 0 => {
                let source = Prefix::holding(address(it)?, header.source_prefix_length)?;
                route.only = Some(format!("from {source}"));
            }
            RouteAttribute::PrefSource(it) => route.preferred_source = address(it),
            RouteAttribute::MultiPath(several) => {
                for one in several {
                    let mut it = hop(&one.attributes, Some(one.interface_index), links);
                    it.weight = u16::from(one.hops) + 1;
                    it.onlink = one.flags.contains(RouteNextHopFlags::Onlink);
                    it.dead = one.flags.contains(RouteNextHopFlags::Dead);
                    hops.push(it);
                    foreign = foreign.or_else(|| encapsulated(&one.attributes));
                }
            }
            RouteAttribute::NhId(_) => has_object = true,
            _ => {}
        }
    }
    foreign = foreign.or_else(|| encapsulated(&message.attributes));
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    if hops.is_empty() && (index.is_some() || !has_object) {
        let mut it = hop(&message.attributes, index, links);
        it.onlink = header.flags.contains(RouteFlags::Onlink);
        it.dead = header.flags.contains(RouteFlags::Dead);
        hops.push(it);
    }
    route.kind = match header.kind {
        RouteType::Unicast if foreign.is_some() => RouteKind::Foreign(foreign?),
        // net.ipv4.nexthop_compat_mode = 0
        RouteType::Unicast if hops.is_empty() => {
            RouteKind::Foreign("has a nexthop object that the kernel shows by its number alone")
        }
        RouteType::Unicast => RouteKind::Unicast(hops),
        // What IPv6 has instead of no route.
        RouteType::Unreachable if is_null_entry(&route, &hops) => return None,
        RouteType::BlackHole => RouteKind::Refuse(Refusal::Blackhole),
        RouteType::Unreachable => RouteKind::Refuse(Refusal::Unreachable),
        RouteType::Prohibit => RouteKind::Refuse(Refusal::Prohibit),
        RouteType::Throw => RouteKind::Throw,
        // Packets to the host itself do not leave. Transparent proxies use such routes in other tables.
        RouteType::Local if route.table != LOCAL && !route.destination.is_host() => RouteKind::Foreign(STAYS),
        _ => return None,
    };
    Some(route)
}

fn hop(attributes: &[RouteAttribute], index: Option<u32>, links: &BTreeMap<u32, Link>) -> Hop {
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(it) => address(it),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        _ => None,
    });
    let link = index.and_then(|index| links.get(&index));
    Hop {
        gateway,
        device: link.map(|link| link.device.name.clone()),
        group: link.map_or(0, |link| link.group),
        weight: 1,
        onlink: false,
        dead: false,
    }
}

fn encapsulated(attributes: &[RouteAttribute]) -> Option<&'static str> {
    let is_encapsulation = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::EncapType(_));
    attributes.iter().any(is_encapsulation).then_some("wraps its packets (`encap`)")
}

/// `ip6_null_entry` (net/ipv6/route.c), which older kernels list.
fn is_null_entry(route: &TableRoute, hops: &[Hop]) -> bool {
    let is_lo = hops.iter().any(|hop| hop.device.as_deref() == Some("lo"));
    route.destination.is_all() && !route.destination.address().is_ipv4() && route.metric == u32::MAX && is_lo
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(std::net::Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(std::net::Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}
