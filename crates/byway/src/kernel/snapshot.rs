//! Reads a snapshot of the pins and the network stack.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use byway_abi::{
    MAX_RULES, RULE_NAME_LEN, RuleRecord, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, meta,
    without_reply_to,
};

use super::{hook::Attached, network::Network, next_hops, pins::Pins, tables::Tables, wire};
use crate::{
    error::Result,
    model::{Action, Device, NextHop, Selector, Target},
    policy::{
        again::{self, Routes},
        snapshot::{Link, Questions, Snapshot},
        state::{Actual, DeviceSet, Neighbour, Place, Role, Slot, Unseen},
    },
};

/// A device with a program of Byway's, according to its record.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) device: Device,
    /// The device's name in the request. It may have another one by now.
    pub(crate) asked_as: String,
    pub(crate) role: Role,
    pub(crate) attached: Attached,
    /// Whether the program is there, according to the kernel.
    pub(crate) is_installed: bool,
    /// The device is gone. Another one may have its ifindex.
    pub(crate) is_gone: bool,
}

/// Returns the devices with a program, including those that have lost it.
pub(crate) fn installed(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
) -> Result<Vec<Installed>> {
    programs(pins, network, links).map(|(installed, _)| installed)
}

/// Does the same, and also returns the places of programs that this Byway does not know.
///
/// It does not know their role in this direction, because a newer Byway with the same schema has put them there. Only that
/// one can tell what packets need them for. So this Byway never touches such a program, its record, or the pins that they
/// need.
fn programs(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
) -> Result<(Vec<Installed>, BTreeSet<Place>)> {
    let mut installed = Vec::new();
    let mut unknown = BTreeSet::new();
    for (key, record) in pins.tables.attachments.programs()? {
        let Some(place) = wire::read_place(&key) else { continue };
        let index = place.ifindex;
        let attached = wire::attached(&record);
        let hook = attached.hook;
        let recorded = wire::read_role(record.role, place.direction);
        let asked_as = wire::read_device(&record.name, index).name;
        let on_device = match links.get(&index) {
            Some(_) => pins.programs.on_device(network, place, hook, recorded)?,
            None => None,
        };
        // A departure program that came back with its device from another network namespace applies no rules, and a reception
        // program notes no flows.
        let on_device = match on_device {
            Some(Role::Departure) if !pins.tables.attachments.is_watched(index)? => None,
            Some(Role::Reception) if !pins.tables.replies.is_receiver(index)? => None,
            on_device => on_device,
        };
        let is_same = match links.get(&index) {
            Some(link) if on_device.is_none() => {
                !pins.is_of_another(place, hook, recorded, link, &asked_as)?
            }
            link => link.is_some(),
        };
        let link = links.get(&index).filter(|_| is_same);
        let Some(role) = on_device.or(recorded) else {
            unknown.extend(link.map(|_| place));
            continue;
        };
        installed.push(Installed {
            asked_as,
            device: link.map_or_else(|| wire::read_device(&record.name, index), |link| link.device.clone()),
            role,
            attached,
            is_installed: on_device.is_some(),
            is_gone: link.is_none(),
        });
    }
    installed.sort_by(|a, b| (&a.device, a.role).cmp(&(&b.device, b.role)));
    Ok((installed, unknown))
}

/// For how long to read again if something has changed meanwhile.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Up to how many rules a change reads all in any case.
const FEW: usize = 1_000;

/// How much of a snapshot a change needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope<'a> {
    /// The selector of the only rule that the request changes. If there are many rules, only this one is read.
    pub(crate) only: Option<&'a Selector>,
    /// What it needs to know about the network stack.
    pub(crate) questions: Questions,
    /// Whether next hops without a named device follow the routing tables, although their devices still exist.
    pub(crate) follows: bool,
}

impl Scope<'_> {
    /// Needs all rules.
    pub(crate) fn all(questions: Questions) -> Self {
        Self { questions, ..Self::default() }
    }

    /// Fits all requests to the devices and routes of now.
    pub(crate) fn follow() -> Self {
        let questions = Questions { default_routes: true, ..Questions::default() };
        Self { follows: true, ..Self::all(questions) }
    }
}

/// Reads a snapshot: the pinned state as it was between two changes, and the answers of the network stack.
pub(crate) fn snapshot(pins: Option<&Pins>, network: &mut Network, scope: &Scope<'_>) -> Result<Snapshot> {
    let (actual, links) = read_consistent(pins, || read(pins, network, scope))?;
    let asks = actual.attachments().next().is_some()
        || actual.is_auto
        || !actual.lost.is_empty()
        || !actual.awaited.is_empty();
    let host = network.host(links, &scope.questions, asks)?;
    Ok(Snapshot { actual, host })
}

