//! Addresses of devices (RTM_NEWADDR; rtnetlink(7)).

use std::net::IpAddr;

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
    },
};
use ipnet::IpNet;

use crate::{
    Node,
    error::{Doing, Error, Result},
};

impl Node {
    /// Gives a device an address with the length of its network's prefix, such as `10.1.0.2/24` or `2001:db8::2/64`.
    /// An IPv6 address is usable at once: no duplicate address detection.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is no such device or it has the address.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        let message = RouteNetlinkMessage::NewAddress(self.address_message(device, address)?);
        self.change(message, NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("adding {address} to {device} on {}", self.name()))
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

/// The address family's number for a message's header.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
