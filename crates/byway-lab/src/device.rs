//! Devices of other kinds than veth, named as in ip-link(8) (RTM_NEWLINK; rtnetlink(7)).
//!
//! Each is up when its function returns. A kernel may be built without a kind, or its module may be missing:
//! [`Error::KernelLacks`].

use std::net::Ipv4Addr;

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        RouteNetlinkMessage,
        link::{
            BondMode, InfoBond, InfoBridge, InfoData, InfoGre, InfoIpTunnel, InfoKind, InfoMacVlan, InfoVlan,
            InfoVrf, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
        },
    },
};

use crate::{
    Node,
    error::{Doing, Error, Result},
    link,
};

/// How a bond chooses among its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bonding {
    /// One port carries everything, until it loses its carrier (`active-backup`).
    ActiveBackup,
    /// The ports take turns, packet by packet (`balance-rr`).
    BalanceRoundRobin,
}

impl Node {
    /// Adds a device that discards everything sent to it (`ip link add DEVICE type dummy`).
    ///
    /// # Errors
    ///
    /// [`Error::KernelLacks`] if the kernel has no such devices; [`Error::System`] for a name that is taken or too
    /// long (15 bytes).
    pub fn dummy(&self, device: &str) -> Result<()> {
        self.add_link(device, InfoKind::Dummy, None, None)?;
        self.set_up(device, true)
    }

    /// Adds a VLAN device to another device (`ip link add DEVICE link PARENT type vlan id ID`). Returns when it is
    /// usable.
    ///
    /// # Errors
    ///
    /// As for [`Node::dummy`], and [`Error::System`] if there is no such parent, or no carrier came within 5 s.
    pub fn vlan(&self, device: &str, parent: &str, id: u16) -> Result<()> {
        self.add_link(device, InfoKind::Vlan, Some(parent), Some(InfoData::Vlan(vec![InfoVlan::Id(id)])))?;
        self.set_up(device, true)?;
        link::wait_until_usable(self, device)
    }

    /// Adds a macvlan, in bridge mode, to another device (`ip link add DEVICE link LOWER type macvlan mode bridge`).
    /// Returns when it is usable.
    ///
    /// # Errors
    ///
    /// As for [`Node::vlan`].
    pub fn macvlan(&self, device: &str, lower: &str) -> Result<()> {
        let mode = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        self.add_link(device, InfoKind::MacVlan, Some(lower), Some(mode))?;
        self.set_up(device, true)?;
        link::wait_until_usable(self, device)
    }

    /// Adds a bridge of this node's own devices, without spanning tree (`ip link add DEVICE type bridge`). Addresses
    /// belong on the bridge. Returns when it is usable. A LAN between nodes is [`crate::Lab::bridge`].
    ///
    /// # Errors
    ///
    /// As for [`Node::dummy`], and [`Error::System`] if there is no such port, or no carrier came within 5 s.
    pub fn bridge(&self, device: &str, ports: &[&str]) -> Result<()> {
        let snooping = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        self.add_link(device, InfoKind::Bridge, None, Some(snooping))?;
        for port in ports {
            self.enslave(port, device)?;
            self.set_up(port, true)?;
        }
        self.set_up(device, true)?;
        link::wait_until_usable(self, device)
    }

    /// Adds a bond of this node's own devices (`ip link add DEVICE type bond mode MODE`). This sets the ports down, so they
    /// lose their routes and IPv6 addresses; addresses belong on the bond. Returns when it is usable. The bond checks the
    /// carriers of its ports every ten milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`Node::bridge`].
    pub fn bond(&self, device: &str, bonding: Bonding, ports: &[&str]) -> Result<()> {
        let mode = match bonding {
            Bonding::ActiveBackup => BondMode::ActiveBackup,
            Bonding::BalanceRoundRobin => BondMode::BalanceRr,
        };
        let data = InfoData::Bond(vec![InfoBond::Mode(mode), InfoBond::MiiMon(10)]);
        self.add_link(device, InfoKind::Bond, None, Some(data))?;
        for port in ports {
            // A bond does not accept a port that is up.
            self.set_up(port, false)?;
            self.enslave(port, device)?;
        }
        self.set_up(device, true)?;
        link::wait_until_usable(self, device)
    }

