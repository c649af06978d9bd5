//! Neighbour entries: ARP and IPv6 neighbour discovery (RTM_NEWNEIGH, RTM_GETNEIGH; rtnetlink(7)).

use std::{io, net::IpAddr};

pub use byway_netlink::packet::neighbour::NeighbourState;
use byway_netlink::{
    NLM_F_CREATE, NLM_F_REPLACE,
    packet::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage},
    },
};

use crate::{
    Node,
    address::family,
    error::{Doing, Error, Result},
};

/// What a node knows of a neighbour (ip-neighbour(8)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address, once it is known.
    pub lladdr: Option<[u8; 6]>,
    /// Its state (`NUD_*`, linux/neighbour.h).
    pub state: NeighbourState,
    /// Whether the kernel keeps it resolved by itself (`NTF_EXT_MANAGED`, Linux 5.16).
    pub managed: bool,
}

impl Node {
    /// The neighbour entry of `address` at a device, or `None` where the node has none.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn neighbour(&self, device: &str, address: IpAddr) -> Result<Option<Neighbour>> {
        let doing = || format!("looking neighbour {address} of {device} up on {}", self.name());
        let message = self.neighbour_message(device, address)?;
        match self.get(RouteNetlinkMessage::GetNeighbour(message)) {
            Ok(RouteNetlinkMessage::NewNeighbour(answer)) => Ok(Some(Neighbour::from(&answer))),
            Ok(other) => Err(Error::unexpected(doing(), &other)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(doing),
        }
    }

    /// Makes the node answer for an IPv6 address that it does not have (`ip -6 neigh add proxy`).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn proxy_neighbour(&self, device: &str, address: IpAddr) -> Result<()> {
        let mut message = self.neighbour_message(device, address)?;
        message.header.flags = NeighbourFlags::Proxy;
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .doing(|| format!("making {} answer for {address} on {device}", self.name()))
    }

    /// Adds or replaces a neighbour entry that never expires and is never asked about (`ip neigh replace … nud
    /// permanent`).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device.
    pub fn permanent_neighbour(&self, device: &str, address: IpAddr, lladdr: [u8; 6]) -> Result<()> {
        let mut message = self.neighbour_message(device, address)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(lladdr.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .doing(|| format!("setting neighbour {address} of {device} on {}", self.name()))
    }

    /// Removes a neighbour entry, so that the next packet has to resolve it again.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no such device or entry.
    pub fn delete_neighbour(&self, device: &str, address: IpAddr) -> Result<()> {
        let message = self.neighbour_message(device, address)?;
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0)
            .doing(|| format!("removing neighbour {address} of {device} on {}", self.name()))
    }

    fn neighbour_message(&self, device: &str, address: IpAddr) -> Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.ifindex(device)?;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        Ok(message)
    }
}

impl From<&NeighbourMessage> for Neighbour {
    fn from(message: &NeighbourMessage) -> Self {
        let mut neighbour = Self { lladdr: None, state: message.header.state, managed: false };
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    neighbour.lladdr = bytes.as_slice().try_into().ok();
                }
                NeighbourAttribute::ExtFlags(flags) => {
                    neighbour.managed = flags.contains(NeighbourExtFlags::Managed);
                }
                _ => {}
            }
        }
        neighbour
    }
}
