//! What a decision rests on: everything that the pins and the network stack say, read once, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::state::Actual;
use crate::{
    config::{Attach, Config, HostRef},
    model::{Device, GroupSpec, MemberSpec, NextHopSpec, TargetSpec},
};

/// Everything, as it was in one instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// What Byway has in the kernel.
    pub(crate) actual: Actual,
    /// The network stack.
    pub(crate) host: Host,
}

/// The network stack of one network namespace, as far as requests [ask](Questions) about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Every device, by ifindex.
    pub(crate) links: BTreeMap<u32, Link>,
    /// The devices that carry a default route of the main table, of either family.
    pub(crate) default_routes: BTreeSet<u32>,
    /// The devices that drop packets whose source no route leads back to by the same device: the larger one of the device's
    /// `rp_filter` and that of all devices is 1 (ip-sysctl.rst).
    pub(crate) strict_rp_filter: BTreeSet<u32>,
    /// The routes to the gateways in question.
    pub(crate) gateways: BTreeMap<IpAddr, GatewayRoutes>,
}

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) device: Device,
    pub(crate) header: Header,
    /// The longest packet that it takes, in bytes without a link-layer header.
    pub(crate) mtu: u32,
    pub(crate) is_loopback: bool,
    pub(crate) is_up: bool,
    /// It has neighbours that are looked up (no `IFF_NOARP`).
    pub(crate) has_neighbours: bool,
    /// Other names that it answers to (ip-link(8), `altname`).
    pub(crate) other_names: Vec<String>,
    /// The device of this network namespace that its packets leave by in the end: what a macvlan or ipvlan is on.
    pub(crate) parent: Option<u32>,
    /// The bridge, bond or team that it is part of.
    pub(crate) master: Option<u32>,
    /// The group of devices that it is in (ip-link(8)).
    pub(crate) group: u32,
}

impl Link {
    /// Whether its egress can be watched.
    pub(crate) fn is_attachable(&self) -> bool {
        self.header != Header::Other && !self.is_loopback
    }

    /// Whether it answers to this name.
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

/// What the routing tables say of a gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayRoutes {
    /// Where the look-up of its address leads (`RTM_GETROUTE`).
    pub(crate) found: Found,
    /// The `local` table has it as an address of this host, or a broadcast address.
    pub(crate) local: Option<Local>,
    /// The devices with a connected route that covers it, of those that a request names for it.
    pub(crate) on_link: BTreeSet<u32>,
}

/// Where the look-up of a gateway leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Found {
    /// To no device, or by another gateway.
    #[default]
    Nothing,
    /// To this host.
    Local(Local),
    /// By a connected route of the device.
    Device(u32),
}

/// Why an address is no gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// It is an address of this host.
    Address,
    /// It is a broadcast address of one of its networks.
    Broadcast,
}

/// What a request names of the network stack: what has to be in the snapshot to decide on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions {
    /// Gateways, each with the device that is named for it.
    pub(crate) gateways: BTreeSet<(IpAddr, Option<String>)>,
    /// Which devices carry a default route.
    pub(crate) default_routes: bool,
    /// The same, if nothing is attached.
    pub(crate) default_routes_unless_attached: bool,
    /// Which devices are strict about senders.
    pub(crate) rp_filter: bool,
}

impl Questions {
    /// About next hops.
    pub(crate) fn next_hops<'a>(next_hops: impl IntoIterator<Item = &'a NextHopSpec>) -> Self {
        let mut questions = Self::default();
        questions.add_next_hops(next_hops);
        questions
    }

    fn add_next_hops<'a>(&mut self, next_hops: impl IntoIterator<Item = &'a NextHopSpec>) {
        let with_gateway = next_hops.into_iter().filter_map(|it| Some((it.gateway()?, it.device())));
        self.gateways.extend(with_gateway.map(|(gateway, device)| (gateway, device.map(str::to_owned))));
    }

    fn add_members(&mut self, members: &[MemberSpec]) {
        self.add_next_hops(members.iter().map(|member| &member.next_hop));
    }

    /// About attachments.
    pub(crate) fn attach(attach: &Attach) -> Self {
        Self { default_routes: *attach == Attach::Auto, ..Self::default() }
    }

    /// About a group.
    pub(crate) fn group(spec: &GroupSpec) -> Self {
        Self::next_hops(spec.members.iter().map(|member| &member.next_hop))
    }

    /// About the targets of rules, which want something to be attached to.
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

    /// About a configuration.
    pub(crate) fn config(config: &Config) -> Self {
        let mut questions = Self::default();
        questions.add_config(config);
        questions
    }

    /// Likewise, beside what is asked already.
    pub(crate) fn add_config(&mut self, config: &Config) {
        self.add_next_hops(config.next_hops());
        self.default_routes |= config.attach == Some(Attach::Auto);
        self.default_routes_unless_attached = true;
    }

    /// About what a configuration refers to.
    pub(crate) fn host_refs<'a>(refs: impl IntoIterator<Item = &'a HostRef>) -> Self {
        let mut questions = Self { rp_filter: true, ..Self::default() };
        for host_ref in refs {
            match host_ref {
                HostRef::NextHop(next_hop) => questions.add_next_hops([next_hop]),
                HostRef::AttachAuto => questions.default_routes = true,
                HostRef::Device(_) | HostRef::Attach(_) => {}
            }
        }
        questions
    }
}
