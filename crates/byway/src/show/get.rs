//! What becomes of the packets of a flow, and why: the tables and the routes are asked, and no packet is sent.

mod answer;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

pub use self::answer::{Action, Decision, LeftAlone, Route, Way};
use super::{
    flows::{self, ReplyFlow, ReplyWay},
    lookup::Lookup,
    status::{Attachment, NextHopState, attachments, monotonic_now, state},
};
use crate::{
    error::Result,
    kernel::{
        decision::{self, Found},
        leaves,
        network::Network,
        pins::Pins,
        route_get::{Routed, incoming},
        snapshot::read_consistent,
        wire::words,
    },
    model::{Device, FlowSpec, Missing, Protocol, Rule},
    policy::{
        obstacles::Obstacle,
        resolve::below,
        snapshot::{Host, Link, Questions},
        state::Role,
    },
};
use byway_abi::{
    BUCKETS, MAX_MEMBERS, ON_DOWN_DROP, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, Target,
    flow::{TRIES, hash, rehash},
    is_reply_to,
};

/// Everything that a decision rests on.
struct Facts {
    found: Found,
    /// The rules that match the flow, the most specific one first, each with its identity.
    rules: Vec<(u32, Rule)>,
    /// The next hops by their slots.
    ways: BTreeMap<u32, Way>,
    /// The flow in the table, if a reply of it would be sent back.
    reply: Option<ReplyFlow>,
    attachments: Vec<Attachment>,
    routed: Option<Routed>,
    host: Host,
}

/// Asks the kernel what becomes of the packets of a flow.
pub(crate) fn read(pins: Option<&Pins>, network: &mut Network, flow: &FlowSpec) -> Result<Decision> {
    let mut facts = read_consistent(pins, || read_pins(pins, network, flow))?;
    incoming(flow, &facts.host.links)?;
    facts.routed = match flow.destination {
        Some(destination) => Some(network.route_of(flow, destination, &facts.host.links)?),
        None => None,
    };
    let questions = Questions { rp_filter: true, ..Questions::default() };
    facts.host = network.host(facts.host.links, &questions, true)?;
    let mut decision = decide(flow, facts);
    if decision.action == Action::Redirect {
        let is_said = |way: &&Way| way.state != NextHopState::Up || way.is_doubtful;
        let taken = decision.ways.iter().filter(|way| way.is_taken && !is_said(way));
        let taken = taken.map(|way| way.next_hop.clone()).collect();
        let unanswered = leaves::unanswered(network, &taken, ANSWER_WITHIN)?;
        decision.warnings.extend(unanswered.into_iter().map(|it| Obstacle::NoAnswer(it).sentence()));
    }
    Ok(decision)
}

/// How long a gateway has to answer that the kernel has just asked. In one network that takes a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

fn read_pins(pins: Option<&Pins>, network: &mut Network, flow: &FlowSpec) -> Result<Facts> {
    let mut facts = Facts {
        found: Found::Nothing,
        rules: Vec::new(),
        ways: BTreeMap::new(),
        reply: None,
        attachments: Vec::new(),
        routed: None,
        host: Host::default(),
    };
    let Some(pins) = pins else {
        facts.host.links = network.links()?;
        return Ok(facts);
    };
    let tables = &pins.tables;
    let lookup = Lookup::read(tables, network)?;
    facts.found = decision::look_up(tables, flow.source, flow.destination)?;
    let records = decision::rules(tables, flow.source, flow.destination)?;
    facts.rules = records.iter().filter_map(|(id, record)| Some((*id, lookup.rule(record)?))).collect();
    facts.attachments = attachments(pins, network, &lookup.links)?;
    let now = monotonic_now()?;
    for slot in slots(&facts.found) {
        let Some((next_hop, at)) = lookup.next_hop(slot) else { continue };
        let health = tables.next_hops.health(slot)?;
        let link = lookup.links.get(&next_hop.device.index).filter(|_| !at.is_gone);
        let state = state(next_hop, at, &health, tables.next_hops.verdict(slot)?, now);
        let way = Way {
            is_doubtful: state == NextHopState::Up && health.silent_since != 0,
            device_down: link.is_some_and(|link| !link.is_up),
            no_carrier: link.is_some_and(|link| link.is_up && !link.has_carrier),
            mtu: link.map(|link| link.mtu),
            ..Way::new(next_hop.clone(), state)
        };
        facts.ways.insert(slot, way);
    }
    if let (Found::Target { target, .. }, Ok(key)) = (&facts.found, flows::key(flow))
        && is_reply_to(target.kind)
    {
        facts.reply = flows::find(pins, network, &lookup.links, &key)?;
        // A flow that came in by another device is none of this rule's.
        let is_meant = |way: &ReplyWay| lookup.is_of(target.devices(), way.device.index);
        facts.reply.take_if(|it| it.way.as_ref().is_some_and(|way| !is_meant(way)));
    }
    facts.host.links = lookup.links;
    Ok(facts)
}

