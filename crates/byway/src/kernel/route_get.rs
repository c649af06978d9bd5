//! The kernel's own look-up of the route that a packet takes without Byway (`RTM_GETROUTE`, rtnetlink(7)).

use std::{collections::BTreeMap, fs, net::IpAddr};

use byway_netlink::packet::{
    RouteNetlinkMessage,
    neighbour::NeighbourState,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::network::{Network, family, route_devices};
use crate::{
    error::{Error, Result},
    model::{Device, FlowSpec, Protocol},
    policy::{
        snapshot::{Found, Link, Local},
        state::Neighbour,
    },
};

/// The protocols that the kernel takes in such a request (`rtm_getroute_parse_ip_proto`, net/ipv4/fib_frontend.c).
const TAKEN: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

/// Where the routing tables send a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Routed {
    /// Out of a device.
    Leaves {
        device: Device,
        gateway: Option<IpAddr>,
        /// The destination is a broadcast address of a network of that device.
        is_broadcast: bool,
        /// The kernel knows the link-layer address to send it to, or has not asked for it.
        is_resolvable: bool,
    },
    /// To this host itself.
    Local,
    /// Nowhere: there is no route, or one that refuses (`unreachable`, `prohibit`, `blackhole`).
    NoRoute,
    /// No packet of this host has this source.
    SourceNotLocal,
    /// The kernel does not forward it from this device.
    NotForwarded,
}

/// Returns the device that the packets of a flow come in by, if it names one.
pub(crate) fn incoming(flow: &FlowSpec, links: &BTreeMap<u32, Link>) -> Result<Option<u32>> {
    let Some(name) = &flow.incoming else { return Ok(None) };
    let link = links.values().find(|link| link.is_called(name));
    Ok(Some(link.ok_or_else(|| Error::NoSuchDevice(name.clone()))?.device.index))
}

impl Network {
    /// Looks up where the routing tables send a packet to this destination, which comes in by a device or from this host.
    pub(crate) fn route_of(
        &mut self,
        flow: &FlowSpec,
        destination: IpAddr,
        links: &BTreeMap<u32, Link>,
    ) -> Result<Routed> {
        let incoming = incoming(flow, links)?;
        // Of other packets the kernel says the same for IPv4, and answers for IPv6 as if the source were this host's.
        if incoming.is_none() && self.look_up(flow.source)? != Found::Local(Local::Address) {
            return Ok(Routed::SourceNotLocal);
        }
        let route =
            match self.netlink().get(RouteNetlinkMessage::GetRoute(request(flow, destination, incoming))) {
                Ok(RouteNetlinkMessage::NewRoute(route)) => route,
                Ok(_) => return Ok(Routed::NoRoute),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENETUNREACH | libc::EACCES) => return Ok(Routed::NoRoute),
                    // Not forwarding, an odd source or strict `rp_filter`: kernels do not tell them apart in the same way.
                    Some(libc::EHOSTUNREACH | libc::EINVAL | libc::EXDEV) if incoming.is_some() => {
                        return Ok(Routed::NotForwarded);
                    }
                    Some(libc::EHOSTUNREACH | libc::EINVAL) => return Ok(Routed::NoRoute),
                    _ => return Err(Error::kernel(format!("look up the route to {destination}"), error)),
                },
            };
        match route.header.kind {
            RouteType::Local => return Ok(Routed::Local),
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
                return Ok(Routed::NoRoute);
            }
            _ => {}
        }
        if incoming.is_some() && destination.is_ipv6() && !forwards_ipv6() {
            return Ok(Routed::NotForwarded);
        }
        let Some(link) = route_devices(&route).first().and_then(|index| links.get(index)) else {
            return Ok(Routed::NoRoute);
        };
        let (device, gateway) = (link.device.clone(), gateway(&route));
        let neighbour = Neighbour { device: device.clone(), gateway: gateway.unwrap_or(destination) };
        Ok(Routed::Leaves {
            is_broadcast: route.header.kind == RouteType::Broadcast,
            is_resolvable: !link.has_neighbours || self.is_resolvable(&neighbour)?,
            device,
            gateway,
        })
    }

    /// Whether the kernel knows a neighbour's link-layer address, or has not asked for it in vain.
    fn is_resolvable(&mut self, neighbour: &Neighbour) -> Result<bool> {
        let state = self.neighbour(neighbour)?.map(|message| message.header.state);
        Ok(!matches!(state, Some(NeighbourState::Failed | NeighbourState::Incomplete)))
    }
}

fn request(flow: &FlowSpec, destination: IpAddr, incoming: Option<u32>) -> RouteMessage {
    let length = if flow.source.is_ipv4() { 32 } else { 128 };
    let mut request = RouteMessage::default();
    request.header.address_family = family(flow.source);
    (request.header.source_prefix_length, request.header.destination_prefix_length) = (length, length);
    request.attributes.push(RouteAttribute::Source(flow.source.into()));
    request.attributes.push(RouteAttribute::Destination(destination.into()));
    request.attributes.extend(incoming.map(RouteAttribute::Iif));
    if let Some(protocol) = flow.protocol.filter(|protocol| TAKEN.contains(protocol)) {
        request.attributes.push(RouteAttribute::IpProto(protocol.number()));
        request.attributes.extend(flow.source_port.map(RouteAttribute::Sport));
        request.attributes.extend(flow.destination_port.map(RouteAttribute::Dport));
    }
    request
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
            Some(IpAddr::V4(*v4))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some(IpAddr::V6(*v6))
        }
        _ => None,
    })
}

/// Whether this network namespace forwards IPv6 at all (`ip6_forward`, net/ipv6/ip6_output.c): the look-up does not ask.
fn forwards_ipv6() -> bool {
    let setting = fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap_or_default();
    !matches!(setting.trim(), "" | "0")
}
