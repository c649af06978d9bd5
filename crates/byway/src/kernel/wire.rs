//! Converts plain data to the bytes of the maps, and back. What is invalid reads as `None`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use byway_abi::{
    ASKED_NEIGHBOUR, ASKED_PING, ASKED_TCP, DIRECTION_EGRESS, DIRECTION_INGRESS, FAMILY_IPV4, FAMILY_IPV6,
    FAMILY_ON_LINK, HOOK_CLSACT, HOOK_TCX, LAST_INDEX_OF_REPLIES, MAX_ASKED, MSS_AUTO, MSS_OFF,
    NEXT_HOP_BY_ROUTE, NEXT_HOP_CHECKED, NEXT_HOP_DHCP, NEXT_HOP_DOWN, NEXT_HOP_RA, NEXT_HOP_WAITING,
    NeighbourKey, ON_DOWN_DROP, ON_DOWN_PASS, ProgramKey, ProgramRecord, ROLE_ARRIVAL, ROLE_DEPARTURE,
    ROLE_RECEPTION, RuleRecord, SetRecord, TARGET_REPLY_TO, is_reply_to, sources::KIND,
};

use super::hook::{Attached, Hook};
use crate::{
    model::{
        Action, Asked, Device, HealthCheck, Learned, Mss, NextHop, OnDown, Owner, Prefix, Rule, Selector,
        Target, is_name,
    },
    policy::state::{DeviceSet, Direction, Place, Role},
};

/// Writes an address in network byte order. An IPv4 address is in the first four bytes.
pub(super) fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut wire = [0; 16];
            wire[..4].copy_from_slice(&v4.octets());
            wire
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Returns an address as the programs have it: words in network byte order. An IPv4 address is the first one.
pub(crate) fn words(ip: IpAddr) -> [u32; 4] {
    let bytes = address(ip);
    std::array::from_fn(|nth| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * nth + byte])))
}

pub(super) fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 }
}

pub(super) fn read_address(family: u32, wire: [u8; 16]) -> Option<IpAddr> {
    match family {
        FAMILY_IPV4 => Some(Ipv4Addr::new(wire[0], wire[1], wire[2], wire[3]).into()),
        FAMILY_IPV6 => Some(Ipv6Addr::from(wire).into()),
        _ => None,
    }
}

/// Reads what [`words`] made of an address of this family.
pub(super) fn read_words(family: u32, words: [u32; 4]) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    read_address(family, bytes)
}

/// Writes a name to a field that is padded with zeros. Cuts a name that is too long.
pub(crate) fn name<const N: usize>(name: &str) -> [u8; N] {
    let mut wire = [0; N];
    let length = name.len().min(N);
    wire[..length].copy_from_slice(&name.as_bytes()[..length]);
    wire
}

/// Reads the name of a rule or a group from such a field. It is empty if the field is empty, or if the text is not a valid name: a
/// listing then shows the rule without a name, and the next apply corrects it.
pub(crate) fn read_name(wire: &[u8]) -> String {
    std::str::from_utf8(text(wire))
        .ok()
        .filter(|name| is_name(name, wire.len()))
        .unwrap_or_default()
        .to_owned()
}

/// A device by its name in such a field.
pub(super) fn read_device(wire: &[u8], index: u32) -> Device {
    Device::from_kernel(&String::from_utf8_lossy(text(wire)), index)
}

fn text(wire: &[u8]) -> &[u8] {
    let end = wire.iter().position(|byte| *byte == 0).unwrap_or(wire.len());
    &wire[..end]
}

pub(super) fn on_down(on_down: OnDown) -> u8 {
    match on_down {
        OnDown::Pass => ON_DOWN_PASS,
        OnDown::Drop => ON_DOWN_DROP,
    }
}

pub(super) fn read_on_down(wire: u8) -> OnDown {
    if wire == ON_DOWN_DROP { OnDown::Drop } else { OnDown::Pass }
}

pub(super) fn mss(mss: Mss) -> u16 {
    match mss {
        Mss::Auto => MSS_AUTO,
        Mss::Off => MSS_OFF,
        Mss::Bytes(bytes) => bytes,
    }
}

