//! Finds the devices, gateways and next hops of a host that the names in a request mean.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use super::{
    changes::Waiting,
    snapshot::{Found, Header, Host, Link, Local},
};
use crate::{
    error::{Error, Result},
    model::{
        Device, Member, MemberSpec, NextHop, NextHopSpec, RuleError, Target, TargetSpec, check_distinct,
    },
};

/// Which next hops to check, and what to do with those that cannot work now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Checks {
    /// Checks all, and refuses one that cannot work.
    #[default]
    Full,
    /// Checks all except those in use: they may stay while their link is down.
    Apply {
        in_use: InUse,
        /// Whether to refuse one that cannot work. Otherwise it waits until it can.
        is_strict: bool,
    },
    /// Checks none, because they were checked before. One whose device is gone waits for it. `found` contains the devices on
    /// which the routing table found those gateways whose device the configuration does not name.
    GoBack { in_use: InUse, found: BTreeMap<IpAddr, String> },
}

/// The next hops in use, with the device names in their requests.
pub(crate) type InUse = BTreeMap<NextHop, String>;

impl Checks {
    /// Whether this next hop needs no check.
    fn trust(&self, next_hop: &NextHop) -> bool {
        match self {
            Self::Full => false,
            Self::Apply { in_use, .. } => in_use.keys().any(|it| it.named() == *next_hop),
            Self::GoBack { .. } => true,
        }
    }

    /// Whether a next hop that cannot work now waits until it can.
    pub(crate) fn wait(&self) -> bool {
        match self {
            Self::Full => false,
            Self::Apply { is_strict, .. } => !is_strict,
            Self::GoBack { .. } => true,
        }
    }

    /// Returns the name of the device on which the routing table found the gateway before.
    fn found_before(&self, gateway: IpAddr) -> Option<&str> {
        match self {
            Self::Full | Self::Apply { .. } => None,
            Self::GoBack { found, .. } => found.get(&gateway).map(String::as_str),
        }
    }

    /// Returns the device of the only next hop in use that the routing table found for this gateway. Not of one whose device
    /// is named: the same request would mean something else the second time.
    fn in_use_by(&self, gateway: IpAddr) -> Option<&Device> {
        let Self::Apply { in_use, .. } = self else { return None };
        let mut all =
            in_use.keys().filter(|it| it.gateway == Some(gateway) && it.by_route && !it.is_waiting());
        let one = &all.next()?.device;
        all.all(|other| other.device == *one).then_some(one)
    }

    /// Finds the next hop in use that an earlier request named like this. Its device may be gone, or may have another name by
    /// now.
    fn asked_for(&self, spec: &NextHopSpec) -> Option<&NextHop> {
        let (Self::Apply { in_use, .. } | Self::GoBack { in_use, .. }) = self else { return None };
        let is_it = |(next_hop, name): &(&NextHop, &String)| {
            let is_named = match spec.device() {
                Some(device) => !next_hop.by_route && *name == device,
                None => next_hop.by_route,
            };
            let has_gateway = next_hop.learned.is_some() || next_hop.gateway == spec.gateway();
            is_named && has_gateway && next_hop.learned == spec.learned()
        };
        in_use.iter().find(is_it).map(|(next_hop, _)| next_hop)
    }
}

impl Host {
    fn link(&self, name: &str) -> Result<&Link> {
        let link = self.links.values().find(|link| link.is_called(name));
        let link = link.ok_or_else(|| Error::NoSuchDevice(name.to_owned()))?;
        if link.is_loopback { Err(Error::Loopback(name.to_owned())) } else { Ok(link) }
    }

    /// Whether this is one of the names of the device.
    pub(crate) fn is_called(&self, index: u32, name: &str) -> bool {
        self.links.get(&index).is_some_and(|link| link.is_called(name))
    }

