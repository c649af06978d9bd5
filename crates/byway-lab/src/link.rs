//! Devices: veth pairs, state and counters (RTM_NEWLINK, RTM_SETLINK, RTM_GETLINK; rtnetlink(7)).

use std::{io, time::Duration};

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
        link::{
            InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State, Stats64,
        },
    },
};

use crate::{
    Node,
    attribute::Attribute,
    error::{Doing, Error, Result},
    wait::wait_until,
};

/// linux/if_link.h
const IFLA_IFALIAS: u16 = 20;

/// How long a carrier and an IPv6 link-local address may take. To add the address, the kernel takes the lock that all network
/// namespaces share (`rtnl_lock` in `addrconf_dad_work`, net/ipv6/addrconf.c). So it waits for every device that other tests
/// add or remove: on an overloaded machine, for more than five seconds.
pub(crate) const USABLE_WITHIN: Duration = Duration::from_secs(20);

/// What a device has counted since it was made, in packets and bytes (`struct rtnl_link_stats64`, linux/if_link.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct LinkCounters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

impl From<&Stats64> for LinkCounters {
    fn from(stats: &Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_dropped: stats.rx_dropped,
            tx_dropped: stats.tx_dropped,
        }
    }
}

impl Node {
    /// A device's interface index in this node.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        self.get_link(device).map(|link| link.header.index)
    }

    /// A device's Ethernet address.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device, or it has no Ethernet address.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let mac = self.get_link(device)?.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes).ok(),
            _ => None,
        });
        mac.ok_or_else(|| io::Error::other("it has none"))
            .doing(|| format!("reading the Ethernet address of {device} on {}", self.name()))
    }

    /// A device's counters.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn counters(&self, device: &str) -> Result<LinkCounters> {
        let link = self.get_link(device)?;
        let counters = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats.into()),
            _ => None,
        });
        counters
            .ok_or_else(|| io::Error::other("the kernel gives none"))
            .doing(|| format!("reading the counters of {device} on {}", self.name()))
    }

    /// Sets a device up or down (`ip link set DEVICE up|down`).
    ///
    /// Up: it does not wait for the carrier, which also depends on the other end. Down: the other end of a veth loses its
    /// carrier, and the kernel removes the device's routes and IPv6 addresses, which do not come back with it.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn set_up(&self, device: &str, up: bool) -> Result<()> {
        self.set_link(device, if up { "switching on" } else { "switching off" }, |link| {
            link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            link.header.change_mask = LinkFlags::Up;
        })
    }

    /// Renames a device, even while it is up (from Linux 6.2; before that it has to be down).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device, or the name is taken or too long (15 bytes).
    pub fn rename_link(&self, device: &str, name: &str) -> Result<()> {
        self.set_link(device, "renaming", |link| link.attributes.push(LinkAttribute::IfName(name.to_owned())))
    }

    /// Sets a device's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device or it does not take this MTU.
    pub fn set_mtu(&self, device: &str, mtu: u32) -> Result<()> {
        self.set_link(device, "setting the MTU of", |link| link.attributes.push(LinkAttribute::Mtu(mtu)))
    }

    /// Gives a device another Ethernet address, as a new card has one. With `arp_notify` and `ndisc_notify` the kernel tells all
    /// neighbours at once (ip-sysctl.rst).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device or it does not take the address.
    pub fn set_mac(&self, device: &str, mac: [u8; 6]) -> Result<()> {
        self.set_link(device, "setting the address of", |link| {
            link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        })
    }

    /// Sets the largest segmentation-offload packet that a device takes, and makes when it receives ("BIG TCP", Linux 5.19).
    /// Returns whether this includes IPv4 (Linux 6.3): an older kernel ignores that part.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device, or the kernel or the device takes no packets of this size.
    pub fn set_gso_max_size(&self, device: &str, bytes: u32) -> Result<bool> {
        self.set_link(device, "setting the largest offloaded packet of", |link| {
            link.attributes.extend([
                LinkAttribute::GsoMaxSize(bytes),
                LinkAttribute::GroMaxSize(bytes),
                LinkAttribute::GsoIpv4MaxSize(bytes),
                LinkAttribute::GroIpv4MaxSize(bytes),
            ]);
        })?;
        Ok(self.get_link(device)?.attributes.contains(&LinkAttribute::GsoIpv4MaxSize(bytes)))
    }

    /// Sets a device's alias, which the kernel takes as it comes: it need not be text.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device, or the alias is too long (255 bytes).
    pub fn set_alias(&self, device: &str, alias: &[u8]) -> Result<()> {
        let alias = [alias, b"\0"].concat();
        self.set_link(device, "setting the alias of", |link| {
            link.attributes.push(LinkAttribute::Other(Attribute::new(IFLA_IFALIAS, alias)));
        })
    }

    /// Removes a device, and the other end of a veth.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn delete_link(&self, device: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.ifindex(device)?;
        self.change(RouteNetlinkMessage::DelLink(link), 0)
            .doing(|| format!("removing {device} on {}", self.name()))
    }

    pub(crate) fn set_link(
        &self,
        device: &str,
        what: &str,
        set: impl FnOnce(&mut LinkMessage),
    ) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.ifindex(device)?;
        set(&mut link);
        self.change(RouteNetlinkMessage::SetLink(link), 0)
            .doing(|| format!("{what} {device} on {}", self.name()))
    }

    pub(crate) fn get_link(&self, device: &str) -> Result<LinkMessage> {
        let doing = || format!("looking {device} up on {}", self.name());
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(device.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(link)).doing(doing)? {
            RouteNetlinkMessage::NewLink(link) => Ok(link),
            other => Err(Error::unexpected(doing(), &other)),
        }
    }
}