/// Reads the whole pinned state.
pub(super) fn actual(pins: &Pins, network: &mut Network) -> Result<Actual> {
    read_consistent(Some(pins), || read(Some(pins), network, &Scope::default())).map(|(actual, _)| actual)
}

/// Returns what `read` finds between two changes. Calls it again if something has changed meanwhile.
pub(crate) fn read_consistent<T>(pins: Option<&Pins>, mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let stamp = || match pins {
        Some(pins) => [meta::NEXT_RULE, meta::NEXT_SET, meta::NEXT_HOP, meta::GENERATION]
            .iter()
            .map(|slot| pins.tables.meta.get(*slot))
            .collect::<Result<Vec<u32>>>(),
        None => Ok(Vec::new()),
    };
    let give_up = Instant::now() + READ_AGAIN;
    let mut before = stamp()?;
    loop {
        let read = read();
        let after = stamp()?;
        // Under endless changes, the result may lack a rule that was just being replaced.
        if before == after || Instant::now() >= give_up {
            return read;
        }
        before = after;
    }
}

fn read(
    pins: Option<&Pins>,
    network: &mut Network,
    scope: &Scope<'_>,
) -> Result<(Actual, BTreeMap<u32, Link>)> {
    let links = network.links()?;
    let Some(pins) = pins else { return Ok((without_pins(&links), links)) };
    let ButRules { mut actual, slots, groups } = all_but_rules(pins, network, &links, scope.follows)?;
    let sets = actual.device_sets.clone();
    let records = match scope.only {
        Some(selector) => read_one(&pins.tables, selector, &mut actual, &groups)?,
        None if scope.follows => read_none(&pins.tables, &mut actual)?,
        None => None,
    };
    let mut shared = Shared::default();
    let mut found = |id: u32, record: &RuleRecord| {
        let action = shared.action(record, &sets, || target(record.kind, record.index, &slots, &groups))?;
        Some((wire::selector(record)?, (id, action)))
    };
    actual.rules = match records {
        Some(records) => records.iter().filter_map(|(id, record)| found(*id, record)).collect(),
        None => {
            let mut all = Vec::with_capacity(pins.tables.noted_rules()?.min(MAX_RULES) as usize);
            for record in pins.tables.held()? {
                let (id, record) = record?;
                all.extend(found(id, &record));
            }
            // This sorts first, and building the map from sorted rules takes half the memory.
            all.into_iter().collect()
        }
    };
    Ok((actual, links))
}

/// Returns what decides whether requests still fit the devices and routes: everything but the rules, and the devices that carry
/// a default route.
pub(crate) fn read_to_follow(pins: &Pins, network: &mut Network) -> Result<(Actual, BTreeSet<u32>)> {
    let links = network.links()?;
    let actual = all_but_rules(pins, network, &links, true)?.actual;
    let default_routes = if actual.is_auto { network.default_route_devices()? } else { BTreeSet::new() };
    Ok((actual, default_routes))
}

/// Everything but the rules, and what their records lead to.
struct ButRules {
    actual: Actual,
    /// The next hop in each slot.
    slots: BTreeMap<u32, NextHop>,
    /// The groups by identity.
    groups: BTreeMap<u32, byway_abi::Group>,
}

fn all_but_rules(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
    follows: bool,
) -> Result<ButRules> {
    let (mut actual, slots) = without_rules(pins, network, links, follows)?;
    actual.device_sets = pins.tables.replies.device_sets()?;
    for (name, index) in actual.device_sets.values().flatten() {
        let is_same = match links.get(index).filter(|link| link.is_receiver()) {
            Some(link) => link.is_called(name) || pins.tables.replies.is_receiver(*index)?,
            None => false,
        };
        actual.known_as.extend(is_same.then(|| (name.clone(), *index)));
    }
    let groups = groups_of_now(&pins.tables, &slots)?;
    for (id, wire) in &groups {
        if let Some(group) = next_hops::read_group(wire, &slots) {
            actual.groups.insert(group.name.clone(), (*id, group));
        }
    }
    for (index, gateway) in pins.tables.neighbours.all()? {
        let gone = || Device { name: format!("if{index}"), index };
        let device = actual.devices.get(&index).cloned().unwrap_or_else(gone);
        let neighbour = Neighbour { device, gateway };
        if actual.devices.contains_key(&index) && !network.is_kept_resolved(&neighbour)? {
            actual.let_go.insert(neighbour.clone());
        }
        actual.neighbours.insert(neighbour);
    }
    Ok(ButRules { actual, slots, groups })
}

fn without_pins(links: &BTreeMap<u32, Link>) -> Actual {
    Actual {
        devices: links.iter().map(|(index, link)| (*index, link.device.clone())).collect(),
        mtus: links.iter().map(|(index, link)| (*index, link.mtu)).collect(),
        receivers: links.iter().filter(|(_, link)| link.is_receiver()).map(|(index, _)| *index).collect(),
        ..Actual::default()
    }
}

