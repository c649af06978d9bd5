//! A LAN: a bridge in a namespace of its own.

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        RouteNetlinkMessage,
        link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};

use crate::{
    Node,
    error::{Doing, Result},
    link,
};

const BRIDGE: &str = "bridge";

/// A LAN that nodes are plugged into. It forwards at once (no spanning tree), floods multicast (no snooping), and
/// sends nothing of its own (no IPv6).
#[derive(Debug, Clone)]
pub struct Bridge(Node);

impl Bridge {
    pub(crate) fn new(node: Node) -> Result<Self> {
        for device in ["all", "default"] {
            node.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1")?;
        }
        let mut bridge = LinkMessage::default();
        bridge.attributes.push(LinkAttribute::IfName(BRIDGE.to_owned()));
        bridge.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]));
        node.change(RouteNetlinkMessage::NewLink(bridge), NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("making a bridge on {}", node.name()))?;
        node.set_up(BRIDGE, true)?;
        Ok(Self(node))
    }

    /// Joins a node to the LAN: creates `device` in `node`, up. When the device has a carrier and a usable IPv6
    /// link-local address, returns the name of the port at the bridge's side.
    ///
    /// # Errors
    ///
    /// As for [`crate::Lab::link`].
    pub fn plug(&self, node: &Node, device: &str) -> Result<String> {
        let port = format!("port{}", self.ports()?);
        link::add_veth((&self.0, &port), (node, device))?;
        let bridge = self.0.ifindex(BRIDGE)?;
        self.0.set_link(&port, "adding to the bridge", |link| {
            link.attributes.push(LinkAttribute::Controller(bridge));
        })?;
        self.0.set_up(&port, true)?;
        node.set_up(device, true)?;
        link::wait_until_usable(&self.0, &port)?;
        link::wait_until_usable(node, device)?;
        Ok(port)
    }

    /// The bridge's own namespace, to switch a port off, capture on it, or read its counters.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.0
    }

    /// How many ports there have been so far, by the devices' indices: lo and the bridge come first.
    fn ports(&self) -> Result<usize> {
        let links = self
            .0
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .doing(|| format!("listing the ports of {}", self.0.name()))?;
        let highest = links.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index as usize),
            _ => None,
        });
        Ok(highest.max().unwrap_or_default())
    }
}