pub(super) fn read_mss(wire: u16) -> Mss {
    match wire {
        MSS_AUTO => Mss::Auto,
        MSS_OFF => Mss::Off,
        bytes => Mss::Bytes(bytes),
    }
}

pub(super) fn neighbour_key(ifindex: u32, gateway: IpAddr) -> NeighbourKey {
    NeighbourKey { ifindex, family: family(gateway), gateway: address(gateway) }
}

pub(super) fn next_hop(next_hop: &NextHop, mut flags: u32, mtu: u32) -> byway_abi::NextHop {
    flags &= NEXT_HOP_DOWN | NEXT_HOP_CHECKED;
    if next_hop.by_route {
        flags |= NEXT_HOP_BY_ROUTE;
    }
    if next_hop.is_waiting() {
        flags |= NEXT_HOP_WAITING;
    }
    flags |= next_hop.learned.map_or(0, learned);
    // One that waits for its gateway must not look as if it had none.
    let gateway = next_hop.gateway_or_unspecified();
    byway_abi::NextHop {
        ifindex: next_hop.device.index,
        flags,
        family: gateway.map_or(FAMILY_ON_LINK, family),
        gateway: gateway.map_or([0; 16], address),
        mtu,
        device: name(&next_hop.device.name),
    }
}

fn learned(learned: Learned) -> u32 {
    match learned {
        Learned::Dhcp => NEXT_HOP_DHCP,
        Learned::Ra => NEXT_HOP_RA,
    }
}

/// Reads the next hop in a slot that is in use.
pub(super) fn read_next_hop(wire: &byway_abi::NextHop) -> Option<NextHop> {
    let gateway = match wire.family {
        FAMILY_ON_LINK => None,
        family => Some(read_address(family, wire.gateway)?),
    };
    let is_learned = |it: &Learned| wire.flags & learned(*it) != 0;
    let learned = gateway.and_then(|_| Learned::ALL.into_iter().find(is_learned));
    let gateway = gateway.filter(|gateway| learned.is_none() || !gateway.is_unspecified());
    // Without a gateway, no route can have found the device.
    let by_route = gateway.is_some() && learned.is_none() && wire.flags & NEXT_HOP_BY_ROUTE != 0;
    let device = match wire.ifindex {
        // The routing table has named no device yet.
        0 if by_route => Device { name: String::new(), index: 0 },
        0 if text(&wire.device).is_empty() => return None,
        index => read_device(&wire.device, index),
    };
    // One that waits for its gateway has no device either.
    let index = if learned.is_some() && gateway.is_none() { 0 } else { device.index };
    Some(NextHop { gateway, device: Device { index, ..device }, by_route, learned })
}

pub(super) fn health_check(check: &HealthCheck) -> byway_abi::HealthCheck {
    let mut asked = [[0; 16]; MAX_ASKED];
    let hosts = check.asked.hosts();
    asked.iter_mut().zip(hosts).for_each(|(wire, host)| *wire = mapped(*host));
    let (kind, port) = match check.asked {
        Asked::Ping(_) => (ASKED_PING, 0),
        Asked::Tcp(_, port) => (ASKED_TCP, port),
        Asked::Neighbour => (ASKED_NEIGHBOUR, 0),
    };
    byway_abi::HealthCheck {
        asked,
        source: check.src.map_or([0; 16], mapped),
        interval: check.interval.as_millis() as u32,
        timeout: check.timeout.as_millis() as u32,
        count: hosts.len().min(MAX_ASKED) as u8,
        quorum: check.quorum,
        fall: check.fall,
        rise: check.rise,
        owner: check.owner.number(),
        kind,
        port,
    }
}

/// Reads a health check. Returns `None` for one that nobody can have asked for.
pub(super) fn read_health_check(wire: &byway_abi::HealthCheck) -> Option<HealthCheck> {
    let address = |bytes: [u8; 16]| IpAddr::from(bytes).to_canonical();
    let hosts = wire.asked.get(..wire.count.into())?.iter().copied().map(address).collect();
    let check = HealthCheck {
        asked: match wire.kind {
            ASKED_PING => Asked::Ping(hosts),
            ASKED_TCP => Asked::Tcp(hosts, wire.port),
            ASKED_NEIGHBOUR => Asked::Neighbour,
            _ => return None,
        },
        quorum: wire.quorum,
        src: (wire.source != [0; 16]).then(|| address(wire.source)),
        interval: Duration::from_millis(wire.interval.into()),
        timeout: Duration::from_millis(wire.timeout.into()),
        fall: wire.fall,
        rise: wire.rise,
        owner: Owner::new(wire.owner),
    };
    check.check().is_ok().then_some(check)
}