    /// Whether there is a device of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.link(name).is_ok()
    }

    /// Returns the device, if it can be an attachment.
    pub(crate) fn attachable(&self, name: &str) -> Result<Device> {
        let link = self.link(name)?;
        if link.header == Header::Other {
            return Err(Error::UnknownHeader(name.to_owned()));
        }
        Ok(link.device.clone())
    }

    /// Returns the devices that carry a default route and can be attachments.
    pub(crate) fn default_gateway_devices(&self) -> Result<Vec<Device>> {
        let links: Vec<&Link> =
            self.default_routes.iter().filter_map(|index| self.links.get(index)).collect();
        let usable: Vec<Device> =
            links.iter().filter(|link| link.is_attachable()).map(|link| link.device.clone()).collect();
        match (usable.is_empty(), links.first()) {
            (false, _) => Ok(usable),
            (true, Some(link)) => Err(Error::UnknownHeader(link.device.name.clone())),
            (true, None) => Err(Error::NoDefaultRoute),
        }
    }

    /// Returns the next hops' devices that are stacked on an attachment, each with that attachment. Their packets would match
    /// again there, and go round until the kernel drops them.
    pub(crate) fn stacked(
        &self,
        next_hops: &BTreeSet<&NextHop>,
        attachments: &BTreeMap<u32, Device>,
    ) -> BTreeSet<(String, String)> {
        let uppers: BTreeSet<u32> = next_hops.iter().map(|next_hop| next_hop.device.index).collect();
        let mut stacked = BTreeSet::new();
        for upper in uppers.iter().filter_map(|index| self.links.get(index)) {
            let watched = below(&self.links, upper).into_iter().filter_map(|index| attachments.get(&index));
            stacked.extend(watched.map(|lower| (upper.device.name.clone(), lower.name.clone())));
        }
        stacked
    }

    /// Returns the device, if requests can come in by it.
    pub(crate) fn receiver(&self, name: &str) -> Result<Device> {
        let link = self.link(name)?;
        match link.master.and_then(|master| self.links.get(&master)) {
            Some(master) => {
                Err(Error::ComesInBy { device: name.to_owned(), master: master.device.name.clone() })
            }
            None => self.attachable(name),
        }
    }

    /// Returns the names of the devices that are called like this, if requests can come in by them.
    pub(crate) fn resolve_receivers(
        &self,
        names: &BTreeSet<String>,
        checks: &Checks,
    ) -> Result<BTreeSet<String>> {
        let resolve = |name: &String| match self.receiver(name) {
            Err(Error::NoSuchDevice(_) | Error::ComesInBy { .. })
                if checks.wait() && NextHop::may_wait_for(name) =>
            {
                Ok(name.clone())
            }
            found => found.map(|device| device.name),
        };
        names.iter().map(resolve).collect()
    }

    /// Returns the target that the request names, if it can work.
    pub(crate) fn resolve(&self, spec: &TargetSpec, checks: &Checks) -> Result<Target> {
        Ok(match spec {
            TargetSpec::NextHop(next_hop) => Target::NextHop(self.resolve_next_hop(next_hop, checks)?),
            TargetSpec::NextHops(members) => {
                let mut members = self.resolve_members(members, checks)?;
                // A single member gets all flows, whatever its weight.
                if members.len() == 1 {
                    Target::NextHop(members.remove(0).next_hop)
                } else {
                    Target::NextHops(members)
                }
            }
            TargetSpec::Group(name) => Target::Group(name.clone()),
            TargetSpec::Pass => Target::Pass,
            TargetSpec::Drop => Target::Drop,
        })
    }

    /// Returns the members that the request names, if they can work.
    pub(crate) fn resolve_members(&self, specs: &[MemberSpec], checks: &Checks) -> Result<Vec<Member>> {
        let resolve = |spec: &MemberSpec| {
            let MemberSpec { next_hop, weight, is_backup } = spec;
            let next_hop = self.resolve_next_hop(next_hop, checks)?;
            Ok(Member { next_hop, weight: *weight, is_backup: *is_backup })
        };
        let mut members = specs.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        // Backups come last, in their order.
        members.sort_by_key(|member| member.is_backup);
        check_distinct(&members)?;
        Ok(members)
    }

    pub(crate) fn resolve_next_hop(&self, spec: &NextHopSpec, checks: &Checks) -> Result<NextHop> {
        match self.find_next_hop(spec, checks) {
            Err(Error::NoSuchDevice(_) | Error::NoDeviceForGateway(_) | Error::NothingLearned { .. })
                if checks.wait() && spec.device().is_none_or(NextHop::may_wait_for) =>
            {
                Ok(checks.asked_for(spec).cloned().unwrap_or_else(|| NextHop::waiting(spec)))
            }
            found => found,
        }
    }

    /// Returns those of these next hops that cannot work now, each once.
    pub(crate) fn waiting<'a>(&self, specs: impl IntoIterator<Item = &'a NextHopSpec>) -> Vec<Waiting> {
        let mut seen = HashSet::new();
        let waiting = |spec: &&NextHopSpec| {
            let reason = self.find_next_hop(spec, &Checks::Full).err()?.to_string();
            Some(Waiting { request: spec.to_string(), reason })
        };
        specs.into_iter().filter(|spec| seen.insert(*spec)).filter_map(|spec| waiting(&spec)).collect()
    }

    fn find_next_hop(&self, spec: &NextHopSpec, checks: &Checks) -> Result<NextHop> {
        match spec {
            NextHopSpec::Dev(name) => Ok(NextHop::new(None, self.link(name)?.device.clone())),
            NextHopSpec::ViaDev(gateway, name) => {
                let link = self.link(name)?;
                let next_hop = NextHop::new(Some(*gateway), link.device.clone());
                let device = || link.device.name.clone();
                let routes = self.gateways.get(gateway);
                if checks.trust(&next_hop) {
                    return Ok(next_hop);
                }
                if let Some(local) = routes.and_then(|routes| routes.local) {
                    return Err(not_a_gateway(local, *gateway));
                }
                if checks.wait() {
                    return Ok(next_hop);
                }
                if !link.is_up {
                    return Err(Error::DeviceDown { gateway: *gateway, device: device() });
                }
                if !routes.is_some_and(|routes| routes.on_link.contains(&link.device.index)) {
                    return Err(Error::NotOnLink { gateway: *gateway, device: device() });
                }
                Ok(next_hop)
            }
            NextHopSpec::Via(gateway) => {
                let link = checks.found_before(*gateway).and_then(|name| self.link(name).ok());
                let device = match link.map_or_else(|| self.device_for(*gateway), Ok) {
                    Ok(link) => link.device.clone(),
                    Err(error) => checks.in_use_by(*gateway).cloned().ok_or(error)?,
                };
                Ok(NextHop { by_route: true, ..NextHop::new(Some(*gateway), device) })
            }
            NextHopSpec::Learned(learned, name) => {
                let device = self.link(name)?.device.clone();
                let all = self.learned.get(&(*learned, device.index)).map_or(&[][..], Vec::as_slice);
                // It stays while the host has learned none.
                let in_use = checks.asked_for(spec).filter(|it| it.device == device);
                let in_use = in_use.and_then(|it| it.gateway);
                let Some(gateway) = keep(in_use, all).or(in_use) else {
                    return Err(Error::NothingLearned { learned: *learned, device: device.name });
                };
                Ok(NextHop { learned: Some(*learned), ..NextHop::new(Some(gateway), device) })
            }
        }
    }

    /// Returns the device on which the routing table finds the gateway.
    fn device_for(&self, gateway: IpAddr) -> Result<&Link> {
        if is_link_local(gateway) {
            return Err(Error::LinkLocalGateway(gateway));
        }
        match self.gateways.get(&gateway).map_or(Found::Nothing, |routes| routes.found) {
            Found::Device(index) => self.links.get(&index).ok_or(Error::NoDeviceForGateway(gateway)),
            Found::Local(local) => Err(not_a_gateway(local, gateway)),
            Found::Nothing => Err(Error::NoDeviceForGateway(gateway)),
        }
    }
}

