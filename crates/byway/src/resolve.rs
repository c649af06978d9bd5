//! From names to what they mean on this host: devices, gateways, next hops. It asks the network stack and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    error::{Error, Result},
    kernel::network::{Header, Link, Network},
    model::{Device, Member, MemberSpec, NextHop, NextHopSpec, Target, TargetSpec, check_distinct},
};

/// The network stack as a decision sees it.
pub(crate) struct View<'a> {
    pub(crate) network: &'a mut Network,
    pub(crate) links: &'a BTreeMap<u32, Link>,
    /// A gateway whose device is named is taken to be a neighbour there: it was one before.
    pub(crate) trusts: bool,
    /// Next hops about which no questions are asked, since they are in use: while a link is down, what leads there may stay.
    pub(crate) in_use: BTreeSet<NextHop>,
}

impl<'a> View<'a> {
    pub(crate) fn new(network: &'a mut Network, links: &'a BTreeMap<u32, Link>) -> Self {
        Self { network, links, trusts: false, in_use: BTreeSet::new() }
    }

    fn link(&self, name: &str) -> Result<&Link> {
        let is_called =
            |link: &&Link| link.device.name == name || link.other_names.iter().any(|it| it == name);
        let link = self.links.values().find(is_called);
        let link = link.ok_or_else(|| Error::NoSuchDevice(name.to_owned()))?;
        if link.is_loopback { Err(Error::Loopback(name.to_owned())) } else { Ok(link) }
    }

    pub(crate) fn is_called(&self, index: u32, name: &str) -> bool {
        let is_it = |link: &Link| link.device.name == name || link.other_names.iter().any(|it| it == name);
        self.links.get(&index).is_some_and(is_it)
    }

    /// The device, if its egress can be watched.
    pub(crate) fn attachable(&self, name: &str) -> Result<Device> {
        let link = self.link(name)?;
        if link.header != Header::Other {
            Ok(link.device.clone())
        } else {
            Err(Error::UnknownHeader(name.to_owned()))
        }
    }

    /// The devices that carry a default route and can be watched.
    pub(crate) fn default_gateway_devices(&mut self) -> Result<Vec<Device>> {
        let indexes = self.network.default_route_devices()?;
        let links: Vec<&Link> = indexes.iter().filter_map(|index| self.links.get(index)).collect();
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

    /// Whether there is a device of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.link(name).is_ok()
    }

    /// The target that is asked for, if it can work.
    pub(crate) fn resolve(&mut self, spec: &TargetSpec) -> Result<Target> {
        Ok(match spec {
            TargetSpec::NextHop(next_hop) => Target::NextHop(self.resolve_next_hop(next_hop)?),
            TargetSpec::NextHops(members) => {
                let mut members = self.resolve_members(members)?;
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

    pub(crate) fn resolve_members(&mut self, specs: &[MemberSpec]) -> Result<Vec<Member>> {
        let resolve = |spec: &MemberSpec| {
            Ok(Member { next_hop: self.resolve_next_hop(&spec.next_hop)?, weight: spec.weight })
        };
        let members = specs.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        check_distinct(&members)?;
        Ok(members)
    }

    /// The only next hop in use that has this gateway.
    fn in_use_by(&self, gateway: IpAddr) -> Option<NextHop> {
        let mut all = self.in_use.iter().filter(|next_hop| next_hop.gateway == Some(gateway));
        let one = all.next().cloned();
        one.filter(|_| all.next().is_none())
    }

    fn resolve_next_hop(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        match spec {
            NextHopSpec::Dev(name) => Ok(NextHop { gateway: None, device: self.link(name)?.device.clone() }),
            NextHopSpec::ViaDev(gateway, name) => {
                let link = self.link(name)?;
                let (device, is_up) = (link.device.clone(), link.is_up);
                let next_hop = NextHop { gateway: Some(*gateway), device: device.clone() };
                if self.trusts || self.in_use.contains(&next_hop) {
                    return Ok(next_hop);
                }
                self.network.check_gateway(*gateway)?;
                if !is_up {
                    return Err(Error::DeviceDown { gateway: *gateway, device: device.name });
                }
                if !self.network.is_on_link(*gateway, &device)? {
                    return Err(Error::NotOnLink { gateway: *gateway, device: device.name });
                }
                Ok(next_hop)
            }
            NextHopSpec::Via(gateway) => {
                let index = match self.network.device_of_gateway(*gateway) {
                    Ok(index) => index,
                    Err(error) => return self.in_use_by(*gateway).ok_or(error),
                };
                let link = self.links.get(&index).ok_or(Error::NoDeviceForGateway(*gateway))?;
                Ok(NextHop { gateway: Some(*gateway), device: link.device.clone() })
            }
        }
    }
}
