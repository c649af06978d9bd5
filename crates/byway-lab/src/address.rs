//! Addresses of devices (RTM_NEWADDR; rtnetlink(7)).

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
};

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::LinkFlags,
    },
};
use ipnet::IpNet;

use crate::{
    Node,
    error::{Doing, Error, Result},
    link::USABLE_WITHIN,
    wait::wait_until,
};

impl Node {
    /// Gives a device an address with the length of its network's prefix, such as `10.1.0.2/24` or `2001:db8::2/64`.
    /// There is no duplicate address detection: when this returns, the node sends from the address, and neighbours find it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is no such device or it has the address.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        let message = self.address_message(device, address)?;
        let added = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V6(address)) => Some(*address),
            _ => None,
        });
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("adding {address} to {device} on {}", self.name()))?;
        added.map_or(Ok(()), |address| self.wait_until_found(device, address))
    }

    /// Waits until neighbours can ask for an IPv6 address. The kernel joins the group that they ask in after it has answered
    /// RTM_NEWADDR, and takes the lock of all namespaces for it (`addrconf_dad_work`, net/ipv6/addrconf.c). Until then it
    /// does not hear them, and after three seconds they give up.
    fn wait_until_found(&self, device: &str, address: Ipv6Addr) -> Result<()> {
        let link = self.get_link(device)?;
        let asked = !link.header.flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
        if !(asked && link.header.flags.contains(LinkFlags::Up)) {
            return Ok(());
        }
        let group = solicited_node(address).octets().map(|byte| format!("{byte:02x}")).concat();
        let doing = || format!("joining the group in which neighbours ask for {address} on {}", self.name());
        let mut outcome = Ok(false);
        let joined = wait_until(USABLE_WITHIN, || {
            outcome = self.run(|| fs::read_to_string("/proc/thread-self/net/igmp6")).map(|groups| {
                groups.lines().any(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    fields.next() == Some(device) && fields.next() == Some(&group)
                })
            });
            !matches!(outcome, Ok(false))
        });
        outcome.doing(doing)?;
        if joined { Ok(()) } else { Err(io::Error::from(io::ErrorKind::TimedOut)).doing(doing) }
    }

    /// Removes an address from a device, written as for [`Node::address`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if the device does not have the address.
    pub fn delete_address(&self, device: &str, address: &str) -> Result<()> {
        let message = RouteNetlinkMessage::DelAddress(self.address_message(device, address)?);
        self.change(message, 0).doing(|| format!("removing {address} from {device} on {}", self.name()))
    }

    fn address_message(&self, device: &str, text: &str) -> Result<AddressMessage> {
        let network: IpNet =
            text.parse().map_err(|_| Error::invalid(text, "an address with a prefix length"))?;
        let mut message = AddressMessage::default();
        message.header.family = family(network.addr());
        message.header.prefix_len = network.prefix_len();
        message.header.index = self.ifindex(device)?;
        message.attributes.push(AddressAttribute::Local(network.addr()));
        message.attributes.push(AddressAttribute::Address(network.addr()));
        if network.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        Ok(message)
    }
}

/// The group in which neighbours ask for an address (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The address family's number for a message's header.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