/// Which gateway to use of those that the host has learned: the one in use, as long as it is one of them.
pub(crate) fn keep(in_use: Option<IpAddr>, learned: &[IpAddr]) -> Option<IpAddr> {
    in_use.filter(|it| learned.contains(it)).or(learned.first().copied())
}

/// Returns the devices that `upper` is stacked on, directly or not: those that its packets may leave by.
pub(crate) fn below(links: &BTreeMap<u32, Link>, upper: &Link) -> BTreeSet<u32> {
    let mut below = BTreeSet::new();
    let mut uppers = vec![upper];
    while let Some(upper) = uppers.pop() {
        let is_next = |lower: &&Link| {
            upper.parent == Some(lower.device.index) || lower.master == Some(upper.device.index)
        };
        uppers.extend(links.values().filter(is_next).filter(|lower| below.insert(lower.device.index)));
    }
    below
}

fn is_link_local(gateway: IpAddr) -> bool {
    matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn not_a_gateway(local: Local, gateway: IpAddr) -> Error {
    match local {
        Local::Address => Error::GatewayIsLocal(gateway),
        Local::Broadcast => RuleError::NotAGateway(gateway, "a broadcast address").into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::snapshot::GatewayRoutes;

    /// eth0 and eth1, and one gateway behind the second.
    fn host() -> Host {
        let links = [(1, "lo"), (2, "eth0"), (3, "eth1")];
        let routes = GatewayRoutes { found: Found::Device(3), local: None, on_link: [3].into() };
        Host {
            links: links.map(|(index, name)| (index, Link::named(index, name))).into(),
            default_routes: [2].into(),
            gateways: [("192.0.2.1".parse().unwrap(), routes)].into(),
            ..Host::default()
        }
    }

    fn resolve(host: &Host, spec: &str, checks: &Checks) -> String {
        let spec = match spec.split_once(" dev ") {
            Some((gateway, device)) => NextHopSpec::ViaDev(gateway.parse().unwrap(), device.into()),
            None => spec.parse().map_or_else(|_| NextHopSpec::Dev(spec.into()), NextHopSpec::Via),
        };
        host.resolve_next_hop(&spec, checks).map_or_else(|error| error.to_string(), |it| it.to_string())
    }

    #[test]
    fn a_next_hop_means_what_the_routes_say() {
        let mut host = host();
        let asked = |host: &Host, spec: &str| resolve(host, spec, &Checks::Full);
        assert_eq!(asked(&host, "192.0.2.1"), "via 192.0.2.1 (dev eth1)");
        assert_eq!(asked(&host, "192.0.2.1 dev eth1-alt"), "via 192.0.2.1 dev eth1");
        assert_eq!(asked(&host, "eth0"), "dev eth0");
        assert!(
            asked(&host, "192.0.2.1 dev eth0").starts_with("the gateway 192.0.2.1 is not on-link on eth0")
        );
        assert!(asked(&host, "192.0.2.9").starts_with("no device leads straight to the gateway"));
        assert!(asked(&host, "fe80::1").starts_with("the gateway fe80::1 is link-local"));
        assert!(asked(&host, "lo").starts_with("lo is the loopback device"));
        assert!(asked(&host, "eth7").starts_with("there is no device `eth7`"));
        host.links.get_mut(&3).unwrap().is_up = false;
        assert!(asked(&host, "192.0.2.1 dev eth1").starts_with("eth1 is down"));
        host.gateways.values_mut().next().unwrap().local = Some(Local::Address);
        assert!(
            asked(&host, "192.0.2.1 dev eth1").starts_with("the gateway 192.0.2.1 is an address of this")
        );
    }

    #[test]
    fn what_is_in_use_is_not_looked_at_again() {
        let mut host = host();
        let eth1 = Device { name: "eth1".into(), index: 3 };
        let named = NextHop::new(Some("192.0.2.1".parse().unwrap()), eth1);
        let found = NextHop { by_route: true, ..named.clone() };
        host.gateways.clear();
        let apply = |in_use| Checks::Apply { in_use: [(in_use, "eth1".into())].into(), is_strict: true };
        assert_eq!(resolve(&host, "192.0.2.1", &apply(found)), "via 192.0.2.1 (dev eth1)");
        let checks = apply(named);
        assert_eq!(resolve(&host, "192.0.2.1 dev eth1", &checks), "via 192.0.2.1 dev eth1");
        assert!(resolve(&host, "192.0.2.1", &checks).starts_with("no device leads straight"));
        assert!(resolve(&host, "192.0.2.2 dev eth1", &checks).contains("not on-link"));
        let before = Checks::GoBack {
            in_use: InUse::new(),
            found: [("192.0.2.3".parse().unwrap(), "eth1".to_owned())].into(),
        };
        assert_eq!(resolve(&host, "192.0.2.2 dev eth1", &before), "via 192.0.2.2 dev eth1");
        assert_eq!(resolve(&host, "192.0.2.3", &before), "via 192.0.2.3 (dev eth1)");
        assert_eq!(resolve(&host, "192.0.2.2", &before), "via 192.0.2.2 (no device yet)");
        assert_eq!(resolve(&host, "192.0.2.2 dev eth7", &before), "via 192.0.2.2 dev eth7");
    }

    proptest! {
        /// Whatever the devices are stacked on, a circle included, the search for what is below ends.
        #[test]
        fn no_stack_is_endless(
            of in proptest::collection::vec((0_u32..8, 0_u32..8), 8),
            attached in proptest::collection::btree_set(0_u32..8, 0..8),
        ) {
            let mut host = Host::default();
            for (index, (parent, master)) in (0_u32..).zip(of) {
                let mut link = Link::named(index, &format!("eth{index}"));
                (link.parent, link.master) = (Some(parent).filter(|it| *it < 4), Some(master).filter(|it| *it < 4));
                host.links.insert(index, link);
            }
            let next_hop = NextHop::new(None, host.links[&0].device.clone());
            let attachments = attached.iter().map(|it| (*it, host.links[it].device.clone())).collect();
            let stacked = host.stacked(&[&next_hop].into(), &attachments);
            prop_assert!(stacked.iter().all(|(upper, _)| upper == "eth0"));
            prop_assert!(stacked.len() <= attached.len());
        }
    }
}
