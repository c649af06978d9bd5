//! What decisions are based on: the pinned state and the network stack, read once, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::state::Actual;
use crate::{
    config::{Attach, Config, HostRef},
    model::{Device, GroupSpec, Learned, MemberSpec, NextHopSpec, TargetSpec},
};

/// The state in one instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Byway's state in the kernel.
    pub(crate) actual: Actual,
    /// The network stack.
    pub(crate) host: Host,
}

impl Snapshot {
    /// Puts the learned gateways in use first among those that are as good: the same request means the same.
    pub(crate) fn prefer_learned_in_use(&mut self) {
        for next_hop in self.actual.next_hops.keys() {
            let Some(learned) = next_hop.learned else { continue };
            let all = self.host.learned.get_mut(&(learned, next_hop.device.index));
            let Some((all, gateway)) = all.zip(next_hop.gateway) else { continue };
            if let Some(nth) = all.iter().position(|it| *it == gateway) {
                all[..=nth].rotate_right(1);
            }
        }
    }
}

/// The network stack of one network namespace, as far as a request [asks](Questions) about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Every device, by ifindex.
    pub(crate) links: BTreeMap<u32, Link>,
    /// The devices that carry a default route of the main table, of either family.
    pub(crate) default_routes: BTreeSet<u32>,
    /// The devices that drop a packet unless a route leads back to its source by the same device. For those, the larger of
    /// the device's `rp_filter` and that of `all` is 1 (ip-sysctl.rst).
    pub(crate) strict_rp_filter: BTreeSet<u32>,
    /// The routes to the gateways that the request names.
    pub(crate) gateways: BTreeMap<IpAddr, GatewayRoutes>,
    /// The gateways that the host has learned.
    pub(crate) learned: LearnedGateways,
}

/// The gateways that the host has learned on devices, by ifindex: those of their default routes that the kernel prefers.
pub(crate) type LearnedGateways = BTreeMap<(Learned, u32), Vec<IpAddr>>;

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) device: Device,
    pub(crate) header: Header,
    /// The longest packet that it takes, in bytes without the link-layer header.
    pub(crate) mtu: u32,
    pub(crate) is_loopback: bool,
    pub(crate) is_up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub(crate) has_carrier: bool,
    /// Whether the kernel resolves its neighbours (no `IFF_NOARP`).
    pub(crate) has_neighbours: bool,
    /// Its other names (`altname`, ip-link(8)).
    pub(crate) other_names: Vec<String>,
    /// The device that it is on, if it is a macvlan or ipvlan and that device is in this network namespace.
    pub(crate) parent: Option<u32>,
    /// The bridge, bond or team that it belongs to.
    pub(crate) master: Option<u32>,
    /// Its device group (ip-link(8)).
    pub(crate) group: u32,
}

impl Link {
    /// A device as tests have it: up, with Ethernet.
    #[cfg(test)]
    pub(crate) fn named(index: u32, name: &str) -> Self {
        Self {
            device: Device { name: name.into(), index },
            header: Header::Ethernet,
            mtu: 1_500,
            is_loopback: name == "lo",
            is_up: true,
            has_carrier: true,
            has_neighbours: true,
            other_names: vec![format!("{name}-alt")],
            parent: None,
            master: None,
            group: 0,
        }
    }

    /// Whether it can be an attachment.
    pub(crate) fn is_attachable(&self) -> bool {
        self.header != Header::Other && !self.is_loopback
    }

    /// Whether requests come in by it. What comes in by a port of a bridge, a bond or a team comes in by that one.
    pub(crate) fn is_receiver(&self) -> bool {
        self.is_attachable() && self.master.is_none()
    }

    /// Whether this is one of its names.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.device.name == name || self.other_names.iter().any(|it| it == name)
    }
}

/// What the packets of a device begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tun, WireGuard, ppp, IP tunnels.
    L3,
    /// Anything else, such as InfiniBand's.
    Other,
}

/// What the routing tables say about a gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayRoutes {
    /// Where a route lookup of its address leads (`RTM_GETROUTE`).
    pub(crate) found: Found,
    /// Set if the `local` table lists it as an address of this host or as a broadcast address.
    pub(crate) local: Option<Local>,
    /// The devices with a connected route to it, among those that a request names for it.
    pub(crate) on_link: BTreeSet<u32>,
}

/// Where a route lookup of a gateway leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Found {
    /// To no device, or through another gateway.
    #[default]
    Nothing,
    /// To this host.
    Local(Local),
    /// To this device, by a connected route.
    Device(u32),
}

/// Why an address cannot be a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// It is an address of this host.
    Address,
    /// It is a broadcast address of one of the host's networks.
    Broadcast,
}

/// What a request needs to know about the network stack, and so what its snapshot has to contain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions {
    /// Gateways, each with the device that the request names for it.
    pub(crate) gateways: BTreeSet<(IpAddr, Option<String>)>,
    /// From whom the host is to have learned gateways.
    pub(crate) learned: BTreeSet<Learned>,
    /// Whether to read which devices carry a default route.
    pub(crate) default_routes: bool,
    /// Whether to read that if there is no attachment.
    pub(crate) default_routes_unless_attached: bool,
    /// Whether to read which devices have a strict `rp_filter`.
    pub(crate) rp_filter: bool,
}

impl Questions {
    fn add_next_hops<'a>(&mut self, next_hops: impl IntoIterator<Item = &'a NextHopSpec>) {
        for next_hop in next_hops {
            let device = || next_hop.device().map(str::to_owned);
            self.gateways.extend(next_hop.gateway().map(|gateway| (gateway, device())));
            self.learned.extend(next_hop.learned());
        }
    }

    pub(crate) fn add_members(&mut self, members: &[MemberSpec]) {
        self.add_next_hops(members.iter().map(|member| &member.next_hop));
    }

    /// Asks about attachments.
    pub(crate) fn attach(attach: &Attach) -> Self {
        Self { default_routes: *attach == Attach::Auto, ..Self::default() }
    }

    /// Asks about a group.
    pub(crate) fn group(spec: &GroupSpec) -> Self {
        let mut questions = Self::default();
        questions.add_members(&spec.members);
        questions
    }

    /// Asks about the targets of rules, and about default routes if there is no attachment.
    pub(crate) fn targets<'a>(targets: impl IntoIterator<Item = &'a TargetSpec>) -> Self {
        let mut questions = Self { default_routes_unless_attached: true, ..Self::default() };
        for target in targets {
            match target {
                TargetSpec::NextHop(next_hop) => questions.add_next_hops([next_hop]),
                TargetSpec::NextHops(members) => questions.add_members(members),
                _ => {}
            }
        }
        questions
    }

    /// Asks about a configuration.
    pub(crate) fn config(config: &Config) -> Self {
        let mut questions = Self::default();
        questions.add_config(config);
        questions
    }

    /// Asks about a configuration as well.
    pub(crate) fn add_config(&mut self, config: &Config) {
        self.add_next_hops(config.next_hops());
        self.default_routes |= config.attach == Some(Attach::Auto);
        self.default_routes_unless_attached = true;
    }

    /// Asks about the things of the host that a configuration names.
    pub(crate) fn host_refs<'a>(refs: impl IntoIterator<Item = &'a HostRef>) -> Self {
        let mut questions = Self { rp_filter: true, ..Self::default() };
        for host_ref in refs {
            match host_ref {
                HostRef::NextHop(next_hop) => questions.add_next_hops([next_hop]),
                HostRef::AttachAuto => questions.default_routes = true,
                HostRef::Device(_) | HostRef::Receiver(_) | HostRef::Attach(_) => {}
            }
        }
        questions
    }
}