/// Makes a veth pair with one end in each node, both down.
pub(crate) fn add_veth((a, a_device): (&Node, &str), (b, b_device): (&Node, &str)) -> Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(b_device.to_owned()));
    peer.attributes.push(LinkAttribute::NetNsFd(b.namespace().raw_fd()));
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(a_device.to_owned()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    a.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
        .doing(|| format!("linking {a_device} on {} to {b_device} on {}", a.name(), b.name()))
}

/// Waits until a device has a carrier and, where it has IPv6, a link-local address: before that, packets are lost
/// silently.
pub(crate) fn wait_until_usable(node: &Node, device: &str) -> Result<()> {
    wait_for(node, device, "carrier", || is_operational(node, device))?;
    if node.read_sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"))? == "1" {
        return Ok(());
    }
    wait_for(node, device, "IPv6 link-local address", || has_link_local(node, device))
}

fn wait_for(node: &Node, device: &str, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let mut outcome = Ok(false);
    let _ = wait_until(USABLE_WITHIN, || {
        outcome = condition();
        !matches!(outcome, Ok(false))
    });
    if outcome? {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::TimedOut))
        .doing(|| format!("waiting for the {what} of {device} on {}", node.name()))
}

fn is_operational(node: &Node, device: &str) -> Result<bool> {
    let link = node.get_link(device)?;
    Ok(link.attributes.contains(&LinkAttribute::OperState(State::Up)))
}

fn has_link_local(node: &Node, device: &str) -> Result<bool> {
    let mut request = AddressMessage::default();
    request.header.family = byway_netlink::packet::AddressFamily::Inet6;
    request.header.index = node.ifindex(device)?;
    let addresses = node
        .dump(RouteNetlinkMessage::GetAddress(request))
        .doing(|| format!("listing the addresses of {device} on {}", node.name()))?;
    Ok(addresses.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => {
            let tentative = address.header.flags.contains(AddressHeaderFlags::Tentative)
                || address.attributes.iter().any(|attribute| {
                    matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative))
                });
            address.header.scope == AddressScope::Link && !tentative
        }
        _ => false,
    }))
}