/// Reads everything but rules, groups and neighbours. Also returns the next hop in each slot. If `follows` is set, next hops
/// without a named device are where the routing tables find them now.
pub(crate) fn without_rules(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
    follows: bool,
) -> Result<(Actual, BTreeMap<u32, NextHop>)> {
    let mut actual = without_pins(links);
    let (all, unknown) = programs(pins, network, links)?;
    actual.unknown = unknown;
    let mut requests: BTreeSet<String> = pins.tables.attachments.requests()?.into_values().collect();
    actual.is_auto = requests.remove("");
    let is_gone = |it: &&Installed| it.is_gone && it.role == Role::Departure;
    let gone = all.iter().filter(is_gone).map(|it| it.asked_as.as_str());
    requests.extend(again::outlive(&requests, actual.is_auto, gone));
    for Installed { device, asked_as, role, is_installed, is_gone, .. } in all {
        let is_there = !is_gone;
        if role == Role::Departure && is_there {
            actual.attached_as.insert(device.index, asked_as);
        }
        if is_installed {
            actual.programs.insert(Place::of(&device, role), (device, role));
        } else if role == Role::Departure && is_there {
            actual.lost.insert(device.index, device);
        }
    }

    let mut next_hops = pins.tables.next_hops.all()?;
    let asked_by: Vec<String> = next_hops.iter().map(|(next_hop, _)| next_hop.device.name.clone()).collect();
    name_as_now(&mut next_hops, links);
    let attached = actual.attachments().map(|device| device.index).collect();
    let routes = routes_again(&next_hops, follows, network)?;
    actual.moved = again::resolve_again(&mut next_hops, &routes, follows, links, &attached);
    let mut slots = BTreeMap::new();
    for ((next_hop, slot), name) in next_hops.into_iter().zip(asked_by) {
        slots.insert(slot.index, next_hop.clone());
        actual.asked_by.insert(next_hop.clone(), name);
        actual.next_hops.insert(next_hop, slot);
    }
    actual.health_checks = pins.tables.next_hops.health_checks()?;
    let waits_for_route = actual.is_auto && attached.is_empty() && actual.lost.is_empty();
    let default_routes = if waits_for_route { network.default_route_devices()? } else { BTreeSet::new() };
    again::await_attachments(&mut actual, requests, &default_routes, links);
    Ok((actual, slots))
}

/// Reads the record of the rule for exactly these packets, if there is one, and sets in `actual` what the other rules need.
/// Returns `None` if there are few rules, or if a change of this one may concern others.
fn read_one(
    tables: &Tables,
    selector: &Selector,
    actual: &mut Actual,
    groups: &BTreeMap<u32, byway_abi::Group>,
) -> Result<Option<BTreeMap<u32, RuleRecord>>> {
    let rules = tables.noted_rules()? as usize;
    let is_attached = actual.attachments().next().is_some();
    if rules <= FEW
        || tables.meta.get(meta::CHANGING)? != 0
        || !is_attached
        // The rules that were not read may send replies back.
        || actual.programs.values().any(|(_, role)| *role == Role::Reception)
        || !actual.device_sets.is_empty()
        || !actual.lost.is_empty()
        || !actual.moved.is_empty()
        // More specific sources may inherit this rule, for destinations that they have no rule for.
        || selector.destination().is_some()
        || tables.destinations.has_sets()?
        // Groups of single rules use next hops, too, and are not in `actual`.
        || groups.values().any(|group| wire::read_name(&group.name).is_empty())
    {
        return Ok(None);
    }
    let mut records = BTreeMap::new();
    let next_hops = actual.next_hops.keys().cloned().collect();
    let mut unseen = Unseen { rules, next_hops, ..Unseen::default() };
    if let Some(entry) = tables.source(&selector.source())? {
        let Some(record) = tables.rule_record(entry.rule)? else { return Ok(None) };
        if without_reply_to(record.kind) == TARGET_NEXT_HOP
            && !tables.leads_elsewhere(record.index, entry.rule)?
        {
            unseen.next_hops.retain(|next_hop| actual.next_hops[next_hop].index != record.index);
        }
        unseen.rules -= 1;
        records.insert(entry.rule, record);
    }
    actual.unseen = unseen;
    Ok(Some(records))
}

/// Reads no rule, and sets in `actual` what they need. Returns `None` if the rules may have to change, or if only they can tell.
fn read_none(tables: &Tables, actual: &mut Actual) -> Result<Option<BTreeMap<u32, RuleRecord>>> {
    let sends_back = actual.programs.values().any(|(_, role)| *role == Role::Reception);
    if !actual.moved.is_empty()
        // Without an attachment or a device that requests come in by, a rule that sends replies back has no program.
        || actual.attachments().next().is_none()
        || (!sends_back && tables.replies.has_flows())
        || tables.meta.get(meta::CHANGING)? != 0
    {
        return Ok(None);
    }
    actual.unseen = Unseen {
        rules: tables.noted_rules()? as usize,
        next_hops: actual.next_hops.keys().cloned().collect(),
        sends_back,
        device_sets: actual.device_sets.values().map(|set| set.keys().cloned().collect()).collect(),
    };
    Ok(Some(BTreeMap::new()))
}

