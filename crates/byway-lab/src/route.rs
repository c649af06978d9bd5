//! Routes, written as for ip-route(8) (RTM_NEWROUTE; rtnetlink(7)).

use std::net::IpAddr;

use byway_netlink::{
    NLM_F_CREATE, NLM_F_EXCL,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol,
            RouteScope, RouteType, RouteVia,
        },
    },
};
use ipnet::IpNet;

use crate::{
    Node,
    address::family,
    error::{Doing, Error, Result},
};

/// `RT_TABLE_LOCAL` (linux/rtnetlink.h).
const TABLE_LOCAL: u32 = 255;

const EXPECTED: &str = "[-4|-6] [local|blackhole|unreachable|prohibit|throw] PREFIX|default [via ADDRESS] [dev DEVICE] \
                        [src ADDRESS] [table NUMBER] [metric NUMBER] [scope link|host|global] [onlink] \
                        [proto dhcp|ra|static] \
                        [nexthop via ADDRESS dev DEVICE [weight NUMBER]]...";

impl Node {
    /// Adds a route, in the words of ip-route(8):
    ///
    /// ```text
    /// [-4|-6] [local|blackhole|unreachable|prohibit|throw] PREFIX|default [via ADDRESS] [dev DEVICE]
    ///         [src ADDRESS] [table NUMBER] [metric NUMBER] [scope link|host|global] [onlink]
    ///         [proto dhcp|ra|static]
    ///         [nexthop via ADDRESS dev DEVICE [weight NUMBER]]...
    /// ```
    ///
    /// The table is `main`, for a `local` route `local`. The family is that of `-4` or `-6`, else of the prefix, else of the gateway, else IPv4: `-6 default dev eth0`.
    /// An IPv4 route may have an IPv6 gateway.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is no such device, the gateway cannot be
    /// reached, or there is such a route.
    pub fn route(&self, route: &str) -> Result<()> {
        let mut message = self.route_message(route)?;
        if message.header.protocol == RouteProtocol::Unspec {
            message.header.protocol = RouteProtocol::Boot;
        }
        if message.header.kind == RouteType::Unspec {
            message.header.kind = RouteType::Unicast;
        }
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
            .doing(|| format!("adding route `{route}` on {}", self.name()))
    }

    /// Removes the first route that fits what is given, written as for [`Node::route`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for any other text; [`Error::System`] if there is no such device or route.
    pub fn delete_route(&self, route: &str) -> Result<()> {
        let mut message = self.route_message(route)?;
        if !route.split_whitespace().any(|word| word == "scope") {
            // For the kernel this means any scope (fib_table_delete, net/ipv4/fib_trie.c).
            message.header.scope = RouteScope::NoWhere;
        }
        self.change(RouteNetlinkMessage::DelRoute(message), 0)
            .doing(|| format!("removing route `{route}` on {}", self.name()))
    }

    fn route_message(&self, text: &str) -> Result<RouteMessage> {
        let route = Route::parse(text).ok_or_else(|| Error::invalid(text, EXPECTED))?;
        let oif = route.device.map(|device| self.ifindex(device)).transpose()?;
        let mut message = route.message(oif);
        let mut hops = Vec::new();
        for (gateway, device, weight) in &route.next_hops {
            let mut hop = RouteNextHop::default();
            hop.interface_index = self.ifindex(device)?;
            hop.hops = weight - 1;
            hop.attributes.push(RouteAttribute::Gateway((*gateway).into()));
            hops.push(hop);
        }
        if !hops.is_empty() {
            message.header.scope = RouteScope::Universe;
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
        Ok(message)
    }

    /// Returns where the kernel would send a packet now (`ip route get DESTINATION from SOURCE`): the gateway, if there is one,
    /// and the device's index. The source has to be an address of this node.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no route, or one that refuses.
    pub fn route_of(&self, source: IpAddr, destination: IpAddr) -> Result<(Option<IpAddr>, u32)> {
        let mut request = RouteMessage::default();
        let length = if destination.is_ipv4() { 32 } else { 128 };
        request.header.address_family = family(destination);
        request.header.source_prefix_length = length;
        request.header.destination_prefix_length = length;
        request.attributes =
            vec![RouteAttribute::Source(source.into()), RouteAttribute::Destination(destination.into())];
        let answer = self
            .get(RouteNetlinkMessage::GetRoute(request))
            .doing(|| format!("looking up the route from {source} to {destination} on {}", self.name()))?;
        let (mut gateway, mut device) = (None, 0);
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(v4.into()),
                    RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(v6.into()),
                    RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(v6.into()),
                    RouteAttribute::Oif(index) => device = index,
                    _ => {}
                }
            }
        }
        Ok((gateway, device))
    }
}

/// A route as written.
#[derive(Default)]
struct Route<'a> {
    family: Option<AddressFamily>,
    kind: RouteType,
    /// `None`: the default route.
    prefix: Option<IpNet>,
    gateway: Option<IpAddr>,
    device: Option<&'a str>,
    source: Option<IpAddr>,
    table: Option<u32>,
    metric: Option<u32>,
    scope: Option<RouteScope>,
    protocol: Option<RouteProtocol>,
    onlink: bool,
    /// With their weights.
    next_hops: Vec<(IpAddr, &'a str, u8)>,
}

