//! From names to what they mean on a host: devices, gateways, next hops.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{Found, Header, Host, Link, Local};
use crate::{
    error::{Error, Result},
    model::{
        Device, Member, MemberSpec, NextHop, NextHopSpec, RuleError, Target, TargetSpec, check_distinct,
    },
};

/// Which next hops are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Checks {
    /// All.
    #[default]
    Full,
    /// All but these, which are in use: while a link is down, what leads there may stay.
    TrustInUse(BTreeSet<NextHop>),
    /// None whose device is named: they were looked at before.
    Trust,
}

impl Checks {
    fn trust(&self, next_hop: &NextHop) -> bool {
        match self {
            Self::Full => false,
            Self::TrustInUse(in_use) => in_use.contains(next_hop),
            Self::Trust => true,
        }
    }

    /// The only next hop in use that has this gateway.
    fn in_use_by(&self, spec: &NextHopSpec) -> Option<NextHop> {
        let Self::TrustInUse(in_use) = self else { return None };
        let mut all = in_use.iter().filter(|next_hop| next_hop.gateway == spec.gateway());
        let one = all.next().cloned();
        one.filter(|_| all.next().is_none())
    }
}

impl Host {
    fn link(&self, name: &str) -> Result<&Link> {
        let link = self.links.values().find(|link| link.is_called(name));
        let link = link.ok_or_else(|| Error::NoSuchDevice(name.to_owned()))?;
        if link.is_loopback { Err(Error::Loopback(name.to_owned())) } else { Ok(link) }
    }

    /// Whether the device answers to this name.
    pub(crate) fn is_called(&self, index: u32, name: &str) -> bool {
        self.links.get(&index).is_some_and(|link| link.is_called(name))
    }

