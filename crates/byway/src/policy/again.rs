//! Fits earlier requests to the devices and routes of now: a request outlives its device.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    resolve::{below, keep},
    snapshot::{LearnedGateways, Link},
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

/// What the routing tables say of next hops that nobody has named in full.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// The device where they find a gateway now.
    pub(crate) devices: BTreeMap<IpAddr, u32>,
    /// The gateways that the host has learned.
    pub(crate) learned: LearnedGateways,
}

impl Routes {
    /// The device and the gateway that a next hop means now.
    fn find<'a>(
        &self,
        next_hop: &NextHop,
        slot: &Slot,
        links: &'a BTreeMap<u32, Link>,
    ) -> Option<(&'a Link, Option<IpAddr>)> {
        let named = || match slot.is_gone {
            true => links.values().find(|link| link.is_called(&next_hop.device.name)),
            false => links.get(&next_hop.device.index),
        };
        match (next_hop.learned, next_hop.gateway) {
            (Some(learned), before) => {
                let link = named()?;
                let all = self.learned.get(&(learned, link.device.index))?;
                Some((link, Some(keep(before, all)?)))
            }
            (None, Some(gateway)) if next_hop.by_route => {
                Some((links.get(self.devices.get(&gateway)?)?, Some(gateway)))
            }
            (None, gateway) => Some((named()?, gateway)),
        }
    }
}