    /// Adds a VRF of this node's own devices (`ip link add DEVICE type vrf table TABLE`). The table routes what comes in by
    /// the ports, and what sockets bound to `device` send. This sets the ports down and up, so they lose their IPv6
    /// addresses. Returns when the ports are usable.
    ///
    /// # Errors
    ///
    /// As for [`Node::bridge`].
    pub fn vrf(&self, device: &str, table: u32, ports: &[&str]) -> Result<()> {
        let data = InfoData::Vrf(vec![InfoVrf::TableId(table)]);
        self.add_link(device, InfoKind::Vrf, None, Some(data))?;
        self.set_up(device, true)?;
        for port in ports {
            self.enslave(port, device)?;
            link::wait_until_usable(self, port)?;
        }
        Ok(())
    }

    /// Adds a tunnel of IPv4 in IPv4 (`ip link add DEVICE type ipip local LOCAL remote REMOTE`). Its packets have
    /// no Ethernet header.
    ///
    /// # Errors
    ///
    /// As for [`Node::dummy`].
    pub fn ipip(&self, device: &str, local: Ipv4Addr, remote: Ipv4Addr) -> Result<()> {
        let ends = vec![
            InfoIpTunnel::Local(local.into()),
            InfoIpTunnel::Remote(remote.into()),
            // By default the outer packet copies the inner packet's TTL, and a neighbour's may be 1.
            InfoIpTunnel::Ttl(64),
            InfoIpTunnel::PMtuDisc(true),
        ];
        self.add_link(device, InfoKind::IpIp, None, Some(InfoData::IpTunnel(ends)))?;
        self.set_up(device, true)
    }

    /// Adds a tunnel of IPv4 and IPv6 in IPv4 (`ip link add DEVICE type gre local LOCAL remote REMOTE`). Its
    /// packets have no Ethernet header.
    ///
    /// # Errors
    ///
    /// As for [`Node::dummy`].
    pub fn gre(&self, device: &str, local: Ipv4Addr, remote: Ipv4Addr) -> Result<()> {
        let ends = vec![
            InfoGre::Local(local),
            InfoGre::Remote(remote),
            InfoGre::Ttl(64),
            InfoGre::PathMTUDiscovery(true),
        ];
        self.add_link(device, InfoKind::GreTun, None, Some(InfoData::GreTun(ends)))?;
        self.set_up(device, true)
    }

    /// Moves a device to another node (`ip link set DEVICE netns NODE`). The kernel sets it down and removes its addresses
    /// and routes.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device, the other node has one of its name, or it cannot be moved.
    pub fn move_link(&self, device: &str, to: &Node) -> Result<()> {
        let namespace = to.namespace().raw_fd();
        self.set_link(device, "moving to another node", |link| {
            link.attributes.push(LinkAttribute::NetNsFd(namespace));
        })
    }

    /// Adds a device that is down. `lower` is the device below it.
    pub(crate) fn add_link(
        &self,
        device: &str,
        kind: InfoKind,
        lower: Option<&str>,
        data: Option<InfoData>,
    ) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(device.to_owned()));
        if let Some(lower) = lower {
            link.attributes.push(LinkAttribute::Link(self.ifindex(lower)?));
        }
        let name = kind.to_string();
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        link.attributes.push(LinkAttribute::LinkInfo(info));
        match self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            // "Unknown device type" (rtnl_newlink, net/core/rtnetlink.c).
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(Error::KernelLacks { kind: name })
            }
            result => result.doing(|| format!("making {name} device {device} on {}", self.name())),
        }
    }

    fn enslave(&self, port: &str, device: &str) -> Result<()> {
        let controller = self.ifindex(device)?;
        self.set_link(port, &format!("adding to {device}:"), |link| {
            link.attributes.push(LinkAttribute::Controller(controller));
        })
    }
}