impl<'a> Route<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut route = Self { kind: RouteType::Unspec, ..Self::default() };
        let mut words = text.split_whitespace();
        let prefix = loop {
            match words.next()? {
                "-4" => route.family = Some(AddressFamily::Inet),
                "-6" => route.family = Some(AddressFamily::Inet6),
                "local" => route.kind = RouteType::Local,
                "blackhole" => route.kind = RouteType::BlackHole,
                "unreachable" => route.kind = RouteType::Unreachable,
                "prohibit" => route.kind = RouteType::Prohibit,
                "throw" => route.kind = RouteType::Throw,
                prefix => break prefix,
            }
        };
        if prefix != "default" {
            route.prefix = Some(parse_prefix(prefix)?);
        }
        while let Some(word) = words.next() {
            match word {
                "nexthop" => route.next_hops.push((IpAddr::from([0; 4]), "", 1)),
                "via" if !route.next_hops.is_empty() => {
                    route.next_hops.last_mut()?.0 = words.next()?.parse().ok()?;
                }
                "dev" if !route.next_hops.is_empty() => route.next_hops.last_mut()?.1 = words.next()?,
                "weight" => {
                    route.next_hops.last_mut()?.2 =
                        words.next()?.parse().ok().filter(|weight| *weight > 0)?;
                }
                "via" => route.gateway = Some(words.next()?.parse().ok()?),
                "dev" => route.device = Some(words.next()?),
                "src" => route.source = Some(words.next()?.parse().ok()?),
                "table" => route.table = Some(parse_table(words.next()?)?),
                "metric" => route.metric = Some(words.next()?.parse().ok()?),
                "scope" => route.scope = Some(parse_scope(words.next()?)?),
                "proto" => route.protocol = Some(parse_protocol(words.next()?)?),
                "onlink" => route.onlink = true,
                _ => return None,
            }
        }
        Some(route)
    }

    fn message(&self, oif: Option<u32>) -> RouteMessage {
        let known = self.prefix.map(|prefix| prefix.addr()).or(self.gateway).or(self.source);
        let family_number = self.family.or(known.map(family)).unwrap_or(AddressFamily::Inet);
        let mut message = RouteMessage::default();
        message.header.address_family = family_number;
        message.header.kind = self.kind;
        message.header.protocol = self.protocol.unwrap_or(RouteProtocol::Unspec);
        message.header.scope = self.scope.unwrap_or_else(|| self.default_scope(family_number));
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let mut add = |attribute| message.attributes.push(attribute);
        let prefix_length = self.prefix.map_or(0, |prefix| prefix.prefix_len());
        if let Some(prefix) = self.prefix {
            add(RouteAttribute::Destination(prefix.network().into()));
        }
        match self.gateway {
            Some(IpAddr::V6(gateway)) if family_number == AddressFamily::Inet => {
                add(RouteAttribute::Via(RouteVia::Inet6(gateway)));
            }
            Some(gateway) => add(RouteAttribute::Gateway(gateway.into())),
            None => {}
        }
        self.source.into_iter().for_each(|source| add(RouteAttribute::PrefSource(source.into())));
        self.metric.into_iter().for_each(|metric| add(RouteAttribute::Priority(metric)));
        oif.into_iter().for_each(|oif| add(RouteAttribute::Oif(oif)));
        let usual =
            if self.kind == RouteType::Local { TABLE_LOCAL } else { RouteHeader::RT_TABLE_MAIN.into() };
        add(RouteAttribute::Table(self.table.unwrap_or(usual)));
        message.header.destination_prefix_length = prefix_length;
        message
    }

    /// What iproute2 fills in (ip/iproute.c, `iproute_modify`). IPv6 has no scopes.
    fn default_scope(&self, family: AddressFamily) -> RouteScope {
        match self.kind {
            _ if family != AddressFamily::Inet => RouteScope::Universe,
            RouteType::Local => RouteScope::Host,
            RouteType::Unspec if self.gateway.is_none() => RouteScope::Link,
            _ => RouteScope::Universe,
        }
    }
}

/// A prefix, or a single address.
pub(crate) fn parse_prefix(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A table's number, or one of the names that always exist (`/etc/iproute2/rt_tables`).
pub(crate) fn parse_table(text: &str) -> Option<u32> {
    match text {
        "local" => Some(TABLE_LOCAL),
        "main" => Some(RouteHeader::RT_TABLE_MAIN.into()),
        "default" => Some(253),
        number => number.parse().ok(),
    }
}

fn parse_protocol(text: &str) -> Option<RouteProtocol> {
    match text {
        "dhcp" => Some(RouteProtocol::Dhcp),
        "ra" => Some(RouteProtocol::Ra),
        "static" => Some(RouteProtocol::Static),
        _ => None,
    }
}

fn parse_scope(text: &str) -> Option<RouteScope> {
    match text {
        "global" => Some(RouteScope::Universe),
        "link" => Some(RouteScope::Link),
        "host" => Some(RouteScope::Host),
        _ => None,
    }
}