/// An address in the form of IPv6.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Reads a neighbour, as ifindex and gateway.
pub(super) fn read_neighbour(wire: &NeighbourKey) -> Option<(u32, IpAddr)> {
    let gateway = read_address(wire.family, wire.gateway)?;
    // Accept only the one key that `neighbour_key` writes, because a lookup would not find any other.
    (neighbour_key(wire.ifindex, gateway) == *wire).then_some((wire.ifindex, gateway))
}

pub(super) fn program_key(place: Place) -> ProgramKey {
    let direction = match place.direction {
        Direction::Ingress => DIRECTION_INGRESS,
        Direction::Egress => DIRECTION_EGRESS,
    };
    ProgramKey { ifindex: place.ifindex, direction }
}

/// Reads the place of a program.
pub(super) fn read_place(wire: &ProgramKey) -> Option<Place> {
    let direction = match wire.direction {
        DIRECTION_INGRESS => Direction::Ingress,
        DIRECTION_EGRESS => Direction::Egress,
        _ => return None,
    };
    Some(Place { ifindex: wire.ifindex, direction })
}

pub(super) fn role(role: Role) -> u8 {
    match role {
        Role::Departure => ROLE_DEPARTURE,
        Role::Arrival => ROLE_ARRIVAL,
        Role::Reception => ROLE_RECEPTION,
    }
}

/// Reads the role of a program in a direction. Returns `None` if this Byway does not know the role there.
pub(super) fn read_role(wire: u8, direction: Direction) -> Option<Role> {
    let role = match wire {
        ROLE_DEPARTURE => Role::Departure,
        ROLE_ARRIVAL => Role::Arrival,
        ROLE_RECEPTION => Role::Reception,
        _ => return None,
    };
    (role.direction() == direction).then_some(role)
}

/// Returns the record of a requested attachment with this name.
pub(super) fn request(device: &str) -> ProgramRecord {
    ProgramRecord { name: name(device), role: ROLE_DEPARTURE, hook: 0, qdisc_added: 0, reserved: 0 }
}

/// Reads the name of a requested attachment, which is empty for the devices that carry a default route.
pub(super) fn read_request(wire: &[u8]) -> String {
    if text(wire).is_empty() { String::new() } else { read_device(wire, 0).name }
}

/// Returns the record of a program on a device.
pub(super) fn program_record(device: &Device, program: Role, attached: Attached) -> ProgramRecord {
    ProgramRecord {
        name: name(&device.name),
        role: role(program),
        hook: if attached.hook == Hook::Tcx { HOOK_TCX } else { HOOK_CLSACT },
        qdisc_added: attached.qdisc_added.into(),
        reserved: 0,
    }
}

/// Reads how a program is attached.
pub(super) fn attached(record: &ProgramRecord) -> Attached {
    Attached {
        hook: if record.hook == HOOK_CLSACT { Hook::Clsact } else { Hook::Tcx },
        qdisc_added: record.qdisc_added != 0,
    }
}

/// Returns the record of a rule. `devices` is the set of those that it names after `reply-to`, or 0. `kind` and `index` are those
/// of its target.
pub(crate) fn rule_record(
    selector: &Selector,
    action: &Action,
    devices: u8,
    (kind, index): (u8, u32),
) -> RuleRecord {
    let source = selector.source();
    let destination = selector.destination().unwrap_or(Prefix::all_like(source.address()));
    RuleRecord {
        source: address(source.address()),
        destination: address(destination.address()),
        family: family(source.address()),
        index,
        source_len: source.len(),
        destination_len: destination.len(),
        owner: action.owner.number(),
        kind: if action.reply_to { kind | TARGET_REPLY_TO } else { kind },
        on_down: on_down(action.on_down),
        devices,
        mss: mss(action.mss),
        name: name(action.name.as_deref().unwrap_or("")),
    }
}