/// The actions of rules, each once: a million rules have few different ones.
#[derive(Default)]
struct Shared(HashMap<ActionKey, Option<Arc<Action>>>);

/// The part of a record that determines its action.
#[derive(PartialEq, Eq, Hash)]
struct ActionKey {
    kind: u8,
    index: u32,
    devices: u8,
    on_down: u8,
    mss: u16,
    owner: u8,
    name: [u8; RULE_NAME_LEN],
}

impl Shared {
    /// Returns the action of a record, or `None` if that is invalid.
    fn action(
        &mut self,
        record: &RuleRecord,
        sets: &BTreeMap<u8, DeviceSet>,
        target: impl FnOnce() -> Option<Target>,
    ) -> Option<Arc<Action>> {
        let RuleRecord { kind, index, devices, on_down, mss, owner, name, .. } = *record;
        let key = ActionKey { kind, index, devices, on_down, mss, owner, name };
        let read = || wire::action(record, target()?, sets).map(Arc::new);
        self.0.entry(key).or_insert_with(read).clone()
    }
}

/// Returns all next hops. Each device has its current name. One that is gone keeps its last name, even if another device has
/// its ifindex.
pub(crate) fn next_hops_of_now(tables: &Tables, links: &BTreeMap<u32, Link>) -> Result<Vec<(NextHop, Slot)>> {
    let mut all = tables.next_hops.all()?;
    name_as_now(&mut all, links);
    Ok(all)
}

fn name_as_now(all: &mut [(NextHop, Slot)], links: &BTreeMap<u32, Link>) {
    for (next_hop, slot) in all {
        if let Some(link) = links.get(&next_hop.device.index).filter(|_| !slot.is_gone) {
            next_hop.device = link.device.clone();
        }
    }
}

/// Looks up the routes of next hops that wait for their device, if the routing table decides which it is, or of all such ones,
/// and the gateways that the host has learned.
fn routes_again(all: &[(NextHop, Slot)], follows: bool, network: &mut Network) -> Result<Routes> {
    let meant = all.iter().filter(|(_, slot)| slot.is_gone || follows).map(|(next_hop, _)| next_hop);
    let gateways: BTreeSet<IpAddr> = meant.filter(|it| it.by_route).filter_map(|it| it.gateway).collect();
    let mut devices = BTreeMap::new();
    for gateway in gateways {
        let Some(index) = network.device_for(gateway)? else { continue };
        // A default route without a gateway leads anywhere, and so nowhere else while there is another device.
        let has_left = || {
            let of_gateway = all.iter().filter(|(next_hop, _)| next_hop.gateway == Some(gateway));
            of_gateway
                .filter(|(next_hop, _)| next_hop.by_route)
                .all(|(next_hop, slot)| slot.is_gone || next_hop.device.index == index)
        };
        if has_left() || network.is_connected_to(index, gateway)? {
            devices.insert(gateway, index);
        }
    }
    let learned = all.iter().filter_map(|(next_hop, _)| next_hop.learned).collect();
    Ok(Routes { devices, learned: network.learned_gateways(&learned)? })
}

/// Returns the valid groups by identity, given the next hops in these slots.
pub(crate) fn groups_of_now(
    tables: &Tables,
    slots: &BTreeMap<u32, NextHop>,
) -> Result<BTreeMap<u32, byway_abi::Group>> {
    let mut groups = tables.groups()?;
    groups.retain(|_, wire| next_hops::makes_sense(wire, slots));
    Ok(groups)
}

/// Returns the target of a record, or `None` if it is invalid.
pub(crate) fn target(
    kind: u8,
    index: u32,
    slots: &BTreeMap<u32, NextHop>,
    groups: &BTreeMap<u32, byway_abi::Group>,
) -> Option<Target> {
    match without_reply_to(kind) {
        TARGET_NEXT_HOP => Some(Target::NextHop(slots.get(&index)?.clone())),
        TARGET_GROUP => {
            let wire = groups.get(&index)?;
            let name = wire::read_name(&wire.name);
            if name.is_empty() {
                Some(Target::NextHops(next_hops::members(wire, slots)?))
            } else {
                Some(Target::Group(name))
            }
        }
        TARGET_PASS => Some(Target::Pass),
        TARGET_DROP => Some(Target::Drop),
        kind if wire::is_unknown(kind) => Some(Target::Other { kind, index }),
        _ => None,
    }
}