/// The slots that a target leads to.
fn slots(found: &Found) -> Vec<u32> {
    match found {
        Found::Target { group: Some(group), .. } => members(group).to_vec(),
        Found::Target { target, .. } => match target.without_reply_to() {
            Target { kind: TARGET_NEXT_HOP, index, .. } => vec![index],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn members(group: &byway_abi::Group) -> &[u32] {
    &group.members[..(group.count as usize).min(MAX_MEMBERS)]
}

fn decide(flow: &FlowSpec, facts: Facts) -> Decision {
    let Facts { found, rules, mut ways, reply, attachments, routed, host } = facts;
    let is_broadcast = matches!(routed, Some(Routed::Leaves { is_broadcast: true, .. }));
    let left_alone = left_alone(flow, is_broadcast);
    let attached: Vec<Device> = attachments
        .iter()
        .filter(|it| it.role == Role::Departure && it.is_installed)
        .map(|it| it.device.clone())
        .collect();
    let mut decision = Decision {
        left_alone,
        seen_by: seen_by(routed.as_ref(), &attached, &host.links),
        attachments: attached,
        ..Decision::new(flow.clone())
    };
    match found {
        _ if left_alone.is_some() => {}
        Found::Nothing => {}
        Found::ByDestination => {
            decision.action = Action::Depends;
            decision.depends_on = vec![Missing::To];
            decision.beaten = rules.into_iter().map(|(_, rule)| rule).collect();
        }
        Found::Target { target, group } => {
            let (own, others): (Vec<_>, Vec<_>) = rules.into_iter().partition(|(id, _)| *id == target.rule);
            decision.rule = own.into_iter().map(|(_, rule)| rule).next();
            decision.beaten = others.into_iter().map(|(_, rule)| rule).collect();
            let sent_back = is_reply_to(target.kind).then(|| act_on_reply(flow, reply.as_ref())).flatten();
            // What may be no reply may go to the target as well.
            let is_known = reply.as_ref().is_some_and(ReplyFlow::is_sent_back);
            let of_target = (!is_known).then(|| act(flow, &target, group.as_deref(), &mut ways));
            let nothing = (Action::Pass, Vec::new());
            (decision.action, decision.depends_on) = sent_back.or(of_target).unwrap_or(nothing);
            decision.reply = reply;
            decision.ways =
                slots(&Found::Target { target, group }).iter().filter_map(|slot| ways.remove(slot)).collect();
        }
    }
    decision.warnings = warnings(&decision, routed.as_ref(), &attachments, &host);
    decision.route = match routed {
        None => Route::Unknown,
        Some(Routed::Leaves { device, gateway, .. }) => Route::Leaves { device, gateway },
        Some(Routed::Local) => Route::Local,
        Some(Routed::NoRoute) => Route::NoRoute,
        Some(Routed::SourceNotLocal) => Route::SourceNotLocal,
        Some(Routed::NotForwarded) => Route::NotForwarded,
    };
    decision
}

/// Why the programs do not look at the rules, if they do not (`crates/byway-ebpf/src/packet.rs`).
fn left_alone(flow: &FlowSpec, is_broadcast: bool) -> Option<LeftAlone> {
    let is_link_local = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let to = flow.destination;
    if to.is_some_and(|to| to.is_multicast()) {
        return Some(LeftAlone::Multicast);
    }
    if is_link_local(flow.source) || to.is_some_and(is_link_local) {
        return Some(LeftAlone::LinkLocal);
    }
    let is_broadcast = is_broadcast || matches!(to, Some(IpAddr::V4(v4)) if v4.is_broadcast());
    is_broadcast.then_some(LeftAlone::Broadcast)
}

/// The attachments that a packet leaves by: the device that the route leads to, or those below it.
fn seen_by(routed: Option<&Routed>, attached: &[Device], links: &BTreeMap<u32, Link>) -> Vec<Device> {
    let Some(Routed::Leaves { device, .. }) = routed else { return Vec::new() };
    if let Some(own) = attached.iter().find(|it| it.index == device.index) {
        return vec![own.clone()];
    }
    let below = links.get(&device.index).map(|link| below(links, link)).unwrap_or_default();
    attached.iter().filter(|it| below.contains(&it.index)).cloned().collect()
}

fn fallen_back(on_down: u8) -> Action {
    if on_down == ON_DOWN_DROP { Action::Drop } else { Action::Pass }
}

/// What becomes of the packet if it is, or may be, a reply that goes back, and what that depends on. `None` if it is none.
fn act_on_reply(flow: &FlowSpec, reply: Option<&ReplyFlow>) -> Option<(Action, Vec<Missing>)> {
    match (flow.parts(), reply.filter(|it| it.is_sent_back())) {
        (Err(missing), _) => Some((Action::ReplyTo, missing)),
        // A number tells echoes apart, which is not known.
        (Ok((_, protocol)), _) if protocol.is_icmp() => Some((Action::ReplyTo, Vec::new())),
        (Ok(_), None) => None,
        (Ok(_), Some(_)) => Some((Action::ReplyTo, Vec::new())),
    }
}

/// What the target does with the packet, and what that depends on. Marks the ways that the flow takes.
fn act(
    flow: &FlowSpec,
    target: &Target,
    group: Option<&byway_abi::Group>,
    ways: &mut BTreeMap<u32, Way>,
) -> (Action, Vec<Missing>) {
    let target = target.without_reply_to();
    match (target.kind, group) {
        (TARGET_DROP, _) => (Action::Drop, Vec::new()),
        (TARGET_NEXT_HOP, _) => match ways.get_mut(&target.index) {
            Some(way) => {
                (way.is_own, way.is_taken) = (true, life(way) != Life::Dead);
                let action = if way.is_taken { Action::Redirect } else { fallen_back(target.on_down) };
                (action, Vec::new())
            }
            None => (fallen_back(target.on_down), Vec::new()),
        },
        (TARGET_GROUP, Some(group)) => {
            for (slot, weight) in members(group).iter().zip(group.weights) {
                ways.entry(*slot).and_modify(|way| match weight {
                    0 => way.is_backup = true,
                    weight => way.weight = Some(weight),
                });
            }
            let life = |slot: u32| ways.get(&slot).map_or(Life::Dead, life);
            let (own, taken) = match flow_hash(flow) {
                Ok(hash) => {
                    let pick = pick(group, hash, life);
                    (Some(pick.own), Vec::from_iter(pick.slot))
                }
                Err(_) => (None, possible(group, life)),
            };
            taken.iter().for_each(|slot| {
                ways.entry(*slot).and_modify(|way| way.is_taken = true);
            });
            if let Some(own) = own {
                ways.entry(own).and_modify(|way| way.is_own = true);
            }
            let missing = flow_hash(flow).err().filter(|_| taken.len() > 1).unwrap_or_default();
            (if taken.is_empty() { fallen_back(group.on_down) } else { Action::Redirect }, missing)
        }
        (TARGET_GROUP, None) => (fallen_back(target.on_down), Vec::new()),
        // A `pass`, and what only a newer byway knows.
        _ => (Action::Pass, Vec::new()),
    }
}

/// The hash of the flow's packets as the programs compute it (`crates/byway-ebpf/src/flow.rs`), or what is missing for it.
fn flow_hash(flow: &FlowSpec) -> std::result::Result<u32, Vec<Missing>> {
    let (destination, protocol) = flow.parts()?;
    let ports = [flow.source_port, flow.destination_port].map(|port| u32::from(port.unwrap_or(0)));
    let ports = if protocol.has_ports() { ports[0] << 16 | ports[1] } else { 0 };
    Ok(hash(words(flow.source), words(destination), protocol.number().into(), ports))
}

/// The state that the programs consider a next hop to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Dead,
    /// Packets go there only if they have no other way.
    Doubtful,
    Live,
}

fn life(way: &Way) -> Life {
    match way.state {
        // The next packet finds out.
        _ if way.device_down || way.no_carrier => Life::Dead,
        NextHopState::Up if way.is_doubtful => Life::Doubtful,
        NextHopState::Up => Life::Live,
        _ => Life::Dead,
    }
}

/// Which member of a group a flow gets.
struct Pick {
    /// The slot of the member that the flow belongs to.
    own: u32,
    /// The slot of the member that the flow gets.
    slot: Option<u32>,
}

/// Picks the member of a group that a flow gets, by the same steps as the programs (`pick_member` in
/// `crates/byway-ebpf/src/next_hop.rs`).
fn pick(group: &byway_abi::Group, flow: u32, life: impl Fn(u32) -> Life) -> Pick {
    let slot_of = |member: u32| group.members[member as usize % MAX_MEMBERS];
    let buckets = std::iter::successors(Some(flow), |hash| Some(rehash(*hash)))
        .take(TRIES)
        .map(|hash| u32::from(group.buckets[hash as usize % BUCKETS]));
    let primaries = group.count.wrapping_sub(group.backups.into());
    let in_turn = (0..group.count.min(MAX_MEMBERS as u32)).map(|nth| match nth < primaries {
        true => flow.wrapping_add(nth) % primaries,
        false => nth,
    });
    let tried: Vec<u32> = buckets.chain(in_turn).map(slot_of).collect();
    let first = |wanted: Life| tried.iter().copied().find(|slot| life(*slot) == wanted);
    Pick { own: tried[0], slot: first(Life::Live).or_else(|| first(Life::Doubtful)) }
}

/// The members that some flow gets. Each that is no backup has at least one bucket, so these are all live ones, or else the first
/// live backup, or else the doubtful ones likewise.
fn possible(group: &byway_abi::Group, life: impl Fn(u32) -> Life) -> Vec<u32> {
    let (members, backups) = (members(group), usize::from(group.backups));
    let (primaries, backups) = members.split_at(members.len().saturating_sub(backups));
    let all = |wanted: Life| -> Vec<u32> {
        let is_wanted = |slot: &&u32| life(**slot) == wanted;
        let first_backup = || backups.iter().find(is_wanted);
        let found: Vec<u32> = primaries.iter().filter(is_wanted).copied().collect();
        if found.is_empty() { first_backup().copied().into_iter().collect() } else { found }
    };
    let live = all(Life::Live);
    if live.is_empty() { all(Life::Doubtful) } else { live }
}

fn warnings(
    decision: &Decision,
    routed: Option<&Routed>,
    attachments: &[Attachment],
    host: &Host,
) -> Vec<String> {
    let flow = &decision.flow;
    let mut warnings = Vec::new();
    let departures = attachments.iter().filter(|it| it.role == Role::Departure);
    warnings.extend(departures.filter_map(Attachment::trouble));
    if let Some(Routed::Leaves { device, gateway, is_resolvable: false, .. }) = routed {
        let who = gateway.or(flow.destination).map(|who| who.to_string()).unwrap_or_default();
        warnings.push(format!(
            "{who} does not answer on {}, so the kernel holds the packets back before Byway sees them",
            device.name
        ));
    }
    let stays = matches!(routed, Some(Routed::Local | Routed::NoRoute | Routed::NotForwarded));
    if stays || decision.action != Action::Redirect {
        return warnings;
    }
    let taken = || decision.ways.iter().filter(|way| way.is_taken);
    let own_device = match routed {
        Some(Routed::Leaves { device, .. }) => Some(device),
        _ => None,
    };
    let mut devices: Vec<&Device> = Vec::new();
    for way in taken() {
        let device = &way.next_hop.device;
        if devices.contains(&device) {
            continue;
        }
        devices.push(device);
        let is_strict = flow.source.is_ipv4() && host.strict_rp_filter.contains(&device.index);
        if is_strict && own_device.is_none_or(|own| own.index != device.index) {
            let name = &device.name;
            let whom = match (flow.destination, own_device) {
                (Some(to), Some(own)) => {
                    format!("requests of {to}, since the route back to it leaves by {}", own.name)
                }
                _ => format!("requests unless the route back to the sender leaves by {name}"),
            };
            warnings.push(format!(
                "{name} drops {whom} (strict rp_filter); `sysctl {}=2` lets them in",
                crate::policy::obstacles::rp_filter_of(name)
            ));
        }
        let wider = decision.seen_by.iter().filter_map(|seen| host.links.get(&seen.index));
        if let (Some(mtu), Some(wider)) = (way.mtu, wider.max_by_key(|link| link.mtu))
            && mtu < wider.mtu
        {
            warnings.push(format!(
                "{} takes packets of {mtu} bytes, {} of {}: those that are too big get an ICMP error",
                device.name, wider.device.name, wider.mtu
            ));
        }
    }
    if flow.protocol == Some(Protocol::ICMPV6) {
        warnings.push("neighbour discovery (ICMPv6 types 133 to 137) is never redirected".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::model::NextHop;

    fn group(members: &[(u32, u16)]) -> byway_abi::Group {
        let mut group = byway_abi::Group {
            members: [0; MAX_MEMBERS],
            weights: [0; MAX_MEMBERS],
            count: members.len() as u32,
            on_down: 0,
            owner: 1,
            backups: members.iter().filter(|(_, weight)| *weight == 0).count() as u16,
            name: [0; byway_abi::GROUP_NAME_LEN],
            buckets: crate::policy::buckets::assign(members, None),
        };
        for (nth, (slot, weight)) in members.iter().enumerate() {
            (group.members[nth], group.weights[nth]) = (*slot, *weight);
        }
        group
    }

    fn device(name: &str, index: u32) -> Device {
        Device { name: name.into(), index }
    }

    fn way(gateway: &str, device: Device) -> Way {
        let next_hop = NextHop::new(Some(gateway.parse().unwrap()), device);
        Way { mtu: Some(1_500), ..Way::new(next_hop, NextHopState::Up) }
    }

    /// To a group of two next hops on `eth1`.
    fn facts() -> Facts {
        let eth1 = || device("eth1", 3);
        let target = Target { rule: 7, kind: TARGET_GROUP, on_down: 0, mss: 0, index: 1 };
        let rule = |words: &str, target| Rule::new(words.parse().unwrap(), target);
        Facts {
            found: Found::Target { target, group: Some(Box::new(group(&[(1, 1), (2, 3)]))) },
            rules: vec![
                (7, rule("from 192.0.2.7", crate::model::Target::Group("up".into()))),
                (3, rule("from 192.0.2.0/24", crate::model::Target::Pass)),
            ],
            reply: None,
            ways: [(1, way("10.0.0.1", eth1())), (2, way("10.0.0.2", eth1()))].into(),
            attachments: vec![Attachment::new(
                device("eth0", 2),
                Role::Departure,
                crate::kernel::hook::Hook::Tcx,
            )],
            routed: Some(Routed::Leaves {
                device: device("eth0", 2),
                gateway: None,
                is_broadcast: false,
                is_resolvable: true,
            }),
            host: Host::default(),
        }
    }

    fn ask(words: &str, facts: Facts) -> Decision {
        decide(&words.parse().unwrap(), facts)
    }

    fn taken(decision: &Decision) -> usize {
        decision.ways.iter().filter(|way| way.is_taken).count()
    }

    const WHOLE: &str = "192.0.2.7 to 198.51.100.9 proto tcp sport 80 dport 4711";

    #[test]
    fn what_is_not_known_of_a_flow_is_named_where_it_matters() {
        for (words, missing) in [
            (WHOLE, vec![]),
            ("192.0.2.7 to 198.51.100.9 proto icmp", vec![]),
            ("192.0.2.7 to 198.51.100.9 proto tcp dport 80", vec![Missing::Sport]),
            ("192.0.2.7 to 198.51.100.9", vec![Missing::Proto, Missing::Sport, Missing::Dport]),
            ("192.0.2.7 proto icmp", vec![Missing::To]),
        ] {
            let decision = ask(words, facts());
            assert_eq!(decision.depends_on, missing, "{words}");
            assert_eq!(taken(&decision), if missing.is_empty() { 1 } else { 2 }, "{words}");
            assert_eq!((decision.action, decision.beaten.len()), (Action::Redirect, 1), "{words}");
            assert_eq!(decision.rule.unwrap().source.to_string(), "192.0.2.7");
            // Where only one is in service, nothing matters.
            let mut facts = facts();
            facts.ways.get_mut(&1).unwrap().state = NextHopState::Silent;
            let decision = ask(words, facts);
            assert_eq!((decision.depends_on.as_slice(), taken(&decision)), (&[][..], 1), "{words}");
            assert!(decision.ways[1].is_taken);
        }
    }

    #[test]
    fn a_next_hop_that_may_answer_yet_gets_what_has_no_other_way() {
        let mut doubtful = facts();
        doubtful.ways.values_mut().for_each(|way| way.state = NextHopState::Down);
        assert_eq!(ask(WHOLE, doubtful).action, Action::Pass);
        let mut doubtful = facts();
        doubtful.ways.get_mut(&1).unwrap().is_doubtful = true;
        doubtful.ways.get_mut(&2).unwrap().device_down = true;
        let decision = ask(WHOLE, doubtful);
        assert_eq!(
            (decision.action, decision.ways[0].is_taken, decision.ways[1].is_taken),
            (Action::Redirect, true, false)
        );
    }

    #[test]
    fn what_no_rule_may_speak_about_is_left_alone() {
        for (words, class) in [
            ("192.0.2.7 to 224.0.0.5", LeftAlone::Multicast),
            ("169.254.1.1 to 224.0.0.5", LeftAlone::Multicast),
            ("192.0.2.7 to 255.255.255.255", LeftAlone::Broadcast),
            ("192.0.2.7 to 169.254.0.1", LeftAlone::LinkLocal),
            ("169.254.1.1", LeftAlone::LinkLocal),
            ("2001:db8::7 to ff02::1", LeftAlone::Multicast),
            ("2001:db8::7 to fe80::1", LeftAlone::LinkLocal),
            ("febf::1 to 2001:db8::7", LeftAlone::LinkLocal),
        ] {
            let decision = ask(words, facts());
            assert_eq!((decision.left_alone, decision.action), (Some(class), Action::Pass), "{words}");
            assert_eq!((decision.rule, decision.ways.len()), (None, 0), "{words}");
        }
        let mut broadcast = facts();
        let Some(Routed::Leaves { is_broadcast, .. }) = &mut broadcast.routed else { panic!("it leaves") };
        *is_broadcast = true;
        assert_eq!(ask(WHOLE, broadcast).left_alone, Some(LeftAlone::Broadcast));
        assert_eq!(ask(WHOLE, facts()).left_alone, None);
    }

    #[test]
    fn an_attachment_sees_what_leaves_by_it_or_by_a_device_above_it() {
        let leaves = |index| Routed::Leaves {
            device: device("br0", index),
            gateway: None,
            is_broadcast: false,
            is_resolvable: true,
        };
        let link = |index, master| Link { master, ..Link::named(index, "it") };
        let links: BTreeMap<u32, Link> =
            [(2, link(2, Some(5))), (3, link(3, None)), (5, link(5, None))].into();
        let attached = [device("eth0", 2), device("eth1", 3)];
        assert_eq!(seen_by(Some(&leaves(3)), &attached, &links), [device("eth1", 3)]);
        assert_eq!(seen_by(Some(&leaves(5)), &attached, &links), [device("eth0", 2)], "a port of the bridge");
        assert!(seen_by(Some(&leaves(4)), &attached, &links).is_empty());
        assert!(seen_by(Some(&Routed::Local), &attached, &links).is_empty());
    }

    #[test]
    fn each_warning_has_its_sentence() {
        let mut facts = facts();
        facts.host.strict_rp_filter = [3].into();
        facts.routed = Some(Routed::Leaves {
            device: device("eth0", 2),
            gateway: Some("192.0.2.1".parse().unwrap()),
            is_broadcast: false,
            is_resolvable: false,
        });
        facts.attachments[0].is_installed = false;
        assert_eq!(
            ask(WHOLE, facts).warnings,
            [
                "byway's program on eth0 is missing (detached by someone else); byway's next change puts it back",
                "192.0.2.1 does not answer on eth0, so the kernel holds the packets back before Byway sees them",
                "eth1 drops requests of 198.51.100.9, since the route back to it leaves by eth0 (strict rp_filter); `sysctl net.ipv4.conf.eth1.rp_filter=2` lets them in",
            ]
        );
        let mut back_by_the_same = self::facts();
        back_by_the_same.host.strict_rp_filter = [3].into();
        back_by_the_same.routed = Some(Routed::Leaves {
            device: device("eth1", 3),
            gateway: None,
            is_broadcast: false,
            is_resolvable: true,
        });
        assert_eq!(ask(WHOLE, back_by_the_same).warnings, [""; 0]);
    }

    proptest! {
        /// Whatever the flow, it gets a live member if there is one, its own if that is live, and one of those that are said to be
        /// possible.
        #[test]
        fn a_flow_gets_one_of_the_possible_members(
            weights in vec(1_u16..=256, 1..=MAX_MEMBERS), states in vec(0..3_usize, MAX_MEMBERS), flow: u32,
            backups in 0..MAX_MEMBERS,
        ) {
            let primaries = weights.len() - backups.min(weights.len() - 1);
            let weights = weights.iter().enumerate().map(|(nth, it)| if nth < primaries { *it } else { 0 });
            let members: Vec<(u32, u16)> = (1..).zip(weights).collect();
            let group = group(&members);
            let life = |slot: u32| [Life::Dead, Life::Doubtful, Life::Live][states[slot as usize - 1]];
            let (pick, possible) = (pick(&group, flow, life), possible(&group, life));
            prop_assert_eq!(pick.slot.is_some(), !possible.is_empty());
            prop_assert!(pick.slot.is_none_or(|slot| possible.contains(&slot)));
            prop_assert!(life(pick.own) != Life::Live || pick.slot == Some(pick.own));
        }

        /// No group that somebody has damaged makes it panic.
        #[test]
        fn no_group_makes_the_search_panic(count: u32, member: u8, slot: u32, flow: u32) {
            let mut group = group(&[(1, 1)]);
            (group.count, group.buckets, group.members) = (count, [member; BUCKETS], [slot; MAX_MEMBERS]);
            let _ = pick(&group, flow, |_| Life::Dead);
            let _ = possible(&group, |_| Life::Doubtful);
        }
    }

    #[test]
    fn an_address_is_words_in_the_packets_order() {
        assert_eq!(words("192.0.2.7".parse().unwrap()), [u32::from_ne_bytes([192, 0, 2, 7]), 0, 0, 0]);
        let [first, .., last] = words("2001:db8::7".parse().unwrap());
        assert_eq!([first, last], [[0x20, 1, 0xD, 0xB8], [0, 0, 0, 7]].map(u32::from_ne_bytes));
    }
}