/// Returns the target for the packets of a rule.
pub(super) fn target(id: u32, record: &RuleRecord) -> byway_abi::Target {
    let RuleRecord { kind, on_down, mss, mut index, .. } = *record;
    if is_reply_to(kind) {
        index = index & LAST_INDEX_OF_REPLIES | u32::from(record.devices) << 24;
    }
    byway_abi::Target { rule: id, kind, on_down, mss, index }
}

/// Whether only a newer Byway can have made a rule of this kind. A source table keeps only the last bits of a kind
/// ([`KIND`]), so no kind of a rule may have the last bits of another one that the programs know.
pub(super) fn is_unknown(kind: u8) -> bool {
    let last = kind & KIND as u8;
    last == TARGET_REPLY_TO || (last > TARGET_REPLY_TO && !is_reply_to(last))
}

/// Reads the selector of a record.
pub(super) fn selector(record: &RuleRecord) -> Option<Selector> {
    let source = Prefix::holding(read_address(record.family, record.source)?, record.source_len)?;
    let destination =
        Prefix::holding(read_address(record.family, record.destination)?, record.destination_len)?;
    Some(Selector::new(source, Some(destination)))
}

/// Reads the rule in a record, which has this target. `sets` are the sets of devices by their numbers.
pub(crate) fn rule(record: &RuleRecord, target: Target, sets: &BTreeMap<u8, DeviceSet>) -> Option<Rule> {
    Some(Rule::of(selector(record)?, &action(record, target, sets)?))
}

/// Reads the action of a record, which has this target. Returns `None` if there is no such set of devices.
pub(super) fn action(record: &RuleRecord, target: Target, sets: &BTreeMap<u8, DeviceSet>) -> Option<Action> {
    let name = read_name(&record.name);
    let reply_to = is_reply_to(record.kind);
    let devices = match record.devices {
        set if reply_to && set != 0 => sets.get(&set)?,
        _ => &DeviceSet::new(),
    };
    Some(Action {
        reply_to,
        reply_to_dev: devices.keys().cloned().collect(),
        target,
        on_down: read_on_down(record.on_down),
        mss: read_mss(record.mss),
        owner: Owner::new(record.owner),
        name: (!name.is_empty()).then_some(name),
    })
}

pub(super) fn set_record(source: &Prefix) -> SetRecord {
    SetRecord {
        source: address(source.address()),
        family: family(source.address()),
        source_len: source.len().into(),
    }
}

