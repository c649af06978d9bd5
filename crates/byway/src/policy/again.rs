//! What of earlier requests fits the devices and routes of now: a request outlives its device.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    resolve::below,
    snapshot::Link,
    state::{Actual, Slot},
};
use crate::model::{Device, NextHop};

/// Up to how many requested attachments a vanished device may add another one. A host may attach to thousands of devices in
/// turn.
const MAX_REQUESTS: usize = 256;

/// Returns the names that become requests because their device is gone: those that attachments were requested by.
pub(crate) fn outlive<'a>(
    requests: &BTreeSet<String>,
    is_auto: bool,
    gone: impl Iterator<Item = &'a str>,
) -> BTreeSet<String> {
    if is_auto {
        return BTreeSet::new();
    }
    let room = MAX_REQUESTS.saturating_sub(requests.len());
    gone.filter(|name| !requests.contains(*name)).map(str::to_owned).take(room).collect()
}

/// Finds the device again for next hops that wait for one, or whose device is gone. `by_route` has the device where the routing
/// tables find a gateway now. Returns those that then equal another next hop, each with that one.
pub(crate) fn resolve_again(
    all: &mut [(NextHop, Slot)],
    by_route: &BTreeMap<IpAddr, u32>,
    links: &BTreeMap<u32, Link>,
    attached: &BTreeSet<u32>,
) -> BTreeMap<NextHop, NextHop> {
    let mut moved = BTreeMap::new();
    let in_use = all.iter().filter(|(_, slot)| !slot.is_gone).map(|(next_hop, _)| next_hop.clone());
    let mut in_use: BTreeSet<NextHop> = in_use.collect();
    for (next_hop, _) in all.iter_mut().filter(|(_, slot)| slot.is_gone) {
        let link = match next_hop.gateway {
            Some(gateway) if next_hop.by_route => by_route.get(&gateway).and_then(|index| links.get(index)),
            _ => links.values().find(|link| link.is_called(&next_hop.device.name)),
        };
        let Some(link) = link.filter(|link| !link.is_loopback) else { continue };
        // If it is stacked on an attachment, packets would go round.
        if !below(links, link).is_disjoint(attached) {
            continue;
        }
        let now = NextHop { device: link.device.clone(), ..next_hop.clone() };
        if in_use.insert(now.clone()) {
            *next_hop = now;
        } else {
            moved.insert(next_hop.clone(), now);
        }
    }
    moved
}

/// Notes which requested attachments wait, and which of them need not wait any longer. `default_routes` are the devices that
/// carry a default route, if `auto` attachments wait for one.
pub(crate) fn await_attachments(
    actual: &mut Actual,
    requests: BTreeSet<String>,
    default_routes: &BTreeSet<u32>,
    links: &BTreeMap<u32, Link>,
) {
    let mut found: Vec<&Link> = Vec::new();
    for name in requests {
        let link = links.values().find(|link| link.is_called(&name) && link.is_attachable());
        found.extend(link);
        actual.awaited.insert(name, link.map(|link| link.device.index));
    }
    let default = default_routes.iter().filter_map(|index| links.get(index));
    found.extend(default.filter(|link| link.is_attachable()));
    for link in found {
        let Device { index, .. } = link.device;
        let leaves_by_it = |next_hop: &NextHop| {
            links.get(&next_hop.device.index).is_some_and(|upper| below(links, upper).contains(&index))
        };
        if actual.is_attached(index) {
            continue;
        }
        if actual.next_hops.keys().any(leaves_by_it) {
            // Packets to that next hop would go round.
            actual.awaited.values_mut().filter(|it| **it == Some(index)).for_each(|it| *it = None);
        } else {
            actual.lost.insert(index, link.device.clone());
        }
    }
}