    /// Whether there is a device of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.link(name).is_ok()
    }

    /// The device, if its egress can be watched.
    pub(crate) fn attachable(&self, name: &str) -> Result<Device> {
        let link = self.link(name)?;
        if link.header == Header::Other {
            return Err(Error::UnknownHeader(name.to_owned()));
        }
        Ok(link.device.clone())
    }

    /// The devices that carry a default route and can be watched.
    pub(crate) fn default_gateway_devices(&self) -> Result<Vec<Device>> {
        let links: Vec<&Link> =
            self.default_routes.iter().filter_map(|index| self.links.get(index)).collect();
        let usable: Vec<Device> = links
            .iter()
            .filter(|link| link.header != Header::Other && !link.is_loopback)
            .map(|link| link.device.clone())
            .collect();
        match (usable.is_empty(), links.first()) {
            (false, _) => Ok(usable),
            (true, Some(link)) => Err(Error::UnknownHeader(link.device.name.clone())),
            (true, None) => Err(Error::NoDefaultRoute),
        }
    }

    /// The next hops' devices whose packets come back to an attachment below them, with that attachment. There they
    /// would match again, and go round until the kernel drops them.
    pub(crate) fn stacked(
        &self,
        next_hops: &BTreeSet<&NextHop>,
        attachments: &BTreeMap<u32, Device>,
    ) -> BTreeSet<(String, String)> {
        let uppers: BTreeSet<u32> = next_hops.iter().map(|next_hop| next_hop.device.index).collect();
        let mut stacked = BTreeSet::new();
        for upper in uppers.iter().filter_map(|index| self.links.get(index)) {
            let watched = self.below(upper).into_iter().filter_map(|index| attachments.get(&index));
            stacked.extend(watched.map(|lower| (upper.device.name.clone(), lower.name.clone())));
        }
        stacked
    }

    /// The devices that packets of `upper` may leave by in the end, however deep the stack is.
    fn below(&self, upper: &Link) -> BTreeSet<u32> {
        let mut below = BTreeSet::new();
        let mut uppers = vec![upper];
        while let Some(upper) = uppers.pop() {
            let is_next = |lower: &&Link| {
                upper.parent == Some(lower.device.index) || lower.master == Some(upper.device.index)
            };
            uppers
                .extend(self.links.values().filter(is_next).filter(|lower| below.insert(lower.device.index)));
        }
        below
    }

    /// Returns the target that is asked for, if it can work.
    pub(crate) fn resolve(&self, spec: &TargetSpec, checks: &Checks) -> Result<Target> {
        Ok(match spec {
            TargetSpec::NextHop(next_hop) => Target::NextHop(self.resolve_next_hop(next_hop, checks)?),
            TargetSpec::NextHops(members) => {
                let mut members = self.resolve_members(members, checks)?;
                // A single one has all flows, whatever its weight.
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

    /// Returns the members that are asked for, if they can work.
    pub(crate) fn resolve_members(&self, specs: &[MemberSpec], checks: &Checks) -> Result<Vec<Member>> {
        let resolve = |spec: &MemberSpec| {
            Ok(Member { next_hop: self.resolve_next_hop(&spec.next_hop, checks)?, weight: spec.weight })
        };
        let members = specs.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        check_distinct(&members)?;
        Ok(members)
    }

    fn resolve_next_hop(&self, spec: &NextHopSpec, checks: &Checks) -> Result<NextHop> {
        match spec {
            NextHopSpec::Dev(name) => Ok(NextHop { gateway: None, device: self.link(name)?.device.clone() }),
            NextHopSpec::ViaDev(gateway, name) => {
                let link = self.link(name)?;
                let next_hop = NextHop { gateway: Some(*gateway), device: link.device.clone() };
                if checks.trust(&next_hop) {
                    return Ok(next_hop);
                }
                let device = || link.device.name.clone();
                let routes = self.gateways.get(gateway);
                if let Some(local) = routes.and_then(|routes| routes.local) {
                    return Err(not_a_gateway(local, *gateway));
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
                let found = if is_link_local(gateway) {
                    Err(Error::LinkLocalGateway(*gateway))
                } else {
                    match self.gateways.get(gateway).map_or(Found::Nothing, |routes| routes.found) {
                        Found::Device(index) => {
                            self.links.get(&index).ok_or(Error::NoDeviceForGateway(*gateway))
                        }
                        Found::Local(local) => Err(not_a_gateway(local, *gateway)),
                        Found::Nothing => Err(Error::NoDeviceForGateway(*gateway)),
                    }
                };
                match found {
                    Ok(link) => Ok(NextHop { gateway: Some(*gateway), device: link.device.clone() }),
                    Err(error) => checks.in_use_by(spec).ok_or(error),
                }
            }
        }
    }
}

fn is_link_local(gateway: &std::net::IpAddr) -> bool {
    matches!(gateway, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn not_a_gateway(local: Local, gateway: std::net::IpAddr) -> Error {
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

    fn link(index: u32, name: &str) -> Link {
        Link {
            device: Device { name: name.into(), index },
            header: Header::Ethernet,
            mtu: 1_500,
            is_loopback: name == "lo",
            is_up: true,
            has_neighbours: true,
            other_names: vec![format!("{name}-alt")],
            parent: None,
            master: None,
            group: 0,
        }
    }

    /// eth0 and eth1, and one gateway behind the second.
    fn host() -> Host {
        let links = [(1, "lo"), (2, "eth0"), (3, "eth1")];
        let routes = GatewayRoutes { found: Found::Device(3), local: None, on_link: [3].into() };
        Host {
            links: links.map(|(index, name)| (index, link(index, name))).into(),
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
        assert_eq!(asked(&host, "192.0.2.1"), "via 192.0.2.1 dev eth1");
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
        let in_use = NextHop { gateway: Some("192.0.2.1".parse().unwrap()), device: eth1 };
        host.gateways.clear();
        let checks = Checks::TrustInUse([in_use].into());
        for spec in ["192.0.2.1", "192.0.2.1 dev eth1"] {
            assert_eq!(resolve(&host, spec, &checks), "via 192.0.2.1 dev eth1");
        }
        assert!(resolve(&host, "192.0.2.2 dev eth1", &checks).contains("not on-link"));
        assert_eq!(resolve(&host, "192.0.2.2 dev eth1", &Checks::Trust), "via 192.0.2.2 dev eth1");
        assert!(resolve(&host, "192.0.2.2", &Checks::Trust).starts_with("no device leads straight"));
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
                let mut link = link(index, &format!("eth{index}"));
                (link.parent, link.master) = (Some(parent).filter(|it| *it < 4), Some(master).filter(|it| *it < 4));
                host.links.insert(index, link);
            }
            let next_hop = NextHop { gateway: None, device: host.links[&0].device.clone() };
            let attachments = attached.iter().map(|it| (*it, host.links[it].device.clone())).collect();
            let stacked = host.stacked(&[&next_hop].into(), &attachments);
            prop_assert!(stacked.iter().all(|(upper, _)| upper == "eth0"));
            prop_assert!(stacked.len() <= attached.len());
        }
    }
}