pub(super) fn read_set(record: &SetRecord) -> Option<Prefix> {
    Prefix::holding(read_address(record.family, record.source)?, u8::try_from(record.source_len).ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use byway_abi::{TARGET_DROP, TARGET_PASS, sources};
    use proptest::prelude::*;

    use super::*;

    fn any_prefix(v4: bool) -> impl Strategy<Value = Prefix> {
        (any::<[u8; 16]>(), 0..=128_u8).prop_map(move |(wire, length)| {
            let address = read_address(if v4 { FAMILY_IPV4 } else { FAMILY_IPV6 }, wire).unwrap();
            Prefix::holding(address, if v4 { length % 33 } else { length }).unwrap()
        })
    }

    fn any_rule() -> impl Strategy<Value = (Selector, Action)> {
        let prefixes =
            any::<bool>().prop_flat_map(|v4| (any_prefix(v4), proptest::option::of(any_prefix(v4))));
        let name = proptest::option::of("[a-z]{1,32}");
        let devices = proptest::collection::btree_set("[a-z]{1,15}", 0..3);
        (prefixes, any::<[bool; 3]>(), devices, any::<u16>(), any::<u8>(), name).prop_map(
            |((source, destination), [reply_to, passes, drops], devices, mss, owner, name)| {
                let action = Action {
                    reply_to,
                    reply_to_dev: if reply_to { devices } else { BTreeSet::new() },
                    target: if passes { Target::Pass } else { Target::Drop },
                    on_down: if drops { OnDown::Drop } else { OnDown::Pass },
                    mss: read_mss(mss),
                    owner: Owner::new(owner),
                    name,
                };
                (Selector::new(source, destination), action)
            },
        )
    }

    proptest! {
        #[test]
        fn a_rule_survives_its_record((selector, action) in any_rule()) {
            let kind = if action.target == Target::Pass { TARGET_PASS } else { TARGET_DROP };
            let set = if action.reply_to_dev.is_empty() { 0 } else { 200 };
            let record = rule_record(&selector, &action, set, (kind, 7));
            let devices = action.reply_to_dev.iter().map(|name| (name.clone(), 7)).collect();
            let sets = BTreeMap::from([(200, devices)]);
            prop_assert_eq!(rule(&record, action.target.clone(), &sets), Some(Rule::of(selector, &action)));
            let target = target(1, &record);
            prop_assert_eq!((target.devices(), target.without_reply_to().index), (set.into(), 7));
        }

        #[test]
        fn what_a_table_has_of_an_unknown_kind_is_left_alone(kind: u8, on_down: u8, mss: u16, index: u32) {
            let target = byway_abi::Target { rule: 1, kind, on_down, mss, index };
            let entry = sources::Entry { target, length: 32, is_own: true };
            let found = sources::target(entry.word(), 1).kind;
            let is_known = (1..TARGET_REPLY_TO).contains(&found) || is_reply_to(found);
            prop_assert!(!is_unknown(kind) || !is_known, "{} is {} there", kind, found);
        }

        #[test]
        fn a_next_hop_survives_its_slot(gateway: Option<[u8; 16]>, v4: bool, index: u32, device in "[a-z0-9]{1,15}", found: bool, is_learned: bool) {
            let learned = is_learned.then_some(if v4 { Learned::Dhcp } else { Learned::Ra });
            let gateway = gateway.map(|wire| read_address(if v4 { FAMILY_IPV4 } else { FAMILY_IPV6 }, wire).unwrap());
            let gateway = gateway.filter(|gateway| learned.is_none() || !gateway.is_unspecified());
            let by_route = found && gateway.is_some() && learned.is_none();
            let device = if index == 0 && by_route { String::new() } else { device };
            // Nobody asks for a packet's own destination where the gateway is to be learned.
            let index = if learned.is_some() && gateway.is_none() { 0 } else { index };
            let before = NextHop { gateway, device: Device { name: device, index }, by_route, learned };
            prop_assert_eq!(read_next_hop(&next_hop(&before, 0, 1500)), Some(before));
        }

        #[test]
        fn a_name_is_plain_text_whatever_is_there(wire: [u8; 32], index: u32) {
            let is_plain = |name: &str| name.chars().all(|it| !it.is_control() && !it.is_whitespace());
            prop_assert!(is_plain(&read_name(&wire)));
            let device = read_device(&wire[..16], index);
            prop_assert!(is_plain(&device.name) && !device.name.is_empty());
        }

        #[test]
        fn a_neighbour_survives_its_key(v4: bool, wire: [u8; 16], index: u32, tail: u8) {
            let gateway = read_address(if v4 { FAMILY_IPV4 } else { FAMILY_IPV6 }, wire).unwrap();
            let mut key = neighbour_key(index, gateway);
            prop_assert_eq!(read_neighbour(&key), Some((index, gateway)));
            key.gateway[15] = tail;
            prop_assert!(read_neighbour(&key).is_none_or(|(index, gateway)| neighbour_key(index, gateway) == key));
        }

        #[test]
        fn no_record_makes_the_reader_panic(bytes: [[u8; 16]; 2], numbers: [u32; 2], small: [u8; 5], name: [u8; 32]) {
            let record = RuleRecord {
                source: bytes[0], destination: bytes[1], family: numbers[0] % 12, index: numbers[1],
                source_len: small[0], destination_len: small[1], owner: small[2], kind: small[3], on_down: small[4],
                devices: small[4], mss: numbers[1] as u16, name,
            };
            let _ = rule(&record, Target::Drop, &BTreeMap::new());
            let _ = read_set(&SetRecord { source: bytes[0], family: numbers[0] % 12, source_len: numbers[1] % 256 });
        }
    }
}