/// Finds the device again for next hops that wait for one, or whose device is gone, and the gateways that the host has learned. If
/// `follows` is set, a next hop that the routing tables found moves there, although its device still exists. Returns those that
/// then equal another next hop, each with that one.
pub(crate) fn resolve_again(
    all: &mut [(NextHop, Slot)],
    routes: &Routes,
    follows: bool,
    links: &BTreeMap<u32, Link>,
    attached: &BTreeSet<u32>,
) -> BTreeMap<NextHop, NextHop> {
    let mut moved = BTreeMap::new();
    let in_use = all.iter().filter(|(_, slot)| !slot.is_gone).map(|(next_hop, _)| next_hop.clone());
    let mut in_use: BTreeSet<NextHop> = in_use.collect();
    let follows = |it: &NextHop| it.learned.is_some() || (follows && it.by_route);
    for (next_hop, slot) in all.iter_mut().filter(|(it, slot)| slot.is_gone || follows(it)) {
        let Some((link, gateway)) = routes.find(next_hop, slot, links) else { continue };
        let stays = !slot.is_gone && link.device == next_hop.device;
        // On a device that is stacked on an attachment, packets would go round.
        let is_fit = || stays || !link.is_loopback && below(links, link).is_disjoint(attached);
        if (stays && gateway == next_hop.gateway) || !is_fit() {
            continue;
        }
        let now = NextHop { gateway, device: link.device.clone(), ..next_hop.clone() };
        if in_use.insert(now.clone()) {
            *next_hop = now;
            // What the slot has is that of another device or gateway.
            slot.is_gone = true;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Learned,
        policy::state::{Place, Role},
    };

    /// eth0 has a macvlan.
    fn links() -> BTreeMap<u32, Link> {
        let names = [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "mac0")];
        let mut links: BTreeMap<u32, Link> =
            names.map(|(index, name)| (index, Link::named(index, name))).into();
        links.entry(4).and_modify(|mac0| mac0.parent = Some(2));
        links
    }

    fn next_hop(gateway: &str, name: &str, index: u32, by_route: bool) -> NextHop {
        let device = Device { name: name.into(), index };
        NextHop { by_route, ..NextHop::new(Some(gateway.parse().unwrap()), device) }
    }

    fn slot(index: u32, is_gone: bool) -> Slot {
        Slot { index, is_down: false, is_gone, mtu: 0 }
    }

    #[test]
    fn a_request_outlives_its_device_up_to_a_limit() {
        let requests: BTreeSet<String> = (0..254).map(|nth| format!("eth{nth}")).collect();
        let gone = ["eth7", "wg0", "wg1", "wg2"];
        let outlived = |is_auto| outlive(&requests, is_auto, gone.into_iter());
        assert_eq!(outlived(false), ["wg0", "wg1"].map(str::to_owned).into());
        // Those that follow the default route were not requested by name.
        assert_eq!(outlived(true), BTreeSet::new());
    }

    #[test]
    fn a_next_hop_finds_its_device_again_but_not_one_on_an_attachment() {
        let routes = Routes { devices: [("192.0.2.9".parse().unwrap(), 3)].into(), ..Routes::default() };
        let mut all = vec![
            (next_hop("192.0.2.1", "eth1", 9, false), slot(1, true)),
            (next_hop("192.0.2.9", "old", 8, true), slot(2, true)),
            (next_hop("192.0.2.8", "old", 8, true), slot(3, true)),
            (next_hop("192.0.2.2", "mac0", 7, false), slot(4, true)),
            (next_hop("192.0.2.3", "lo", 6, false), slot(5, true)),
            (next_hop("192.0.2.4", "eth1", 3, false), slot(6, false)),
        ];
        let moved = resolve_again(&mut all, &routes, false, &links(), &[2].into());
        let found: Vec<u32> = all.iter().map(|(next_hop, _)| next_hop.device.index).collect();
        assert_eq!(found, [3, 3, 8, 7, 6, 3]);
        assert_eq!(moved, BTreeMap::new());

        // One that then equals another does not take its place.
        let twin = next_hop("192.0.2.4", "eth1", 3, false);
        let gone = next_hop("192.0.2.4", "eth1", 9, false);
        let mut all = vec![(gone.clone(), slot(1, true)), (twin.clone(), slot(2, false))];
        let moved = resolve_again(&mut all, &routes, false, &links(), &[2].into());
        assert_eq!(moved, [(gone, twin)].into());
    }

    #[test]
    fn a_next_hop_follows_its_route_if_it_is_asked_to() {
        let devices = [("192.0.2.1".parse().unwrap(), 3), ("192.0.2.2".parse().unwrap(), 4)].into();
        let routes = Routes { devices, ..Routes::default() };
        let before = vec![
            (next_hop("192.0.2.1", "eth0", 2, true), slot(1, false)),
            // Its device was named.
            (next_hop("192.0.2.1", "eth0", 2, false), slot(2, false)),
            // Its route leads to a device that is stacked on an attachment.
            (next_hop("192.0.2.2", "eth1", 3, true), slot(3, false)),
            // No route leads to it now.
            (next_hop("192.0.2.3", "eth1", 3, true), slot(4, false)),
        ];
        let mut all = before.clone();
        assert_eq!(resolve_again(&mut all, &routes, false, &links(), &[2].into()), BTreeMap::new());
        assert_eq!(all, before);

        assert_eq!(resolve_again(&mut all, &routes, true, &links(), &[2].into()), BTreeMap::new());
        assert_eq!(all[0], (next_hop("192.0.2.1", "eth1", 3, true), slot(1, true)));
        assert_eq!(all[1..], before[1..]);

        // There is such a next hop already.
        let twin = (next_hop("192.0.2.1", "eth1", 3, true), slot(5, false));
        let mut all = vec![before[0].clone(), twin.clone()];
        let moved = resolve_again(&mut all, &routes, true, &links(), &[2].into());
        assert_eq!(moved, [(before[0].0.clone(), twin.0.clone())].into());
        assert_eq!(all, [before[0].clone(), twin]);
    }

    #[test]
    fn a_learned_gateway_changes_with_the_hosts_and_stays_while_it_is_one_of_them() {
        let eth1 = || Device { name: "eth1".into(), index: 3 };
        let of = |gateway: Option<&str>| {
            let gateway = gateway.map(|it| it.parse().unwrap());
            let device = Device { index: if gateway.is_some() { 3 } else { 0 }, ..eth1() };
            NextHop { learned: Some(Learned::Dhcp), ..NextHop::new(gateway, device) }
        };
        let find = |before: NextHop, is_gone, follows, learned: &[&str]| {
            let learned: Vec<IpAddr> = learned.iter().map(|it| it.parse().unwrap()).collect();
            let learned =
                [((Learned::Dhcp, 3), learned), ((Learned::Ra, 3), vec!["fe80::1".parse().unwrap()])];
            let routes = Routes { learned: learned.into(), ..Routes::default() };
            let mut all = vec![(before, slot(1, is_gone))];
            assert_eq!(resolve_again(&mut all, &routes, follows, &links(), &[2].into()), BTreeMap::new());
            all.remove(0)
        };
        let (first, other) = (of(Some("192.0.2.1")), of(Some("192.0.2.2")));
        // One that waits gets its gateway even without an agent.
        assert_eq!(find(of(None), true, false, &["192.0.2.1"]), (first.clone(), slot(1, true)));
        assert_eq!(find(of(None), true, true, &[]), (of(None), slot(1, true)));
        for follows in [false, true] {
            assert_eq!(find(first.clone(), false, follows, &["192.0.2.2"]), (other.clone(), slot(1, true)));
        }
        for learned in [&["192.0.2.0", "192.0.2.1"][..], &[]] {
            assert_eq!(find(first.clone(), false, true, learned), (first.clone(), slot(1, false)));
        }
        // Its device was gone, and has come back.
        assert_eq!(find(first.clone(), true, false, &["192.0.2.1"]), (first.clone(), slot(1, true)));
        assert_eq!(find(first, true, false, &["192.0.2.2"]), (other, slot(1, true)));
    }

    #[test]
    fn an_attachment_waits_until_its_device_is_there_and_under_no_next_hop() {
        let requests = || ["eth0", "eth1", "wg0", "lo"].map(str::to_owned).into();
        let mut actual = Actual::default();
        let leaves_by_mac0 = next_hop("192.0.2.1", "mac0", 4, false);
        actual.next_hops.insert(leaves_by_mac0, slot(1, false));
        await_attachments(&mut actual, requests(), &[2, 3].into(), &links());
        let awaited = [("eth0", None), ("eth1", Some(3)), ("wg0", None), ("lo", None)];
        assert_eq!(actual.awaited, awaited.map(|(name, index)| (name.to_owned(), index)).into());
        assert_eq!(actual.lost.keys().copied().collect::<Vec<_>>(), [3]);

        // What is attached already is not lost.
        let mut actual = Actual::default();
        let eth1 = Device { name: "eth1".into(), index: 3 };
        actual.programs.insert(Place::of(&eth1, Role::Departure), (eth1.clone(), Role::Departure));
        await_attachments(&mut actual, requests(), &BTreeSet::new(), &links());
        assert_eq!(actual.lost.keys().copied().collect::<Vec<_>>(), [2]);
    }
}
